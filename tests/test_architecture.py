"""Who may import whom, and what no file may do. Rules over the syntax trees, so they hold for files to come.

An exception is a line in one of the tables below, with its reason; it is never a looser rule.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted(path for room in ("bench", "baselines", "tests/speed") for path in (ROOT / room).rglob("*.py"))

# From the bottom up: a room imports itself and the rows below it.
ROWS = (
    {"core"},
    {"statistics"},
    {"slicing"},
    {"points"},
    {"models", "data"},
    {"tasks"},
    {"training", "evaluation", "profilers"},
    {"methods"},
    {"baselines"},
    {"runs", "recipes", "export"},
    {"commands"},
    {"cli"},
    {"__main__", "speed"},
)
# Beside the rows: they stand on core and statistics alone, and only the command line wires them in.
BESIDE = {"executors", "reports"}
BELOW_BESIDE = {"core", "statistics"}
WIRING = {"cli", "commands", "speed"}

# Within a row, only in this direction.
SIDEWAYS = {
    ("evaluation", "profilers"),  # the executed proof is evaluated by the counters
    ("runs", "recipes"),  # what is found out before anything runs, and the settings of a command
    ("training", "profilers"),  # that a network can be counted is known before it trains
    ("export", "runs"),  # what is exported is a run
}
# Single modules that may import a module which the rows would refuse.
EXCEPTIONS = {
    ("bench.executors.attempt", "bench.runs.phases"),  # the default runner, imported in the worker when work is done
}

# Who may import a heavy or replaceable library, by path prefix.
LIBRARIES = {
    "ray": ("bench/executors/ray",),
    "pandas": ("bench/reports/",),
    "matplotlib": ("bench/reports/",),
    "fvcore": ("bench/profilers/",),
    "pydantic": ("bench/core/",),
    "typer": ("bench/cli.py", "bench/commands/", "bench/__main__.py"),
}

MAX_LINES = 300
LONGER: dict[str, str] = {  # path -> the one idea that it holds
}

# Files that set attributes by name.
SETTERS = {"baselines/pruning_surgery.py"}  # real removal: smaller tensors take the place of parameters, for good

# Functions that may take a name apart: those that make it, or read what is no name of a preset, point or column.
NAME_READERS = {
    "bench/commands/costs.py:measured": "timm:NAME is what a user types on the command line",
    "bench/core/registry.py:made": "PREFIX:NAME is what a maker makes an object of",
    "bench/models/resnet/timm_names.py": "names of tensors in a state dict, which are paths",
    "bench/models/transfer.py": "names of tensors in a state dict, which are paths",
    "bench/models/vit/timm_names.py": "names of tensors in a state dict, which are paths",
    "bench/models/weights.py": "names of weights, whose two kinds this file makes",
    "bench/reports/old_files.py:_space": "the routing space of an old file stands in its points' names alone",
    "bench/profilers/cost_free.py:is_cost_free": "names of operators, as torch gives them",
    "bench/profilers/madds.py": "names of operators, as torch and fvcore give them",
}
# Files with a `global` statement: state of the process that cannot belong to any object.
PROCESS_STATE = {"bench/profilers/allocator.py"}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    """`core` for `bench.core.spec`, `baselines` for all of baselines, `speed` for all of tests.speed, else ""."""
    top, _, rest = module.partition(".")
    room = rest.partition(".")[0]
    if top == "baselines":
        return top
    return room if top == "bench" or (top, room) == ("tests", "speed") else ""


def imports(tree: ast.AST, module: str, package: bool = False) -> Iterator[str]:
    """Full names of all that is imported anywhere in a file, `from a import b` as `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")
                kept = parents[: len(parents) - node.level + package]
                base = ".".join([*kept, base] if base else kept)
            yield from (f"{base}.{alias.name}" for alias in node.names)


def row_of(room: str) -> int:
    return next((index for index, row in enumerate(ROWS) if room in row), -1)


def is_excepted(importer: str, imported: str) -> bool:
    return any(_within(importer, who) and _within(imported, what) for who, what in EXCEPTIONS)


def _within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def is_allowed(importer: str, imported: str) -> bool:
    """Whether the module `importer` may import `imported`, both full names of this project."""
    mine, theirs = room_of(importer), room_of(imported)
    if mine == theirs or (mine, theirs) in SIDEWAYS or is_excepted(importer, imported):
        return True
    if mine in BESIDE:
        return theirs in BELOW_BESIDE
    if theirs in BESIDE:
        return mine in WIRING
    return 0 <= row_of(theirs) < row_of(mine)


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Every call with the last part of the called name: `f` for f(x) and for a.b.f(x)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = node.func
            yield getattr(called, "attr", getattr(called, "id", "")), node


def is_hook_registration(name: str) -> bool:
    return name.startswith("register_") and name.endswith("_hook")


def refused(check: Callable[[Path, ast.Module], list]) -> dict[str, list]:
    """What `check` finds wrong, by file; empty when all is well."""
    found = {relative(path): check(path, tree_of(path)) for path in FILES}
    return {path: wrong for path, wrong in found.items() if wrong}


def test_every_file_stands_in_a_room():
    rooms = {room_of(module_name(path)) for path in FILES} - {""}
    placed = BESIDE.union(*ROWS)
    assert rooms <= placed, "give the new room a place in this test and in CONTRIBUTING.md"


CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_the_diagram_of_contributing_is_that_of_the_rows():
    (diagram,) = (block for block in re.findall(r"^```\n(.*?)^```$", CONTRIBUTING, re.MULTILINE | re.DOTALL))
    *rows, beside = diagram.splitlines()
    assert [set(row.split(" | ")) for row in rows] == list(reversed(ROWS))
    words, _, rooms = beside.partition(": ")
    assert set(rooms.split(" | ")) == BESIDE
    assert set(words.split()) >= BELOW_BESIDE


def test_contributing_says_what_every_room_holds():
    table = CONTRIBUTING.partition("| room | holds |")[2].partition("\n\n")[0]
    cells = re.findall(r"^\| (`.*?`) \| ", table, re.MULTILINE)
    paths = [path for cell in cells for path in re.findall(r"`([^`]+)`", cell)]
    assert [path for path in paths if not (ROOT / path).exists()] == []
    assert sorted(Path(path).stem for path in paths) == sorted(BESIDE.union(*ROWS))


def test_the_front_hall_holds_three_files():
    files = {path.name for path in (ROOT / "bench").glob("*.py")}
    assert files == {"__init__.py", "__main__.py", "cli.py", "points.py"}


def test_imports_go_downwards():
    def upward(path: Path, tree: ast.Module) -> list[str]:
        module = module_name(path)
        ours = [name for name in imports(tree, module, path.stem == "__init__") if room_of(name)]
        return [name for name in ours if not is_allowed(module, name)]

    assert refused(upward) == {}


def test_libraries_stay_in_their_rooms():
    def strayed(path: Path, tree: ast.Module) -> list[str]:
        found = {name.partition(".")[0] for name in imports(tree, module_name(path))}
        return [name for name in LIBRARIES if name in found and not relative(path).startswith(LIBRARIES[name])]

    assert refused(strayed) == {}


def test_fvcore_is_imported_in_one_function_only():
    functions = [
        f"{relative(path)}:{node.name}"
        for path in FILES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef)
        and any(_within(name, "fvcore") for name in imports(node, module_name(path)))
    ]
    everywhere = sum(_within(name, "fvcore") for path in FILES for name in imports(tree_of(path), module_name(path)))
    assert len(functions) <= 1, functions
    assert everywhere <= 1, "fvcore is imported outside its function"


def test_nothing_is_planted_on_modules():
    """A width is an argument: nothing sets an attribute by name."""
    names = ("setattr", "delattr")
    found = refused(lambda _, tree: [node.lineno for name, node in calls(tree) if name in names])
    assert set(found) == SETTERS


def test_hooks_are_for_profilers_and_end_with_the_call():
    def hooks(path: Path, tree: ast.Module) -> list[str]:
        if relative(path).startswith("bench/profilers/"):
            return hooks_left(tree)
        return [name for name, _ in calls(tree) if is_hook_registration(name)]

    assert refused(hooks) == {}


def hooks_left(tree: ast.Module) -> list[str]:
    """Functions that register a hook without a `finally` that removes it."""
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return [
        function.name
        for function in functions
        if any(is_hook_registration(name) for name, _ in calls(function)) and not _removes(function)
    ]


def _removes(function: ast.FunctionDef) -> bool:
    finals = [statement for node in ast.walk(function) if isinstance(node, ast.Try) for statement in node.finalbody]
    return any(name == "remove" for statement in finals for name, _ in calls(statement))


def test_no_state_of_the_process():
    def state(path: Path, tree: ast.Module) -> list[int]:
        return [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Global)]

    assert set(refused(state)) == PROCESS_STATE


