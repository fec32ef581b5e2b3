"""Specs: their names never change, their JSON form returns them, and a wrong key or value gets one sentence."""

import copy
import hashlib
import json
import pickle
from dataclasses import FrozenInstanceError, dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.core.errors import UserError
from bench.core.frozen import FrozenDict
from bench.core.settings import parse_spec, parse_specs_file, with_settings
from bench.core.spec import (
    DataSpec,
    ProfileSpec,
    RunSpec,
    TrainSpec,
    canonical,
)

# Names of results that exist in the world. A change here renames them: find another way.
FROZEN = {
    "ds_net-fff1b4882374": RunSpec("ds_net", "ds_mobilenet_micro"),
    "ds_net-8920406d66af": RunSpec("ds_net", "ds_mobilenet_micro", seed=2),
    "us_net-538cab51c414": RunSpec(
        "us_net",
        "ds_mobilenet_micro",
        data=DataSpec("cifar10", "holdout", 10_000),
        train=TrainSpec(epochs=3, batch_size=128, lr=0.05, warmup_epochs=0.5),
        profile=ProfileSpec(batch_sizes=(1,), rounds=5),
        options={"random_widths": 2, "ratios": [0.25, 1.0], "nested": {"b": None, "a": True}},
        seed=1,
        threads=2,
    ),
    "random_gate-5536db6682d5": RunSpec(
        "random_gate", "ds_mobilenet_micro", init_from="ds_net-0123456789ab", method_version=2, device="cuda"
    ),
}

# "As before" is what a default means: the canonical form leaves it out, so changing one changes what old names say.
DEFAULTS = {
    "method": "m",
    "model": "x",
    "data": {
        "name": "digits", "protocol": "official", "train_images": None,
        "image_size": None, "augmentation": None, "skip_corrupt": False, "strict": False,
        "folder": None,
    },
    "train": {
        "epochs": 10, "batch_size": 64, "lr": 0.1, "weight_decay": 1e-4, "momentum": 0.9,
        "warmup_epochs": 0.0, "label_smoothing": 0.1, "min_lr": 1e-5,
        "max_steps": None,
        "optimizer": "sgd", "schedule": "cosine", "decay_epochs": 30.0, "decay_rate": 0.1, "warmup_steps": None,
        "mixup": 0.0, "cutmix": 0.0, "random_erasing": None, "randaugment": None, "drop_path": 0.0,
        "clip_grad": 0.0, "accumulate": 1, "ema": 0.0, "precision": "float32", "workers": 1,
    },
    "profile": {"batch_sizes": [1, 64], "rounds": 15, "warmup": 3, "meters": ["latency"]},
    "options": {},
    "seed": 0,
    "threads": 1,
    "device": "cpu",
    "init_from": None,
    "method_version": 1,
    "weights": None,
}  # fmt: skip


@pytest.mark.parametrize(("run_id", "spec"), FROZEN.items(), ids=list(FROZEN))
def test_old_names_never_change(run_id: str, spec: RunSpec):
    assert spec.run_id == run_id


def test_the_name_is_the_hash_of_the_canonical_json():
    text = b'{"init_from":"a-1","method":"m","model":"x","options":{"a":[1,"b"]},"train":{"epochs":3,"lr":0.05}}'
    spec = RunSpec("m", "x", train=TrainSpec(epochs=3, lr=0.05), options={"a": [1.0, "b"]}, init_from="a-1")
    assert spec.run_id == f"m-{hashlib.sha256(text).hexdigest()[:12]}"


def test_defaults_never_change():
    """A new field may be added here, with the value that means "as before"; nothing else may change."""
    assert RunSpec("m", "x").to_json() == DEFAULTS


