"""The exceptions that are a message to the user, and the "did you mean" sentence."""

from collections.abc import Collection, Iterable
from difflib import get_close_matches


class UserError(Exception):
    """Something the user can put right: one clear sentence. The command line prints it and exits with 2."""


class NotAtHand(UserError):
    """Something that is not on this machine: a data set, a checkpoint. With it, the same command would work."""


def one_line(text: str) -> str:
    """Text without line breaks, control characters and half characters, whatever a results file says."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def unknown(kind: str, name: str, allowed: Iterable[str]) -> UserError:
    """The error for a `name` that is not among the `allowed` ones; it names the nearest, then all of them.

    Returned, not raised, so that the caller's `raise unknown(...)` ends its control flow visibly.

    >>> unknown("method", "us-net", ["ds_net", "us_net"])
    UserError("unknown method 'us-net'; did you mean 'us_net'? known: ds_net, us_net")
    """
    names = sorted(allowed)
    folded = {candidate.lower(): candidate for candidate in names}
    near = get_close_matches(str(name).lower(), list(folded), n=1, cutoff=0.5)
    hint = f"; did you mean {folded[near[0]]!r}?" if near else ";"
    return UserError(f"unknown {kind} {name!r}{hint} known: {', '.join(names) or 'none'}")


def check_known(kind: str, name: str, allowed: Collection[str]) -> None:
    """Raise the error of `unknown` for a name that is not among the allowed ones."""
    if name not in allowed:
        raise unknown(kind, name, allowed)
