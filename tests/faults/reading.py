"""Reading a folder that may be damaged: how it ends, in one word."""

import contextlib
import io
import traceback
from collections.abc import Callable
from pathlib import Path

from akt_lab.commands import main
from akt_lab.errors import AktError

# How a reading can end; the last three must not happen.
OUTCOMES = {
    "right": "as if nothing had happened",
    "put_right": "another result than before, and a line that names the file and says so",
    "refused": "one line that names the file",
    "unnamed": "refused, but the file is not named in one line",
    "silent": "another result, without a word",
    "traceback": "anything but an AktError",
}
BAD = ("unnamed", "silent", "traceback")


def command(*arguments: object) -> str:
    """What a command prints on standard output; what it says on standard error goes there.

    Raises:
        AktError: with its one line, if it failed.
    """
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(argument) for argument in arguments])
    said = [line for line in err.getvalue().replace("\r", "\n").splitlines() if line.strip()]
    errors = [line for line in said if line.startswith("akt-lab ")]
    if code:
        raise AktError("\n".join(errors) or f"exit code {code} without a word")
    print("\n".join(said))  # to whoever listens: `outcome`
    return out.getvalue()


def outcome(read: Callable[[], object], expected: object, damaged: Path) -> tuple[str, str]:
    """How a reading ended, one of `OUTCOMES`, and what was said."""
    heard = io.StringIO()
    try:
        with contextlib.redirect_stdout(heard), contextlib.redirect_stderr(heard):
            found = read()
    except AktError as error:
        lines = str(error).splitlines()
        named = len(lines) == 1 and damaged.name in lines[0]
        return "refused" if named else "unnamed", str(error)
    except Exception:
        return "traceback", traceback.format_exc()
    if found == expected:
        return "right", heard.getvalue()
    return "put_right" if damaged.name in heard.getvalue() else "silent", heard.getvalue()
