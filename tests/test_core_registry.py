"""Names to objects: nearest name, duplicates, laziness, entry points, plugins."""

import sys
from importlib.metadata import EntryPoint

import pytest

from bench.core import registry
from bench.core.errors import UserError, unknown
from bench.core.registry import Entry, Registry, load_plugin


@pytest.fixture
def methods() -> Registry:
    return Registry("method", {"ds_net": "collections:OrderedDict", "us_net": "no.such.module:Thing"})


def test_unknown_names_the_nearest_and_all():
    assert str(unknown("method", "ds_nett", ["us_net", "ds_net"])) == (
        "unknown method 'ds_nett'; did you mean 'ds_net'? known: ds_net, us_net"
    )


def test_unknown_finds_a_name_in_other_letters_case():
    assert "did you mean 'DS_Net'?" in str(unknown("method", "ds_net", ["DS_Net"]))


def test_unknown_does_not_guess_wildly():
    assert str(unknown("method", "qqqq", ["ds_net"])) == "unknown method 'qqqq'; known: ds_net"
    assert str(unknown("method", "qqqq", [])) == "unknown method 'qqqq'; known: none"


def test_get_imports_only_what_is_asked_for(methods: Registry):
    from collections import OrderedDict

    assert methods.names() == ["ds_net", "us_net"]
    assert "ds_net" in methods
    assert "nothing" not in methods
    assert methods.get("ds_net") is OrderedDict
    assert "no.such.module" not in sys.modules


def test_an_entry_says_what_it_is_and_imports_nothing():
    from collections import OrderedDict

    there, missing = Entry("collections:OrderedDict", "a dictionary"), Entry("no.such.module:Thing", "nothing")
    methods = Registry("method", {"there": there, "missing": missing, "text": "no.such.module:Thing"})
    methods.add("late", Entry("collections:OrderedDict", "the same"))
    assert [methods.entry(name) for name in ("there", "missing")] == [there, missing]
    assert methods.entry("text") == "no.such.module:Thing"
    assert methods.get("there") is methods.get("late") is OrderedDict
    with pytest.raises(UserError, match=r"method 'missing' \(no.such.module:Thing\) cannot be imported"):
        methods.get("missing")
    with pytest.raises(UserError, match="unknown method 'three'"):
        methods.entry("three")


def test_get_unknown(methods: Registry):
    with pytest.raises(UserError, match=r"unknown method 'dsnet'; did you mean 'ds_net'\?"):
        methods.get("dsnet")


def test_get_what_cannot_be_imported(methods: Registry):
    with pytest.raises(UserError, match=r"'us_net' \(no.such.module:Thing\) cannot be imported: No module named 'no'"):
        methods.get("us_net")
    with pytest.raises(UserError, match="no such attribute"):
        Registry("method", {"a": "collections:Nothing"}).get("a")


def test_add_and_duplicate(methods: Registry):
    thing = object()
    methods.add("mine", thing)
    assert methods.get("mine") is thing
    for taken in ("mine", "ds_net"):
        with pytest.raises(UserError, match=f"method '{taken}' exists already"):
            methods.add(taken, object())
    assert methods.get("mine") is thing


def test_registry_does_not_change_its_table():
    table = {"a": "collections:OrderedDict"}
    Registry("method", table).add("b", object())
    assert list(table) == ["a"]


def _install(monkeypatch: pytest.MonkeyPatch, *points: tuple[str, str]) -> list[str]:
    asked: list[str] = []

    def entry_points(group: str) -> list[EntryPoint]:
        asked.append(group)
        return [EntryPoint(name, value, group) for name, value in points]

    monkeypatch.setattr(registry, "entry_points", entry_points)
    return asked


def test_entry_points_are_read_once_and_late(monkeypatch: pytest.MonkeyPatch):
    from collections import Counter

    asked = _install(monkeypatch, ("theirs", "collections:Counter"))
    methods = Registry("method", {"ds_net": "collections:OrderedDict"}, group="slicebench.methods")
    assert asked == []
    assert methods.names() == ["ds_net", "theirs"]
    assert methods.get("theirs") is Counter
    assert asked == ["slicebench.methods"]


@pytest.mark.parametrize("points", [[("ds_net", "a:b")], [("x", "a:b"), ("x", "a:c")]], ids=["table", "each other"])
def test_entry_point_may_not_replace(monkeypatch: pytest.MonkeyPatch, points: list[tuple[str, str]]):
    _install(monkeypatch, *points)
    methods = Registry("method", {"ds_net": "collections:OrderedDict"}, group="slicebench.methods")
    for _ in range(2):  # a conflict does not go away by asking again
        with pytest.raises(UserError, match=r"exists already; the entry point 'a:[bc]'"):
            methods.names()


def test_plugin_registers_once(tmp_path):
    file = tmp_path / "my_method.py"
    file.write_text(
        "from dataclasses import dataclass\n"
        "from test_core_registry import SHARED\n"
        "@dataclass(frozen=True)\nclass Mine:\n    x: 'int' = 3\n"
        "SHARED.add('mine', Mine)\n"
    )
    module = load_plugin(file)
    assert load_plugin(str(file)) is module  # a second run would be a duplicate
    assert SHARED.get("mine")().x == 3


SHARED = Registry("method", {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import no_such_module_here", "failed: ModuleNotFoundError: No module named 'no_such_module_here'"),
        ("def f(:", "failed: SyntaxError"),
        ("from bench.core.errors import UserError\nraise UserError('taken')", "^taken$"),
    ],
    ids=["import", "syntax", "its own"],
)
def test_plugin_that_fails(tmp_path, text: str, message: str):
    file = tmp_path / "broken.py"
    file.write_text(text)
    for _ in range(2):  # a half-run module is not kept
        with pytest.raises(UserError, match=message):
            load_plugin(file)


def test_plugin_that_is_none(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.py is not a file"):
        load_plugin(tmp_path / "nowhere.py")
    (tmp_path / "data.json").write_text("{}")
    with pytest.raises(UserError, match=r"its name must end in \.py"):
        load_plugin(tmp_path / "data.json")
