"""Where specs come in from outside: JSON and `--set`, checked by pydantic, answered in one sentence.

Specs and this file import without pydantic, which is imported when something is read.
"""

import functools
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args, get_origin, get_type_hints

from bench.core.errors import UserError, unknown
from bench.core.spec import DataSpec, ProfileSpec, RunSpec, TrainSpec, changed

SECTIONS = {"train": TrainSpec, "data": DataSpec, "profile": ProfileSpec}
ALLOWED = {  # pydantic's error type, or the first word of it -> what the key may be
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "string": "a string",
    "literal": "one of {expected}",
    "tuple": "a list",
    "list": "a list",
    "dict": "an object",
    "dataclass": "an object",
    "greater_than": "above {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "below {lt:g}",
    "less_than_equal": "at most {le:g}",
    "too_short": "a list of {min_length} or more",
    "predicate_failed": "a list that names each once",
}
T = TypeVar("T")


def parse_spec(raw: Any, where: str = "") -> RunSpec:
    """A RunSpec from JSON values, strictly: no unknown key, no string for a number.

    `where` goes before the message ("specs.json, spec 3: "). Raises UserError, a sentence that names the key.
    """
    from pydantic import ValidationError

    try:
        # Through JSON text, because only there strictness takes a list for a tuple.
        text = json.dumps(raw, allow_nan=False)
        return _validator(RunSpec).validate_json(text, strict=True)
    except (TypeError, ValueError) as error:
        if not isinstance(error, ValidationError):
            raise UserError(f"{where}a spec holds JSON values only: {error}") from error
        raise UserError(f"{where}{_sentence(error.errors(include_url=False)[0])}") from None
    except UserError as error:
        raise UserError(f"{where}{error}") from None


def parse_options(method: str, kind: type[T], options: Mapping[str, Any]) -> T:
    """A method's options dataclass from the options of a spec, defaults filled in.

    Raises UserError, a sentence that names the option, for one that `kind` does not have (naming the nearest), of
    another type, or outside of the range that its annotation says (`core/ranges.py`).
    """
    from pydantic import ValidationError

    names = _keys(kind)
    for key in options:
        if key not in names:
            raise unknown(f"option of {method}", key, names)
    try:
        return _validator(kind).validate_json(json.dumps(options), strict=True)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = f"options.{problem['loc'][0]} of {method}"
        raise UserError(f"{key} {_wanted(problem)}, not {json.dumps(problem['input'])}") from None


@functools.cache
def _validator(kind: type) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _sentence(problem: Mapping[str, Any]) -> str:
    """One pydantic error as a sentence that names the key."""
    key = ".".join(str(part) for part in problem["loc"])
    section, _, name = key.rpartition(".")
    if problem["type"] == "unexpected_keyword_argument":
        keys = _keys(SECTIONS.get(section, RunSpec))
        return str(unknown(f"key in {section}" if section else "key", name, keys))
    if problem["type"].startswith("missing"):
        return f"{key} is missing"
    return f"{key or 'a spec'} {_wanted(problem)}, not {json.dumps(problem['input'])}"


def _wanted(problem: Mapping[str, Any]) -> str:
    allowed = ALLOWED.get(problem["type"]) or ALLOWED.get(problem["type"].partition("_")[0])
    if allowed is None:
        return f"is wrong ({problem['msg']})"
    return f"must be {allowed.format(**problem.get('ctx', {}))}".replace("'", "")


