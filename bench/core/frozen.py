"""JSON values that cannot change: what a frozen spec may hold."""

import math
from collections.abc import Mapping
from typing import Any, NoReturn

from bench.core.errors import UserError


class FrozenDict(dict):
    """A dict that is hashable and refuses to change. It pickles, and json writes it as any dict."""

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("a frozen dict does not change; build a new one")

    __setitem__ = __delitem__ = __ior__ = _refuse  # type: ignore[assignment]
    clear = pop = popitem = setdefault = update = _refuse  # type: ignore[assignment]

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple[Any, ...]:
        # The default way to unpickle a dict sets its items one by one, which is refused here.
        return FrozenDict, (dict(self),)

    def __deepcopy__(self, memo: dict) -> "FrozenDict":
        return self


def freeze(value: Any, key: str) -> Any:
    """A frozen copy of a JSON value: objects become FrozenDicts, lists become tuples.

    Raises UserError, naming `key`, for anything JSON cannot hold (NaN and infinities too).
    """
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str):
                raise UserError(f"{key} has the key {name!r}; keys are strings")
        return FrozenDict({name: freeze(item, f"{key}.{name}") for name, item in value.items()})
    if isinstance(value, list | tuple):
        return tuple(freeze(item, f"{key}[{index}]") for index, item in enumerate(value))
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise UserError(
        f"{key} must be a JSON value (object, list, string, finite number, true, false, null), not {value!r}"
    )