def test_every_field_is_part_of_the_name():
    base = RunSpec("m", "x")
    changed = [
        replace(base, model="y"), replace(base, seed=1), replace(base, threads=2), replace(base, device="cuda"),
        replace(base, init_from="a-1"), replace(base, method_version=2), replace(base, options={"a": 1}),
        replace(base, data=DataSpec(train_images=5)), replace(base, train=TrainSpec(lr=0.2)),
        replace(base, data=DataSpec(image_size=5)), replace(base, data=DataSpec(strict=True)),
        replace(base, profile=ProfileSpec(rounds=3)), replace(base, profile=ProfileSpec(meters=("energy",))),
    ]  # fmt: skip
    assert len({spec.run_id for spec in [base, *changed]}) == len(changed) + 1


def test_canonical_form_leaves_defaults_out_at_every_depth():
    assert canonical(RunSpec("m", "x")) == {"method": "m", "model": "x"}
    spec = RunSpec("m", "x", train=TrainSpec(epochs=3), profile=ProfileSpec(batch_sizes=(1,)))
    assert canonical(spec) == {"method": "m", "model": "x", "train": {"epochs": 3}, "profile": {"batch_sizes": [1]}}


def test_a_field_added_later_changes_no_name():
    @dataclass(frozen=True)
    class Later(TrainSpec):
        grad_clip: float | None = None
        stages: list = field(default_factory=list)

    assert RunSpec("m", "x", train=Later(epochs=3)).run_id == RunSpec("m", "x", train=TrainSpec(epochs=3)).run_id
    assert RunSpec("m", "x", train=Later(grad_clip=1.0)).run_id != RunSpec("m", "x").run_id


def test_names_do_not_depend_on_how_a_value_was_written():
    one = RunSpec("m", "x", train=TrainSpec(lr=1), options={"b": 1.0, "a": (1, 2)})
    two = RunSpec("m", "x", train=TrainSpec(lr=1.0), options={"a": [1, 2], "b": 1})
    assert one == two
    assert one.run_id == two.run_id


def test_spec_is_frozen_to_its_depth():
    given_options = {"widths": [1, 2], "deep": {"a": 1}}
    spec = RunSpec("m", "x", options=given_options)
    given_options["widths"].append(3)
    assert spec.options == {"widths": (1, 2), "deep": {"a": 1}}
    with pytest.raises(FrozenInstanceError):
        spec.seed = 3  # type: ignore[misc]
    for change in (
        lambda: spec.options.update(a=1),
        lambda: spec.options.__setitem__("a", 1),
        lambda: spec.options["deep"].pop("a"),
    ):
        with pytest.raises(TypeError, match="does not change"):
            change()
    assert isinstance(spec.options["deep"], FrozenDict)


def test_spec_can_be_copied_pickled_and_hashed():
    spec = RunSpec("m", "x", options={"a": [1, {"b": 2}]})
    for twin in (copy.deepcopy(spec), pickle.loads(pickle.dumps(spec)), replace(spec)):
        assert twin == spec
        assert hash(twin) == hash(spec)
        assert twin.run_id == spec.run_id


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
names = st.from_regex(r"[a-z0-9_]{1,12}", fullmatch=True)
specs = st.builds(
    RunSpec,
    method=names,
    model=st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.,:/@=+-]{0,11}", fullmatch=True),
    data=st.builds(DataSpec, name=names, protocol=names, train_images=st.none() | st.integers(1, 10**6)),
    train=st.builds(
        TrainSpec,
        epochs=st.integers(0, 999),
        lr=st.floats(0, 100),
        momentum=st.floats(0, 0.999),
        min_lr=st.floats(0, 1),
    ),
    profile=st.builds(ProfileSpec, batch_sizes=st.lists(st.integers(1, 512), min_size=1, max_size=4).map(tuple)),
    options=st.dictionaries(st.text(max_size=8), json_values, max_size=4),
    seed=st.integers(0, 2**63),
    threads=st.integers(1, 64),
    device=st.sampled_from(["cpu", "cuda"]),
    init_from=st.none() | names,
    method_version=st.integers(1, 9),
)


@settings(deadline=None, max_examples=50)
@given(specs)
def test_json_form_returns_the_spec(spec: RunSpec):
    twin = parse_spec(json.loads(json.dumps(spec.to_json())))
    assert twin == spec
    assert twin.run_id == spec.run_id


