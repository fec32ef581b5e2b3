"""What names may be, wherever they come from: one pattern for what stands in tables, and a narrower one for folders."""

import re

from bench.core.errors import UserError

_LABEL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.,:/@=+-]{0,159}")
_FOLDER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}")


def is_label(text: object) -> bool:
    """Whether `text` can name a model, a dataset, a split, a point or a form: one line that no table, page or figure
    takes for anything but text. Output files have names made of it, never `text` itself."""
    return isinstance(text, str) and _LABEL.fullmatch(text) is not None


def is_part(text: object) -> bool:
    """Whether `text` can name a point or a checkpoint: as `is_label`, and safe as a part of a file's name."""
    return is_label(text) and "/" not in str(text)


def is_run_id(text: object) -> bool:
    """Whether `text` can be a run_id or the name of a method, and so is safe as the name of a folder."""
    return isinstance(text, str) and _FOLDER.fullmatch(text) is not None


def check_label(key: str, value: object) -> None:
    """Raises UserError for a value that is neither None nor a label."""
    if value is not None and not is_label(value):
        raise UserError(f"{key} must be a name of letters, digits and _.,:/@=+- without spaces, not {value!r}")
