"""Mistakes that a user can make, each told in one clear line."""

import difflib
from collections.abc import Iterable


def one_line(text: str) -> str:
    """The text with the ends of its lines spelt out: names of files and tensors may hold some."""
    return "\\n".join(text.splitlines())


class AktError(ValueError):
    """Something failed on the way; the message says what to do. The command line exits with 1."""

    def __init__(self, *parts: str) -> None:
        """The message, which becomes one line."""
        super().__init__(*map(one_line, parts))


class UsageError(AktError):
    """An argument that cannot be right, whatever the files hold. The command line exits with 2."""


class DamagedError(AktError):
    """A file that is not what was written into it.

    Attributes:
        what: which file, and why; the message also says what to do `then`.
    """

    def __init__(self, what: str, then: str) -> None:
        """Both go with it to another process."""
        super().__init__(what, then)
        self.what = what

    def __str__(self) -> str:
        """The whole message."""
        return ": ".join(self.args)


class DivergedError(AktError):
    """A loss or gradient that is not finite: the run's result, and not a mistake of the user's."""


def unknown(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a `name` that is not among the `known` ones, with the nearest of them."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"choose from: {', '.join(known)}"
    return UsageError(f"unknown {kind} {name!r}: {hint}")
