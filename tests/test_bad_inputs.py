"""Bad input to every command and in every kind of file: one sentence, exit code 2, nothing written, nothing changed.

Each row of the table damages a true directory and says which command is given it. What only the words of a command can
be is in `test_cli.py`.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from image_folders import settle, write_folders
from safetensors.numpy import load_file, save_file
from voc_folder import make_set

from bench import cli
from bench.core.spec import DataSpec, ProfileSpec, RunSpec, TrainSpec
from bench.core.store import digest
from bench.executors.serial import run_all
from bench.methods import completed

MODEL = "ds_mobilenet_micro8"
SPEC = completed(
    RunSpec(
        "uniform",
        MODEL,
        data=DataSpec(train_images=120),
        train=TrainSpec(epochs=1, batch_size=60, lr=0.15),
        profile=ProfileSpec((2,), rounds=1, warmup=0),
        options={"choices": [0]},
    )
)
RUN = f"results/runs/{SPEC.run_id}"
DIGITS = {"method": "uniform", "model": MODEL, "options": {"choices": [0]}}
OWN = {
    "method": "uniform",
    "model": "ds_mobilenet_micro32",
    "data": {"name": "folder", "folder": "photos", "image_size": 32},
}
VOC = {"method": "uniform", "model": "ds_mobilenet_det_micro", "data": {"name": "voc", "protocol": "painted"}}


class Bad(NamedTuple):
    """What is done to the directory, the command that meets it, and the beginning or a part of its sentence."""

    damage: Callable[[], Any]
    words: str | tuple[str, Any]
    sentence: str


def write(path: str, content: str | bytes | Any) -> Callable[[], None]:
    """A file with this content; anything but text and bytes as JSON."""

    def damage() -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        is_raw = isinstance(content, str | bytes)
        whole = content if is_raw else json.dumps(content)
        Path(path).write_bytes(whole.encode() if isinstance(whole, str) else whole)

    return damage


def edited(path: str, how: Callable[[dict], Any]) -> Callable[[], None]:
    """A phase of the run, changed and sealed again."""

    def damage() -> None:
        body = json.loads(Path(path).read_text())
        how(body)
        if "records" in body:
            body["digest"] = digest(body["records"], body["results"])
        Path(path).write_text(json.dumps(body))

    return damage


def removed(path: str) -> Callable[[], None]:
    return lambda: shutil.rmtree(path) if Path(path).is_dir() else Path(path).unlink()


def other_tensors(path: str, how: Callable[[dict[str, Any]], Any]) -> Callable[[], None]:
    def damage() -> None:
        tensors = dict(load_file(path))
        how(tensors)
        save_file(tensors, path)

    return damage


def torch_file(path: str, content: Any) -> Callable[[], None]:
    return lambda: torch.save(content, path)


def number(value: int) -> bytes:
    return value.to_bytes(4, "little")


def nothing() -> None:
    pass


def run(spec: Any = DIGITS, more: str = "") -> tuple[str, Any]:
    """The command that runs a spec."""
    return f"run specs.json --data data --executor serial {more}", spec


class Code:
    """What would run when a pickle of it is read."""

    def __reduce__(self) -> tuple:
        return (os.system, ("touch escaped",))


FINAL = f"{RUN}/checkpoints/uniform0.safetensors"
PHOTO = "data/photos/train/n01440764/n01440764_0.JPEG"
XML = "data/VOCdevkit/painted/Annotations/painted_0000.xml"
EXPORT = f"export {SPEC.run_id} --choice 0 --out net.onnx"
VERIFY = f"verify {SPEC.run_id} --execute"
DRAW = f"draw {SPEC.run_id} --out drawn.png"
HUGE = "9" * 5000

TABLE: dict[str, Bad] = {
    # recipes, specs and settings
    "a recipe file that fails": Bad(write("mine.py", "1 / 0\n"), "run mine.py:table", "mine.py"),
    "a recipe file that is no Python": Bad(write("mine.py", "def ("), "run mine.py:table", "mine.py"),
    "a recipe file with zeros": Bad(write("mine.py", b"\0\0"), "run mine.py:table", "mine.py"),
    "a recipe that is not in its file": Bad(write("mine.py", ""), "run mine.py:table", "table"),
    "a recipe that is no function": Bad(write("mine.py", "table = 3"), "run mine.py:table", "table"),
    "a recipe that fails": Bad(write("mine.py", "def table(seeds=(0,)): return 1 / 0"), "run mine.py:table", "mine.py"),
    "a recipe of something else": Bad(
        write("mine.py", "def table(seeds=(0,)): return [3]"), "run mine.py:table", "mine"
    ),
    "a recipe without runs": Bad(write("mine.py", "def table(seeds=(0,)): return []"), "run mine.py:table", "mine.py"),
    "a recipe that takes nothing": Bad(write("mine.py", "def table(): return []"), "run mine.py:table", "mine.py"),
    "a recipe file that is a folder": Bad(lambda: Path("mine.py").mkdir(), "run mine.py:table", "mine.py"),
    "specs that are a folder": Bad(lambda: Path("all.json").mkdir(), "run all.json", "all.json"),
    "specs of brackets": Bad(write("all.json", "[" * 100_000), "run all.json", "the spec file all.json is not JSON"),
    "specs with NaN": Bad(
        write("all.json", '[{"method": "uniform", "model": "x", "seed": NaN}]'), "run all.json", "JSON values only"
    ),
    "specs with a number beyond all": Bad(write("all.json", f'[{{"seed": {HUGE}}}]'), "run all.json", "all.json"),
    "half a letter in a spec": Bad(
        write("all.json", '[{"method": "\\ud800", "model": "x"}]'), "run all.json", "all.json"
    ),
    "a model of words": Bad(nothing, run(DIGITS | {"model": "a b"}), "model must be a name"),
    "a model that is a script": Bad(nothing, run(DIGITS | {"model": "<script>"}), "model must be a name"),
    "a model that is a path": Bad(nothing, run(DIGITS | {"model": "../x"}), "model must be a name"),
    "a method that is a path": Bad(nothing, run(DIGITS | {"method": "../x"}), "method must be a name"),
    "a parent that is a path": Bad(nothing, run(DIGITS | {"init_from": "../x"}), "init_from must be"),
    "a data folder that is a path": Bad(
        nothing, run(OWN | {"data": {"name": "folder", "folder": "../x"}}), "data.folder must be a name"
    ),
    "a protocol that is a path": Bad(
        nothing, run(VOC | {"data": {"name": "voc", "protocol": "../.."}}), "data.protocol must be a name"
    ),
    "weights that are a path": Bad(nothing, run(DIGITS | {"weights": "../x"}), "weights must be"),
    "a seed beyond all": Bad(nothing, run(DIGITS | {"seed": 2**70}), "seed"),
    "threads beyond all": Bad(nothing, run(DIGITS | {"threads": 10**9}), "threads"),
    "a rate that is none": Bad(nothing, f"run quickstart --set lr={'1e999'}", "JSON values only"),
    "an empty setting": Bad(nothing, "run quickstart --set epochs=", "train.epochs must be an integer"),
    "a setting of brackets": Bad(nothing, f"run quickstart --set widths={'[' * 100_000}", ""),
    "a plugin that fails": Bad(
        write("plug.py", "import nothing_such"), "run quickstart --plugin plug.py", "plugin plug.py failed"
    ),
    "a plugin that is no Python": Bad(write("plug.txt", ""), "list methods --plugin plug.txt", "plugin plug.txt"),
    "a plugin that ends the process": Bad(
        write("plug.py", "import sys; sys.exit(3)"), "list methods --plugin plug.py", "plugin plug.py"
    ),
    "a plugin that replaces a method": Bad(
        write("plug.py", "from bench.methods import METHODS\nMETHODS.add('ds_net', 'x:y')"),
        "list methods --plugin plug.py",
        "'ds_net' exists already",
    ),
    # weights
    "no such weights": Bad(nothing, run(more="--weights none.pt"), "there is no file of weights none.pt"),
    "weights that are a folder": Bad(
        lambda: Path("w.pt").mkdir(), run(more="--weights w.pt"), "there is no file of weights"
    ),
    "weights of nothing": Bad(
        write("w.safetensors", b""), run(more="--weights w.safetensors"), "w.safetensors cannot be read"
    ),
    "weights with a wrong head": Bad(
        write("w.safetensors", b"\xff" * 64), run(more="--weights w.safetensors"), "w.safetensors cannot be read"
    ),
    "weights that run code": Bad(torch_file("w.pt", {"a": Code()}), run(more="--weights w.pt"), "w.pt cannot be read"),
    "weights that are a list": Bad(torch_file("w.pt", [1, 2]), run(more="--weights w.pt"), "w.pt holds no state dict"),
    "weights that are not finite": Bad(
        torch_file("w.pt", {"a": torch.tensor([float("nan")])}), run(more="--weights w.pt"), "w.pt"
    ),
    "weights of another network": Bad(
        torch_file("w.pt", {"a": torch.ones(2)}), run(more="--weights w.pt"), "cannot start"
    ),
    "weights in a format nobody knows": Bad(
        torch_file("w.pt", {"a": torch.ones(2)}), run(more="--weights official:mine=w.pt"), "mine"
    ),
    # images in class folders, boxes
    "no such folder of images": Bad(removed("data/photos"), run(OWN), "folder found no photos/train"),
    "no validation images": Bad(removed("data/photos/val"), run(OWN), "folder: "),
    "an image that is text": Bad(write(PHOTO, "no image"), run(OWN), PHOTO),
    "an image cut short": Bad(lambda: Path(PHOTO).write_bytes(Path(PHOTO).read_bytes()[:200]), run(OWN), PHOTO),
    "an image of a billion pixels": Bad(
        write(
            PHOTO,
            b"BM"
            + (54).to_bytes(4, "little") * 3
            + b"\x28\0\0\0"
            + (10**5).to_bytes(4, "little") * 2
            + b"\1\0\x18\0"
            + bytes(24),
        ),
        run(OWN),
        PHOTO,
    ),
    "one class": Bad(
        lambda: [shutil.rmtree(each) for each in Path("data/photos").glob("*/*") if each.name != "n01440764"],
        run(OWN),
        "folder",
    ),
    "an image of one pixel for a transformer": Bad(
        nothing, run(OWN | {"model": "ds_vit_micro32", "data": OWN["data"] | {"image_size": 1}}), "ds_vit_micro32"
    ),
    "boxes that are no XML": Bad(write(XML, "<annotation"), run(VOC), "painted_0000.xml"),
    "a box without corners": Bad(
        write(
            XML,
            "<annotation><size><width>96</width><height>72</height></size><object><name>red</name></object></annotation>",
        ),
        run(VOC),
        "painted_0000.xml",
    ),
    "a box of words": Bad(
        lambda: Path(XML).write_text(Path(XML).read_text().replace("<xmin>", "<xmin>x")), run(VOC), "painted_0000.xml"
    ),
    "entities without end": Bad(
        write(XML, '<!DOCTYPE a [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><annotation>&b;</annotation>'),
        run(VOC),
        "painted_0000.xml",
    ),
    "an image of boxes that is missing": Bad(
        removed("data/VOCdevkit/painted/JPEGImages/painted_0000.jpg"), run(VOC), "painted_0000"
    ),
    "a list with a path in it": Bad(
        write("data/VOCdevkit/painted/ImageSets/Main/train.txt", "../../../../secret\n"), run(VOC), "voc"
    ),
    "a list that is empty": Bad(write("data/VOCdevkit/painted/ImageSets/Main/train.txt", ""), run(VOC), "voc"),
    # what lies in the results
    "a run without its training": Bad(removed(f"{RUN}/train.json"), EXPORT, "has not been trained yet"),
    "a checkpoint that is missing": Bad(removed(FINAL), EXPORT, "is missing"),
    "a checkpoint that is another": Bad(other_tensors(FINAL, lambda t: t.popitem()), EXPORT, "is not the one that"),
    "a checkpoint that is a path": Bad(
        edited(f"{RUN}/train.json", lambda b: b["results"].update(checkpoints={"../../../secret": "0" * 64})),
        EXPORT,
        "cannot be the name of a checkpoint",
    ),
    "checkpoints that are a list": Bad(
        edited(f"{RUN}/train.json", lambda b: b["results"].update(checkpoints=["final"])), EXPORT, "train.json"
    ),
    "digests that are a list": Bad(
        edited(f"{RUN}/train.json", lambda b: b["results"].update(digests=["final"])), run(SPEC.to_json()), "train.json"
    ),
    "a spec that is another": Bad(
        write(f"{RUN}/spec.json", {"method": "uniform", "model": MODEL}), EXPORT, "it describes uniform-"
    ),
    "a spec with another spec's words": Bad(write(f"{RUN}/spec.json", "[]"), EXPORT, "not a JSON object"),
    "a run_id that is a path": Bad(nothing, "export ../x --choice 0 --out net.onnx", "'../x' is not the name of a run"),
    "a run_id with zeros": Bad(nothing, "draw ../../etc --out drawn.png", "is not the name of a run"),
    "an export of a choice nobody has": Bad(nothing, EXPORT.replace("--choice 0", "--choice 77"), "77"),
    "an export of no choice": Bad(nothing, EXPORT.replace("--choice 0", "--point nobody"), "nobody"),
    "an export to a folder that is not there": Bad(
        nothing, EXPORT.replace("net.onnx", "no/net.onnx"), "no/net.onnx cannot be written"
    ),
    "an export to a folder": Bad(nothing, EXPORT.replace("net.onnx", "results"), "results is a directory"),
    "an export in a format nobody knows": Bad(nothing, f"{EXPORT} --format tflite", "unknown format 'tflite'"),
    "results that are a file": Bad(write("there", ""), "report --results there", "there are no runs in there"),
    "a verification of a file": Bad(
        write("there", ""), "verify --results there", "there is damaged: it is no archive of slicebench submit"
    ),
    "a verification of a path": Bad(nothing, "verify ../x", "unknown run '../x'"),
    "a verification written to nowhere": Bad(
        nothing, "verify --json no/said.json", "no/said.json cannot be written: no such directory"
    ),
    "a report into a file": Bad(write("there", ""), "report --out there", "cannot create there/figures"),
    "reported numbers that are no JSON": Bad(
        write("results/reported/a.jsonl", "{"), "report", "results/reported/a.jsonl, line 1"
    ),
    "reported numbers of bytes": Bad(
        write("results/reported/a.jsonl", b"\xff\xfe"), "report", "results/reported/a.jsonl"
    ),
    "reported brackets": Bad(
        write("results/reported/a.jsonl", "[" * 100_000), "report", "results/reported/a.jsonl, line 1"
    ),
    "a drawing of digits": Bad(nothing, DRAW, "where nothing is detected"),
    "a drawing that is no image": Bad(nothing, DRAW.replace(".png", ".docx"), "drawn.docx has no ending of an image"),
    "a profile that goes on from nothing": Bad(
        lambda: partial("{"), f"profile {MODEL} --choices 0 --batch 1 --form view --json costs.json", "is damaged"
    ),
    "a profile that goes on from something else": Bad(
        lambda: partial('{"1": 3}'),
        f"profile {MODEL} --choices 0 --batch 1 --form view --json costs.json",
        "is damaged",
    ),
    "no rounds": Bad(nothing, f"profile {MODEL} --time-limit nan --batch 1", "time-limit"),
}


def partial(content: str) -> None:
    """What a killed profile of this request left, damaged."""
    from bench.commands.costs import Request

    request = Request(MODEL, None, "0", "", "1", "view", 4, 240.0)
    Path(f"costs.json.{request.name()}.partial").write_text(content)


@pytest.fixture(scope="module")
def true_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run, images of one's own and boxes."""
    root = tmp_path_factory.mktemp("true")
    assert run_all([SPEC], root / "results", None).ok
    write_folders(root / "data" / "photos", train=4, val=2)
    make_set(root / "data", train=6, val=3, test=3)
    settle(root / "data")
    return root


