"""Names to objects, imported when asked for.

A registry is a literal table `name -> "module:attribute"`, so that `grep` finds every entry and importing the
table imports none of them. Outside packages add entries through an entry-point group, a user's file through
`--plugin` and `add`. A name that is taken is never replaced.
"""

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from bench.core.errors import UserError, unknown


@dataclass(frozen=True)
class Entry:
    """Where an object is, and what is listed of it without importing it.

    target: "module:attribute". what: a line for people.
    """

    target: str
    what: str


class Registry:
    """A table of lazily imported objects of one `kind` ("method", "dataset", ...).

    `table` maps a name to `"module:attribute"` or to an `Entry`, which says what is listed too; `group` is the
    entry-point group in which other distributions may add names, looked up on first use. `makers`
    maps a prefix to the `"module:function"` that makes the object of a name `PREFIX:NAME` from its NAME.

    >>> shapes = Registry("shape", {"pair": "builtins:tuple"})
    >>> shapes.add("list", list)
    >>> shapes.names(), shapes.get("pair")
    (['list', 'pair'], <class 'tuple'>)
    >>> shapes.get("pairs")
    Traceback (most recent call last):
    bench.core.errors.UserError: unknown shape 'pairs'; did you mean 'pair'? known: list, pair
    """

    def __init__(
        self,
        kind: str,
        table: Mapping[str, str | Entry],
        group: str | None = None,
        makers: Mapping[str, str] | None = None,
    ):
        self.kind = kind
        self._entries: dict[str, Any] = dict(table)
        self._group = group
        self._makers = dict(makers or {})

    def names(self) -> list[str]:
        """Every known name, sorted; nothing is imported."""
        self._read_entry_points()
        return sorted(self._entries)

    def entry(self, name: str) -> Any:
        """What stands in the table under `name`: "module:attribute", an `Entry`, or an object that was added.

        Nothing is imported. Raises UserError when the name is unknown (naming the nearest).
        """
        self._read_entry_points()
        if name not in self._entries:
            raise unknown(self.kind, name, self._entries)
        return self._entries[name]

    def get(self, name: str) -> Any:
        """The object called `name`, imported now if need be.

        Raises UserError when the name is unknown (naming the nearest) or when its module cannot be imported.
        """
        if parts := self.made(name):
            prefix, rest = parts
            return self._load(prefix, self._makers[prefix])(rest)
        entry = self.entry(name)
        target = entry.target if isinstance(entry, Entry) else entry
        return self._load(name, target) if isinstance(target, str) else target

    def made(self, name: str) -> tuple[str, str] | None:
        """PREFIX and NAME of what a maker makes; None for what stands in the table, or nowhere."""
        prefix, colon, rest = name.partition(":")
        return (prefix, rest) if colon and prefix in self._makers else None

    def add(self, name: str, entry: Any) -> None:
        """Registers an object, or a lazy "module:attribute" or `Entry`; UserError when the name is taken."""
        self._read_entry_points()
        if name in self._entries:
            raise self._taken(name, "a plugin")
        self._entries[name] = entry

    def __contains__(self, name: object) -> bool:
        self._read_entry_points()
        return name in self._entries

    def _taken(self, name: str, source: str) -> UserError:
        return UserError(f"{self.kind} {name!r} exists already; {source} may not replace it, choose another name")

    def _read_entry_points(self) -> None:
        if self._group is None:
            return
        targets: dict[str, str] = {}
        for point in entry_points(group=self._group):
            if point.name in self._entries or point.name in targets:
                raise self._taken(point.name, f"the entry point {point.value!r}")
            targets[point.name] = f"{point.module}:{point.attr}"
        self._entries.update(targets)
        self._group = None

    def _load(self, name: str, path: str) -> Any:
        module, _, attribute = path.partition(":")
        try:
            imported = importlib.import_module(module)
        except ImportError as error:
            raise UserError(f"{self.kind} {name!r} ({path}) cannot be imported: {error}") from error
        if not hasattr(imported, attribute):
            raise UserError(f"{self.kind} {name!r} ({path}): the module has no such attribute")
        return getattr(imported, attribute)


def load_plugin(path: str | Path) -> ModuleType:
    """Runs a user's Python file once, so that it can register its parts (`METHODS.add("mine", Mine)`).

    The same file is run once a process, however often it is named, because worker processes are reused.
    Raises UserError when there is no such file or when it fails.
    """
    file = Path(path).expanduser().resolve()
    if not file.is_file():
        raise UserError(f"plugin {path} is not a file")
    name = f"slicebench_plugin_{hashlib.sha256(str(file).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise UserError(f"plugin {path} is not a Python file (its name must end in .py)")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs: dataclasses look their own module up
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, UserError | KeyboardInterrupt):
            raise
        raise UserError(f"plugin {path} failed: {type(error).__name__}: {error}") from error
    return module
