"""A run's identity includes its data: digests are written down, and compared wherever two results meet."""

from dataclasses import replace

import pytest
from image_folders import settle, write_folders

from bench.core.errors import UserError
from bench.core.identity import SEEN_IN_TRAINING, recorded, refuse_other_data
from bench.core.spec import DataSpec, ProfileSpec, RunSpec, TrainSpec
from bench.core.store import PHASES, Store
from bench.data import load
from bench.methods import completed
from bench.runs.check import check
from bench.runs.phases import run_phase

SPEC = completed(
    RunSpec(
        "us_net",
        "us_mobilenet_micro32",
        DataSpec("imagenet", "subset", image_size=32),
        TrainSpec(epochs=2, batch_size=20, max_steps=2),
        ProfileSpec(batch_sizes=(1,), rounds=1, warmup=0),
        options={"widths": (1.0,)},
    )
)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return write_folders(tmp_path_factory.mktemp("one") / "imagenet").parent


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """As many images of equal names and classes."""
    return write_folders(tmp_path_factory.mktemp("other") / "imagenet", seed=1).parent


@pytest.fixture(scope="module")
def results(one, tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    for phase in PHASES:
        run_phase(SPEC, phase, folder, one)
    return folder


def test_a_run_says_which_data_it_has_seen(results, one):
    store, data = Store(results), load(SPEC.data, one)
    assert store.read(SPEC.run_id, "train")["results"]["digests"] == data.digests(*SEEN_IN_TRAINING)
    assert store.read(SPEC.run_id, "eval")["results"]["digests"] == data.digests("test")
    assert recorded(store, SPEC.run_id) == data.digests(*SEEN_IN_TRAINING, "test")


def test_a_finished_run_on_other_data_is_refused_before_anything_runs(results, one, other):
    check([SPEC], one, results)
    today = load(SPEC.data, other).digests("calibration")["calibration"]
    then = load(SPEC.data, one).digests("calibration")["calibration"]
    with pytest.raises(UserError) as caught:
        check([SPEC], other, results)
    assert str(caught.value) == (
        f"{SPEC.run_id} was made with other data: the digest of its calibration split is {then[:12]}, and that of the "
        f"data directory is {today[:12]}; give it the data that it had, or another results directory"
    )


def test_another_test_split_alone_is_refused(results, one, tmp_path):
    root = write_folders(tmp_path / "imagenet")
    check([SPEC], tmp_path, results)
    path = next((root / "val").glob("*/*.JPEG"))
    path.write_bytes(path.read_bytes() + b"\xff\xd9")
    settle(root)
    with pytest.raises(UserError, match="the digest of its test split is"):
        check([SPEC], tmp_path, results)


@pytest.mark.parametrize("phase", ["eval", "profile"])
def test_a_phase_on_other_data_is_refused_where_it_is_done(one, other, tmp_path, phase):
    """Workers have data directories of their own."""
    run_phase(SPEC, "train", tmp_path, one)
    with pytest.raises(UserError, match="was made with other data"):
        run_phase(SPEC, phase, tmp_path, other)
    assert not Store(tmp_path).has(SPEC.run_id, phase)
    run_phase(SPEC, phase, tmp_path, one)


def test_training_goes_on_with_the_data_that_it_began_with(one, other, tmp_path):
    class Killed(Exception):
        pass

    def kill(*_):
        raise Killed

    with pytest.raises(Killed):
        run_phase(SPEC, "train", tmp_path, one, kill)
    with pytest.raises(UserError, match="was made with other data"):
        run_phase(SPEC, "train", tmp_path, other)
    run_phase(SPEC, "train", tmp_path, one)


def test_a_child_has_the_data_of_its_parent(results, one, other):
    child = completed(replace(SPEC, init_from=SPEC.run_id))
    check([child], one, results)
    with pytest.raises(UserError, match=f"{SPEC.run_id} was made with other data"):
        check([child], other, results)
    with pytest.raises(UserError, match=f"{SPEC.run_id} was made with other data"):
        run_phase(child, "train", results, other)
    elsewhere = replace(child, data=replace(child.data, train_images=40))
    check([elsewhere], other, results)  # it says itself that its data are others


def test_results_without_digests_are_compared_with_nothing(results, one):
    refuse_other_data({}, load(SPEC.data, one).digests("train"), "old-run")
    refuse_other_data({"test": "a"}, {"train": "b"}, "old-run")