BASE = {"method": "m", "model": "x"}


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({}, "method is missing"),
        ({"method": "m"}, "model is missing"),
        ([], r"a spec must be an object, not \[\]"),
        (BASE | {"trian": {}}, "unknown key 'trian'; did you mean 'train'"),
        (BASE | {"train": {"epoch": 1}}, "unknown key in train 'epoch'; did you mean 'epochs'"),
        (BASE | {"data": {"dataset": "digits"}}, "unknown key in data 'dataset'"),
        (BASE | {"train": {"epochs": "3"}}, 'train.epochs must be an integer, not "3"'),
        (BASE | {"train": {"epochs": 1.5}}, "train.epochs must be an integer, not 1.5"),
        (BASE | {"train": {"epochs": -1}}, "train.epochs must be an integer, at least 0, not -1"),
        (BASE | {"train": {"batch_size": 0}}, "train.batch_size must be an integer, at least 1, not 0"),
        (BASE | {"train": {"lr": "fast"}}, 'train.lr must be a number, not "fast"'),
        (BASE | {"train": {"momentum": 1.0}}, "train.momentum must be a number, from 0 to below 1, not 1.0"),
        (BASE | {"train": 3}, "train must be an object, not 3"),
        (BASE | {"profile": {"batch_sizes": 1}}, "profile.batch_sizes must be a list, not 1"),
        (BASE | {"profile": {"batch_sizes": []}}, "profile.batch_sizes must name at least one"),
        (BASE | {"profile": {"batch_sizes": [0]}}, "profile.batch_sizes must be an integer, at least 1, not 0"),
        (BASE | {"profile": {"batch_sizes": ["1"]}}, "profile.batch_sizes.0 must be an integer"),
        (BASE | {"profile": {"meters": []}}, "profile.meters must name at least one meter, and each once"),
        (BASE | {"profile": {"meters": ["latency", "latency"]}}, "profile.meters must name .* each once"),
        (BASE | {"data": {"train_images": 0}}, "data.train_images must be an integer, at least 1"),
        (BASE | {"seed": True}, "seed must be an integer, not true"),
        (BASE | {"seed": -1}, "seed must be an integer, at least 0, not -1"),
        (BASE | {"threads": 0}, "threads must be an integer, at least 1"),
        (BASE | {"device": "tpu"}, "device must be one of cpu, cuda, not 'tpu'"),
        (BASE | {"options": 3}, "options must be an object, not 3"),
        (BASE | {"method": "../../etc"}, "method must be a name of letters"),
        (BASE | {"init_from": "../other"}, "init_from must be a name of letters"),
        (BASE | {"train": {"lr": float("nan")}}, "a spec holds JSON values only"),
        (BASE | {"options": {"f": object()}}, "a spec holds JSON values only"),
    ],
)
def test_a_wrong_spec_gets_one_sentence(raw: object, message: str):
    with pytest.raises(UserError, match=message) as caught:
        parse_spec(raw)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"a": float("inf")}, "options.a must be a JSON value"),
        ({"a": [1, {2}]}, r"options.a\[1\] must be a JSON value"),
        ({"a": {1: 2}}, "options.a has the key 1; keys are strings"),
    ],
)
def test_options_made_in_python_are_checked_too(options: dict, message: str):
    with pytest.raises(UserError, match=message):
        RunSpec("m", "x", options=options)


def test_a_spec_made_in_python_is_checked_too():
    with pytest.raises(UserError, match=r"train\.epochs must be an integer, at least 0, not '3'"):
        TrainSpec(epochs="3")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"train\.lr must be a number, at least 0, not nan"):
        TrainSpec(lr=float("nan"))