def parse_specs_file(file: str | Path) -> list[RunSpec]:
    """The specs in a JSON file: a list of objects, or one object. Raises UserError, naming file and spec."""
    path = Path(file)
    try:
        raw = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_no_repeats)
    except OSError as error:
        raise UserError(f"the spec file {path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"the spec file {path} is not JSON: {error}") from error
    items = raw if isinstance(raw, list) else [raw]
    if not items:
        raise UserError(f"the spec file {path} holds no spec")
    return [parse_spec(item, f"{path}, spec {number}: ") for number, item in enumerate(items, start=1)]


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {repeated!r} is given twice in one object")
    return value


def pair(text: str) -> tuple[str, str]:
    """The key and the value of `--set key=value`. Raises UserError where there are not both."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UserError(f"--set takes key=value, not {text!r}")
    return key, value


def overridden(
    specs: Sequence[RunSpec], settings: Mapping[str, str], options: Mapping[str, Collection[str]]
) -> list[RunSpec]:
    """The specs with `--set key=value` applied to each one that has the key.

    A key of the run, its data, training or profile applies to all, but `init_from` and `weights` only to runs that
    start from no other one, and `train.epochs` only to runs that train, where some do; an option to the runs of the
    methods that have it. `budget=0.5` stands for `budgets=[0.5]` where methods have the list alone.

    Args:
        options: the names of each method's options, by method.

    Raises:
        UserError: a key that none of the specs has (naming the nearest), or a value that it cannot take.
    """
    every = set().union(*options.values())
    if "budgets" in every and "budget" not in every:
        lists = {"budget": "budgets", "options.budget": "options.budgets"}
        settings = {lists.get(key, key): f"[{value}]" if key in lists else value for key, value in settings.items()}
    for key in settings:
        _check_key(key, every)

    trains = any(spec.train.epochs for spec in specs)

    def change(spec: RunSpec) -> RunSpec:
        skipped = every - set(options[spec.method])
        reaching = {key: value for key, value in settings.items() if _option_of(key) not in skipped}
        if spec.init_from is not None:
            reaching = {key: value for key, value in reaching.items() if key not in ("init_from", "weights")}
        if trains and not spec.train.epochs:
            reaching = {key: value for key, value in reaching.items() if key not in ("epochs", "train.epochs")}
        return with_settings(spec, reaching, options[spec.method])

    return changed(specs, change)


def _check_key(key: str, options: set[str]) -> None:
    """Raise `UserError` for a key that no run has; where one does, `with_settings` says the rest."""
    section, dot, name = key.partition(".")
    if dot and section == "options" and name not in options:
        raise unknown("key in options", name, options)
    if not dot and key not in COMMON | options:
        raise unknown("key", key, (COMMON | options) - {*SECTIONS, "options"})


def _option_of(key: str) -> str | None:
    """The option that a setting's key names; None where it is a key that every run has."""
    section, dot, name = key.partition(".")
    if dot:
        return name if section == "options" else None
    return None if key in COMMON else key


def with_settings(spec: RunSpec, settings: Mapping[str, Any], options: Iterable[str] | None = None) -> RunSpec:
    """A copy of `spec` with some keys set: what `--set key=value` does.

    Keys are dotted ("train.epochs", "options.random_widths") or bare ("seed", "epochs"); a bare one is
    looked up in the run's own fields, train, data, profile, then options. A string value is read as JSON,
    else kept. `options` names the method's options when the caller knows them; otherwise any `options.key`
    is taken, but a bare option must be in the spec already. Raises UserError for an unknown key (naming the
    nearest) or an impossible value.

    >>> spec = with_settings(RunSpec("us_net", "us_mobilenet_micro8"), {"epochs": "3", "options.random_widths": "1"})
    >>> spec.train.epochs, dict(spec.options)
    (3, {'random_widths': 1})
    >>> with_settings(spec, {"epoch": "3"})  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    bench.core.errors.UserError: unknown key 'epoch'; did you mean 'epochs'? known: ...
    """
    raw = spec.to_json()
    names = None if options is None else set(options)
    for key, value in settings.items():
        section, name = _locate(key, set(raw["options"]), names)
        kind = SECTIONS.get(section, RunSpec) if section != "options" else None
        target = raw[section] if section else raw
        target[name] = _value(value, kind, name)
    return parse_spec(raw)


def _locate(key: str, present: set[str], names: set[str] | None) -> tuple[str, str]:
    """(section, name) of a setting's key; the section is "" for the run's own fields."""
    section, dot, name = key.partition(".")
    top = [k for k in _keys(RunSpec) if k not in (*SECTIONS, "options")]
    if not dot:
        return _locate_bare(key, top, present | (names or set()))
    if section not in (*SECTIONS, "options"):
        raise unknown("section", section, [*SECTIONS, "options"])
    if section == "options" and names is not None and name not in names:
        raise unknown("key in options", name, names)
    if section in SECTIONS and name not in _keys(SECTIONS[section]):
        raise unknown(f"key in {section}", name, _keys(SECTIONS[section]))
    return section, name


def _locate_bare(key: str, top: list[str], options: set[str]) -> tuple[str, str]:
    places = {
        "": top,
        **{section: _keys(kind) for section, kind in SECTIONS.items()},
        "options": sorted(options),
    }
    for section, names in places.items():
        if key in names:
            return section, key
    if key in places:
        raise UserError(
            f"{key!r} is a whole section; set one of its keys, such as {key}.{next(iter(places[key]), 'KEY')}"
        )
    raise unknown("key", key, {name for names in places.values() for name in names})


def _value(value: Any, kind: type | None, name: str) -> Any:
    """A setting's value: strings read as JSON where that is what the field takes."""
    if not isinstance(value, str):
        return value
    try:
        parsed = json.loads(value, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return value
    hint = get_type_hints(kind)[name] if kind else Any
    takes_text = get_origin(hint) is not tuple and str in (hint, *get_args(hint))
    return value if takes_text and parsed is not None and not isinstance(parsed, str) else parsed


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _keys(kind: type) -> list[str]:
    return list(kind.__dataclass_fields__)


COMMON = {key for kind in (RunSpec, *SECTIONS.values()) for key in _keys(kind)}
"""Bare keys that every run has, sections included."""