def test_a_file_holds_one_idea():
    lines = {relative(path): len(path.read_text().splitlines()) for path in FILES}
    assert {path for path, count in lines.items() if count > MAX_LINES} == set(LONGER)


NAME_WORDS = {"name", "model", "preset", "point", "column", "title", "slot"}
TAKES_APART = {
    "startswith", "endswith", "removeprefix", "removesuffix", "partition", "rpartition", "split", "rsplit"
}  # fmt: skip


def is_name(node: ast.AST) -> bool:
    """Whether an expression holds, by what it is called, a name: `name`, `spec.model`, `row["point"]`, `self.name`."""
    if isinstance(node, ast.Subscript):
        return isinstance(node.slice, ast.Constant) and node.slice.value in NAME_WORDS
    return getattr(node, "attr", getattr(node, "id", "")) in NAME_WORDS


def taken_apart(tree: ast.AST) -> Iterator[int]:
    """Lines that look into a name: a method of strings or a regular expression on it, or `in` it.

    It goes by what a variable is called, so a name under another name passes: an approximation that costs no types.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            on = node.func.value
            is_regex = isinstance(on, ast.Name) and on.id == "re" and any(is_name(part) for part in node.args)
            if is_regex or (node.func.attr in TAKES_APART and is_name(on)):
                yield node.lineno
        elif isinstance(node, ast.Compare):
            pairs = zip(node.ops, [node.left, *node.comparators], node.comparators, strict=False)
            if any(isinstance(op, ast.In | ast.NotIn) and is_name(right) for op, _, right in pairs):
                yield node.lineno


def readers_of_names(path: Path) -> Iterator[str]:
    """`file:function` of every function that takes a name apart, `file` where it is none."""
    for statement in tree_of(path).body:
        for part in statement.body if isinstance(statement, ast.ClassDef) else [statement]:
            if any(taken_apart(part)):
                yield f"{relative(path)}:{getattr(part, 'name', '')}"


def test_facts_are_not_read_out_of_names():
    readers = {reader for path in FILES for reader in readers_of_names(path)}
    excepted = {reader for reader in readers if {reader, reader.partition(":")[0]} & NAME_READERS.keys()}
    assert readers - excepted == set(), "let the code that knows a fact write it into a field"
    used = {part for reader in excepted for part in (reader, reader.partition(":")[0])}
    assert set(NAME_READERS) <= used, "an exception that nothing needs any more"


@pytest.mark.parametrize(
    ("source", "looks_into_a_name"),
    [
        ("spec.model.startswith('ds_')", True),
        ("re.fullmatch('micro([0-9]+)', name)", True),
        ("'_pp' in model", True),
        ("row['point'].rpartition('@')", True),
        ("name in MODELS", False),
        ("PRESETS.get(name).image_size", False),
        ("text.startswith('timm:')", False),
    ],
)
def test_the_name_rule(source, looks_into_a_name):
    assert any(taken_apart(ast.parse(source))) is looks_into_a_name


def imported_files(path: Path, tree: ast.Module) -> set[str]:
    """The modules of this project that a file imports, whole files and not names in them, at import time or later."""
    names = {module_name(file) for file in FILES}
    found = imports(tree, module_name(path), path.stem == "__init__")
    return {name if name in names else name.rpartition(".")[0] for name in found} & names - {module_name(path)}


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of two or more nodes that reach each other (Tarjan's strongly connected components)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph[node]):
            if other not in index:
                visit(other)
            if other in stack:
                low[node] = min(low[node], low[other])
        if low[node] == index[node]:
            cut = stack.index(node)
            groups.append(sorted(stack[cut:]))
            del stack[cut:]

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return [group for group in groups if len(group) > 1]


def test_no_circle_of_files():
    assert circles({module_name(path): imported_files(path, tree_of(path)) for path in FILES}) == []


@pytest.mark.parametrize(
    ("graph", "found"),
    [
        ({"a": {"b"}, "b": {"c"}, "c": set()}, []),
        ({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}, [["a", "b", "c"]]),
    ],
)
def test_the_circle_rule(graph, found):
    assert circles(graph) == found


IMPORT_ALL = """
import importlib, pkgutil, sys