def everything_below(folder: Path) -> dict[str, Any]:
    """What must not change: contents, and that a file is there; but for the caches that Python and locks leave."""
    passed = ("__pycache__", ".lease.lock")
    files = sorted(f for f in folder.rglob("*") if not any(part in passed for part in f.parts))
    return {str(f.relative_to(folder)): f.read_bytes() if f.is_file() else "" for f in files}


@pytest.mark.parametrize("bad", TABLE)
def test_bad_input_is_answered_in_one_sentence(bad, true_directory, tmp_path, monkeypatch, capsys):
    root = shutil.copytree(true_directory, tmp_path / "root")
    monkeypatch.chdir(root)
    monkeypatch.delenv("SLICEBENCH_DATA", raising=False)
    damage, words, sentence = TABLE[bad]
    if isinstance(words, tuple):
        words, spec = words
        Path("specs.json").write_text(json.dumps(spec))
    damage()
    before = everything_below(tmp_path)
    with pytest.raises(SystemExit) as ended:
        cli.main(words.split())
    said = capsys.readouterr()
    assert (ended.value.code, said.out, len(said.err.splitlines())) == (2, "", 1), said
    assert said.err.startswith("slicebench: ")
    assert sentence in said.err
    assert len(said.err) < 900
    assert everything_below(tmp_path) == before


def test_so_many_bad_inputs():
    assert len(TABLE) >= 60