@pytest.mark.parametrize(
    ("given_settings", "changed"),
    [
        ({"train.epochs": "3"}, {"train": {"epochs": 3}}),
        ({"epochs": "3"}, {"train": {"epochs": 3}}),
        ({"epochs": 3}, {"train": {"epochs": 3}}),
        ({"lr": "1e-3", "seed": "4"}, {"train": {"lr": 0.001}, "seed": 4}),
        ({"protocol": "holdout", "train_images": "null"}, {"data": {"protocol": "holdout"}}),
        ({"data.name": "123"}, {"data": {"name": "123"}}),
        ({"method": '"us_net"'}, {"method": "us_net"}),
        ({"batch_sizes": "[1, 8]"}, {"profile": {"batch_sizes": [1, 8]}}),
        ({"meters": '["latency", "energy"]'}, {"profile": {"meters": ["latency", "energy"]}}),
        ({"warmup": "1"}, {"profile": {"warmup": 1}}),
        ({"random_widths": "3"}, {"options": {"random_widths": 3}}),
        ({"options.space": "[0, 4]"}, {"options": {"random_widths": 2, "space": [0, 4]}}),
        ({"options.note": "plain words"}, {"options": {"random_widths": 2, "note": "plain words"}}),
        ({"init_from": "ds_net-1"}, {"init_from": "ds_net-1"}),
    ],
)
def test_settings(given_settings: dict, changed: dict):
    base = RunSpec("m", "x", options={"random_widths": 2})
    assert canonical(with_settings(base, given_settings)) == canonical(base) | changed
    assert canonical(base) == {"method": "m", "model": "x", "options": {"random_widths": 2}}


@pytest.mark.parametrize(
    ("given_settings", "message"),
    [
        ({"epoch": "3"}, "unknown key 'epoch'; did you mean 'epochs'"),
        ({"random_width": "3"}, "unknown key 'random_width'; did you mean 'random_widths'"),
        ({"train.epoch": "3"}, "unknown key in train 'epoch'; did you mean 'epochs'"),
        ({"trian.epochs": "3"}, "unknown section 'trian'; did you mean 'train'"),
        ({"train": "3"}, "'train' is a whole section; set one of its keys"),
        ({"options": "{}"}, "'options' is a whole section"),
        ({"epochs": "many"}, 'train.epochs must be an integer, not "many"'),
        ({"lr": "NaN"}, 'train.lr must be a number, not "NaN"'),
        ({"batch_sizes": "1"}, "profile.batch_sizes must be a list, not 1"),
        ({"device": "tpu"}, "device must be one of cpu, cuda"),
    ],
)
def test_wrong_settings(given_settings: dict, message: str):
    with pytest.raises(UserError, match=message):
        with_settings(RunSpec("m", "x", options={"random_widths": 2}), given_settings)


def test_settings_know_the_options_of_the_method_when_told():
    spec = with_settings(RunSpec("m", "x"), {"random_widths": "3"}, options=["random_widths", "space"])
    assert spec.options == {"random_widths": 3}
    with pytest.raises(UserError, match="unknown key in options 'spaec'; did you mean 'space'"):
        with_settings(spec, {"options.spaec": "1"}, options=["random_widths", "space"])


def test_specs_file(tmp_path):
    specs = [RunSpec("m", "x", seed=seed, options={"a": [1, 2]}) for seed in range(3)]
    file = tmp_path / "specs.json"
    file.write_text(json.dumps([spec.to_json() for spec in specs]))
    assert parse_specs_file(file) == specs
    file.write_text(json.dumps(BASE))
    assert parse_specs_file(str(file)) == [RunSpec("m", "x")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[{", "is not JSON: Expecting property name"),
        ("", "is not JSON"),
        ("[]", "holds no spec"),
        (json.dumps([BASE, BASE | {"sed": 1}]), r"specs\.json, spec 2: unknown key 'sed'; did you mean 'seed'"),
        (json.dumps([BASE | {"threads": 0}]), r"specs\.json, spec 1: threads must be"),
        ('{"method": "m", "model": "x", "seed": 1, "seed": 2}', "the key 'seed' is given twice"),
    ],
)
def test_wrong_specs_file(tmp_path, text: str, message: str):
    file = tmp_path / "specs.json"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        parse_specs_file(file)


def test_specs_file_that_cannot_be_read(tmp_path):
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(UserError, match="cannot be read"):
            parse_specs_file(path)
    binary = tmp_path / "specs.json"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="is not JSON"):
        parse_specs_file(binary)