blocked, packages = sys.argv[1].split(","), sys.argv[2].split(",")
if not {"torch", "torchvision"} & set(blocked):
    import torchvision  # it looks which optional libraries there are, and imports none of them

class Wall:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"{name} is not to be imported here", name=name)

sys.meta_path.insert(0, Wall())
for package in packages:
    found = importlib.import_module(package)
    for module in pkgutil.walk_packages(found.__path__, package + "."):
        importlib.import_module(module.name)
"""


@pytest.mark.parametrize(
    ("blocked", "packages"),
    [
        ("torch,torchvision,timm,ray,pydantic,pandas", "bench.core,bench.statistics"),
        ("torch,torchvision,timm,ray,pydantic", "bench.reports"),
        (
            "pydantic,fvcore,ray,pandas,matplotlib",
            "bench.slicing,bench.models,bench.tasks,bench.training,bench.profilers",
        ),
        ("ray,torch", "bench.executors"),
    ],
)
def test_rooms_import_without(blocked, packages):
    result = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, blocked, packages], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert result.returncode == 0, result.stderr


# The rules themselves can fail: each is shown what it must refuse.


@pytest.mark.parametrize(
    ("importer", "imported", "allowed"),
    [
        ("bench.training.loop", "bench.slicing.ops", True),
        ("bench.slicing.ops", "bench.training.loop", False),
        ("bench.slicing.ops", "bench.slicing.choice", True),
        ("bench.data.cifar", "bench.models", False),
        ("bench.training.loop", "bench.evaluation.accuracy", False),
        ("bench.evaluation.accuracy", "bench.tasks.task", True),
        ("bench.methods", "baselines.uniform", False),
        ("bench.methods.ds_net", "baselines.uniform", False),
        ("baselines.controls", "bench.methods.ds_net", True),
        ("bench.core.spec", "bench.methods", False),
        ("bench.reports.frame", "bench.core.store", True),
        ("bench.reports.frame", "bench.statistics.intervals", True),
        ("bench.reports.frame", "bench.evaluation.accuracy", False),
        ("bench.executors.serial", "bench.runs.phases", False),
        ("bench.executors.attempt", "bench.runs.phases.run_phase", True),
        ("bench.cli", "bench.reports.frame", True),
        ("bench.commands.run", "bench.reports.frame", True),
        ("bench.runs.phases", "bench.reports.frame", False),
        ("bench.profilers.latency", "bench.brand_new", False),
    ],
)
def test_the_import_rule(importer, imported, allowed):
    assert is_allowed(importer, imported) is allowed


def test_all_forms_of_import_are_seen():
    source = "import ray\ndef f():\n    from bench.runs import x\nfrom . import ops\nfrom ..core import spec\n"
    found = set(imports(ast.parse(source), "bench.slicing.gate"))
    assert found == {"ray", "bench.runs.x", "bench.slicing.ops", "bench.core.spec"}
    assert set(imports(ast.parse("from . import ops"), "bench.slicing", package=True)) == {"bench.slicing.ops"}


LEFT = "def f(m):\n    h = m.register_forward_hook(g)\n    m(x)\n    h.remove()\n"
REMOVED = (
    "def f(m):\n    h = m.register_forward_pre_hook(g)\n    try:\n        m(x)\n    finally:\n        h.remove()\n"
)


@pytest.mark.parametrize(("source", "left"), [(LEFT, ["f"]), (REMOVED, [])])
def test_the_hook_rule(source, left):
    assert hooks_left(ast.parse(source)) == left
