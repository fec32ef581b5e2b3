"""Properties of what stands at the border, and results folders damaged at random: never anything but a sentence."""

import json
import os
import random
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_store import make_store

from bench import cli
from bench.core.errors import UserError, one_line
from bench.core.metrics import METRICS
from bench.core.names import is_label, is_run_id
from bench.core.record import Record, parse_record
from bench.core.settings import parse_spec
from bench.core.spec import RunSpec
from bench.core.store import digest
from bench.data.splits import balanced_order, cut, keyed_order, train_subset
from bench.models import PRESETS
from bench.reports import figures
from bench.reports.layout import for_csv, markdown
from bench.reports.style import slug
from bench.statistics.per_image import pack, unpack

EXAMPLES = settings(deadline=None, max_examples=60)
labels = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.,:/@=+-]{0,20}", fullmatch=True)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
units = st.sampled_from(sorted(METRICS))
records = units.flatmap(
    lambda metric: st.builds(
        Record,
        run_id=labels,
        method=labels,
        model=labels,
        dataset=labels,
        split=labels,
        point=labels,
        seed=st.integers(0, 2**62),
        metric=st.just(metric),
        value=st.floats(-1e300, 1e300),
        unit=st.just(METRICS[metric].unit),
        n=st.integers(0, 2**62),
        form=st.none() | labels,
        details=st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=3),
    )
)


# Records and specs.


@EXAMPLES
@given(records)
def test_a_record_is_what_its_json_says(record: Record):
    assert parse_record(json.loads(json.dumps(record.to_json()))) == record


@EXAMPLES
@given(records, st.sampled_from(list(Record.__dataclass_fields__)), json_values)
def test_a_record_with_anything_in_it_is_a_record_or_a_sentence(record: Record, key: str, value: Any):
    try:
        parsed = parse_record(record.to_json() | {key: value})
    except UserError:
        return
    assert all(map(is_label, (parsed.point, parsed.model, parsed.split, parsed.dataset)))
    assert abs(parsed.value) < float("inf")


@EXAMPLES
@given(
    st.sampled_from(
        ["method", "model", "data", "train", "profile", "options", "seed", "threads", "init_from", "weights"]
    ),
    json_values,
)
def test_a_spec_with_anything_in_it_is_a_spec_or_a_sentence(key: str, value: Any):
    raw = RunSpec("us_net", "us_mobilenet_micro8").to_json() | {key: value}
    try:
        spec = parse_spec(raw)
    except UserError:
        return
    assert is_run_id(spec.run_id)
    assert is_label(spec.model)
    assert parse_spec(spec.to_json()) == spec


# Choices and splits.


@EXAMPLES
@given(st.sampled_from(["ds_mobilenet_micro8", "us_mobilenet_micro8", "ds_vit_micro8"]), st.integers(0, 2**32))
def test_a_choice_is_what_its_text_says(preset: str, seed: int):
    space = PRESETS.get(preset).build().space
    choice = space.sample(random.Random(seed))
    assert space.parse(str(choice)) == choice
    assert is_label(str(choice))


@EXAMPLES
@given(st.text(max_size=12) | st.from_regex(r"[0-9.-]{1,12}", fullmatch=True))
def test_any_text_is_a_choice_or_a_sentence(text: str):
    space = PRESETS.get("ds_mobilenet_micro8").build().space
    try:
        assert space.check(space.parse(text))
    except (UserError, ValueError):
        return


@EXAMPLES
@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(0, 2**32))
def test_orders_are_permutations_and_balanced(targets: list[int], key: int):
    order = balanced_order(np.array(targets), "test", key)
    assert sorted(order) == sorted(keyed_order(len(targets), "test", key)) == list(range(len(targets)))
    counts = np.bincount(np.array(targets)[order[: 2 * len(set(targets))]], minlength=5)
    whole = np.bincount(targets, minlength=5)
    assert all(counts[label] >= min(whole[label], 2) for label in set(targets))


@EXAMPLES
@given(st.integers(1, 80), st.lists(st.integers(0, 20), max_size=3), st.integers(-2, 90))
def test_parts_are_disjoint_and_whole(n: int, sizes: list[int], subset: int):
    order = keyed_order(n, "test")
    parts = cut(order, {str(number): size for number, size in enumerate(sizes)}, "rest")
    assert np.array_equal(np.concatenate(list(parts.values())), order)
    try:
        assert len(train_subset(order, subset, "test")) == subset
    except UserError:
        assert not 1 <= subset <= n


