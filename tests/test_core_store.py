"""The store: a phase file is absent or whole, damage is named and kept, and bad places are refused at once."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.core.errors import UserError
from bench.core.files import write_atomic
from bench.core.record import Record
from bench.core.spec import RunSpec
from bench.core.store import PHASES, Store, digest

SPEC = RunSpec("ds_net", "micro")
RUN = SPEC.run_id
RECORD = Record(RUN, "ds_net", "micro", "digits", "digits/official@1:test", "p", 0, "top1", 0.5, "fraction", 4)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


def test_open_run_keeps_the_spec(store: Store):
    assert store.runs() == []
    folder = store.open_run(SPEC)
    assert folder == store.open_run(SPEC) == store.root / "runs" / RUN
    assert store.runs() == [RUN]
    assert store.read_spec(RUN) == SPEC


def test_spec_of_an_older_version_is_the_same_run(store: Store):
    """A field added since is missing in the file; its default means "as before"."""
    file = store.open_run(SPEC) / "spec.json"
    raw = SPEC.to_json()
    del raw["method_version"], raw["train"]["min_lr"]
    file.write_text(json.dumps(raw))
    store.open_run(SPEC)
    assert store.read_spec(RUN) == SPEC


def test_another_spec_in_the_folder(store: Store):
    file = store.open_run(SPEC) / "spec.json"
    file.write_text(json.dumps(RunSpec("ds_net", "micro", seed=3).to_json()))
    for use in (lambda: store.open_run(SPEC), lambda: store.read_spec(RUN)):
        with pytest.raises(UserError, match=r"spec\.json is damaged: it describes"):
            use()
    file.write_text("{")
    with pytest.raises(UserError, match=r"spec\.json is damaged: not JSON"):
        store.open_run(SPEC)


def test_phase_comes_back_as_written(store: Store):
    body = {
        "records": [RECORD],
        "results": {"points": {"p": {"correct": 2, "share": 0.1 + 0.2, "widths": (1, 2), 10: 1, 9: 2}}},
        "environment": {"python": "3"},
        "timing": {"seconds": 1.5},
    }
    assert not store.has(RUN, "eval")
    store.write(RUN, "eval", body)
    assert store.has(RUN, "eval")
    read = store.read(RUN, "eval")
    assert read["records"] == [RECORD]
    assert read["results"]["points"]["p"] == {"correct": 2, "share": 0.1 + 0.2, "widths": [1, 2], "10": 1, "9": 2}
    assert (read["run_id"], read["phase"], read["timing"]) == (RUN, "eval", {"seconds": 1.5})


def test_digest_covers_results_only(store: Store):
    digests = set()
    for seconds in (1.0, 2.0):
        store.write(RUN, "eval", {"records": [RECORD], "results": {"a": 1}, "timing": {"seconds": seconds}})
        digests.add(store.read(RUN, "eval")["digest"])
    assert len(digests) == 1
    assert digests == {digest([RECORD.to_json()], {"a": 1})}
    assert digest([], {"a": 1}) not in digests


def test_what_does_not_belong_is_not_written(store: Store):
    with pytest.raises(ValueError, match="a record of other-1 cannot be written to"):
        store.write(RUN, "eval", {"records": [RECORD.to_json() | {"run_id": "other-1"}]})
    with pytest.raises(ValueError, match="cannot be written"):
        store.write(RUN, "eval", {"run_id": "other-1"})
    with pytest.raises(ValueError, match="not JSON compliant"):
        store.write(RUN, "eval", {"results": {"loss": float("nan")}})
    with pytest.raises(ValueError, match="a phase is one of train, eval, profile, not 'evla'"):
        store.has(RUN, "evla")
    assert not store.has(RUN, "eval")


def _damage(change):
    def apply(text: str) -> str:
        body = json.loads(text)
        change(body)
        return json.dumps(body)

    return apply


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda text: text[: len(text) // 2], "not JSON"),
        (lambda text: "", "not JSON"),
        (lambda text: "[]", "not a JSON object"),
        (_damage(lambda b: b.update(run_id="other-1")), f"its run_id is 'other-1', not '{RUN}'"),
        (_damage(lambda b: b.update(phase="train")), "its phase is 'train', not 'eval'"),
        (_damage(lambda b: b["results"].update(correct=4)), "do not match its digest"),
        (_damage(lambda b: b["records"][0].update(value=0.9)), "do not match its digest"),
        (_damage(lambda b: b.pop("digest")), "do not match its digest"),
        (_damage(lambda b: b.pop("records")), "it lacks its records or results"),
        (
            _damage(lambda b: b.update(records=[{}], digest=digest([{}], b["results"]))),
            "a record lacks its 'run_id'",
        ),
    ],
)
def test_a_damaged_phase_is_named_and_kept(store: Store, damage, reason: str):
    store.write(RUN, "eval", {"records": [RECORD], "results": {"correct": 2}})
    file = store.path(RUN) / "eval.json"
    file.write_text(damage(file.read_text()))
    before = file.read_bytes()
    with pytest.raises(UserError) as caught:
        store.read(RUN, "eval")
    assert str(caught.value).startswith(f"{file} is damaged: ")
    assert reason in str(caught.value)
    assert file.read_bytes() == before


def test_a_phase_that_is_not_there(store: Store):
    with pytest.raises(UserError, match=f"{RUN} has no complete eval phase"):
        store.read(RUN, "eval")
    with pytest.raises(UserError, match="there is no run ds_net-nothing"):
        store.read_spec("ds_net-nothing")


@pytest.mark.parametrize("name", ["../../etc", "", "a/b", ".hidden", "a\nb"])
def test_a_name_cannot_leave_the_store(store: Store, name: str):
    with pytest.raises(UserError, match="is not the name of a run"):
        store.path(name)


def test_errors_are_recorded_and_forgotten(store: Store):
    store.clear_error(RUN)
    assert store.read_error(RUN) is None
    try:
        raise KeyError("weights")
    except KeyError as error:
        store.write_error(RUN, "train", error)
    body = store.read_error(RUN)
    assert body is not None
    assert (body["run_id"], body["phase"], body["type"]) == (RUN, "train", "KeyError")
    assert "test_errors_are_recorded" in body["traceback"]
    store.clear_error(RUN)
    assert store.read_error(RUN) is None


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/slicebench", "/sys/slicebench"])
def test_a_root_that_cannot_be_written(tmp_path: Path, place: str):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"the results directory .* cannot be written: ") as caught:
        Store(tmp_path / place)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="permission bits do not bind root")
def test_a_root_without_permission(tmp_path: Path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="cannot be written: Permission denied"):
        Store(tmp_path)


def test_reading_creates_nothing(tmp_path: Path):
    with pytest.raises(UserError, match="there is no results directory"):
        Store(tmp_path / "none", writable=False)
    assert Store(tmp_path, writable=False).runs() == []
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_a_sentence(store: Store, monkeypatch: pytest.MonkeyPatch):
    store.write(RUN, "train", {"results": {"a": 1}})

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"cannot write .*train\.json: No space left on device"):
        store.write(RUN, "train", {"results": {"a": 2}})
    monkeypatch.undo()
    assert store.read(RUN, "train")["results"] == {"a": 1}
    assert sorted(file.name for file in store.path(RUN).iterdir()) == ["train.json"]


WRITER = """
import sys
from bench.core.store import Store
store = Store(sys.argv[1])
print("ready", flush=True)
number = 0
while True:
    number += 1
    for phase in ("train", "eval", "profile"):
        store.write(sys.argv[2], phase, {"results": {"number": number, "bulk": list(range(5000))}})
"""


def test_kill_9_at_any_moment_leaves_absent_or_whole(tmp_path: Path):
    draw = random.Random(0)
    written = torn = attempt = 0
    while attempt < 12 or not (written and torn):  # on a busy machine more of them die too early or too late
        attempt += 1
        assert attempt < 200, "no writer was caught in the act: the test proves nothing"
        root = tmp_path / str(attempt)
        with subprocess.Popen([sys.executable, "-c", WRITER, root, RUN], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(draw.uniform(0, 0.05))
            writer.send_signal(signal.SIGKILL)
        store = Store(root)
        for phase in PHASES:
            if store.has(RUN, phase):
                assert store.read(RUN, phase)["results"]["bulk"] == list(range(5000))
                written += 1
        torn += len(list(root.rglob(".train.*.tmp"))) + len(list(root.rglob(".*.json.*.tmp")))
        with store.lease(RUN):  # sweeps what the killed writer left
            assert not list(root.rglob("*.tmp"))


def test_write_atomic_replaces_whole_files(tmp_path: Path):
    file = tmp_path / "a.bin"
    for content in (b"first", b"second, longer", b""):
        write_atomic(file, content)
        assert file.read_bytes() == content
    assert list(tmp_path.iterdir()) == [file]