@EXAMPLES
@given(st.integers(1, 30), st.integers(0, 3), st.integers(0, 2**32))
def test_what_points_did_with_images_comes_back(n: int, gates: int, seed: int):
    numbers = np.random.default_rng(seed)
    route = numbers.integers(0, 3, (n, gates))
    madds = 1000 * (1 + route.sum(axis=1))
    score = numbers.random(n).astype(np.float32)
    back = unpack("p", pack("p", score, madds, route, madds // 10))
    assert np.array_equal(back.score, score)
    assert np.array_equal(back.madds, madds)
    assert np.array_equal(back.route, route)


# Text.


@EXAMPLES
@given(st.text())
def test_no_text_leaves_its_line_or_becomes_a_formula(text: str):
    for shown in (one_line(text), markdown(text), for_csv(text)):
        assert shown.isprintable()
        shown.encode()
    assert "|" not in markdown(text).replace("\\|", "")
    formula = for_csv(text)
    assert formula[:1] not in "=+-@" or not formula or float(formula) is not None


@EXAMPLES
@given(labels)
def test_names_of_figures_are_plain(name: str):
    assert set(slug(name)) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


# Results folders that somebody else made.

NASTY: list[Any] = [
    *(None, True, "", "x", -1, 0, 1, 2.5, 1e308, -1e308, 10**30, 10**400, [], {}, [[]], [None], {"a": {}}, ["0"], [-1]),
    *(
        "../../escaped",
        "/etc/passwd",
        "<script>alert(1)</script>",
        "=1+1",
        "\ud800",
        "\0",
        "a\nb",
        "$x$",
        "%s{0}",
        "a" * 300,
    ),
]
ROUNDS = int(os.environ.get("FUZZ_ROUNDS", "12"))


def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """The path of everything inside a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


def damaged(body: Any, chance: random.Random) -> None:
    """One value replaced, removed, renamed or doubled, anywhere."""
    *above, key = chance.choice(list(places(body)))
    parent = body
    for step in above:
        parent = parent[step]
    how = chance.choice(["replace", "replace", "replace", "remove", "rename", "double"])
    if how == "remove":
        del parent[key]
    elif how == "rename" and isinstance(parent, dict):
        parent[str(chance.choice(NASTY))] = parent.pop(key)
    elif how == "double" and isinstance(parent, list):
        parent.append(parent[key])
    else:
        parent[key] = chance.choice(NASTY)


def damage(root: Path, chance: random.Random) -> None:
    """A few files of a results directory, in ways that a digest hides or not."""
    for _ in range(chance.randint(1, 6)):
        file = chance.choice(sorted(f for f in root.rglob("*") if f.is_file() and not f.is_symlink()))
        kind = chance.random()
        if kind < 0.75 and file.suffix == ".json":
            try:
                body = json.loads(file.read_text())
                for _ in range(chance.randint(1, 3)):
                    damaged(body, chance)
            except (ValueError, IndexError):
                continue
            if isinstance(body, dict) and chance.random() < 0.95:
                with_digest(body)
            file.write_text(json.dumps(body))
        elif kind < 0.85:
            content = bytearray(file.read_bytes())
            for _ in range(chance.randint(1, 20)):
                if content:
                    content[chance.randrange(len(content))] = chance.randrange(256)
            file.write_bytes(content[: chance.randint(0, len(content))] if chance.random() < 0.3 else content)
        elif kind < 0.9:
            file.unlink()
            file.mkdir()
        elif kind < 0.95:
            file.unlink()
            file.symlink_to(chance.choice([file.name, "/etc/passwd", "../../.."]))
        else:
            file.parent.rename(file.parent.with_name(chance.choice(["a b", "-x", "..x", "é", "us_net-0"])))


def with_digest(body: dict) -> None:
    try:
        body["digest"] = digest(body["records"], body["results"])
    except (KeyError, TypeError, ValueError):
        return


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made-up runs with a comparison of two of them."""
    root = make_store(tmp_path_factory.mktemp("sound")).root
    runs = {name: sorted(f.name for f in (root / "runs").glob(f"{name}-*")) for name in ("us_net", "uniform")}
    (root / "ablations").mkdir()
    group = {"arms": {"full": runs["us_net"], "without": runs["uniform"]}, "reference": None}
    (root / "ablations" / "x.0.json").write_text(json.dumps({"recipe": "x", "groups": [group]}))
    return root


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(ROUNDS))
def test_a_damaged_results_folder_is_never_a_traceback(sound, tmp_path, monkeypatch, capsys, seed):
    for name in ("write_accuracy_madds", "write_accuracy_latency", "write_routing") if seed % 6 else ():
        monkeypatch.setattr(figures, name, lambda *_: [])  # drawing takes most of a report's time
    root, chance = shutil.copytree(sound, tmp_path / "results"), random.Random(seed)
    damage(root, chance)
    before = {path for path in tmp_path.parent.rglob("*") if path.is_relative_to(root) or path == root}
    run_id = chance.choice(sorted(f.name for f in (root / "runs").iterdir()))
    out = tmp_path / "out"
    commands = [
        ["report", "--results", root, "--out", out],
        ["verify", "--results", root],
        ["verify", run_id, "--execute", "--results", root],
        ["export", run_id, "--choice", "0", "--out", tmp_path / "net.onnx", "--results", root],
        ["draw", run_id, "--out", tmp_path / "net.png", "--results", root],
    ]
    for words in commands:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # what is set apart
            code = cli.exit_code([str(word) for word in words])
        said = capsys.readouterr()
        assert code in (0, 1, 2), words
        assert "Traceback" not in said.out + said.err
        assert code != 2 or len(said.err.splitlines()) == 1, (words, said.err)
    written = {path for path in tmp_path.rglob("*") if not path.is_relative_to(out)} - {root, tmp_path / "out"}
    assert written == before - {root}
    for page in (*out.rglob("*.md"), *out.rglob("*.csv")):
        assert "<script" not in page.read_text(encoding="utf-8") or page.suffix == ".csv"
