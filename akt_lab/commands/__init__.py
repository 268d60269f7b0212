"""The command line, `akt-lab COMMAND`: a file for each command, with its name.

Nothing heavy is imported before a command needs it, so that `--help` answers at once.
Exit codes: 0 done, 1 failed on the way, 2 wrong usage, 130 stopped by Ctrl-C, 143 by SIGTERM, 129
by SIGHUP.
"""

import argparse
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

from akt_lab import __version__
from akt_lab.commands import (
    demo,
    doctor,
    evaluate,
    export,
    figures,
    grade,
    import_,
    lab,
    methods,
    quantize,
    sweep,
    table,
    verdicts,
)
from akt_lab.errors import AktError, UsageError, one_line

COMMANDS = {
    module.__name__.rpartition(".")[2].rstrip("_"): module  # `import` is a word of Python's
    for module in (
        demo, quantize, import_, evaluate, export, sweep, table, verdicts, figures, methods, doctor,
        lab, grade,
    )
}  # fmt: skip

FULL = re.compile("OutOfMemoryError|can't allocate memory|not enough memory")  # PyTorch's words


class Parser(argparse.ArgumentParser):
    """argparse's, that tells a mistake in one line; the options are in --help."""

    def error(self, message: str) -> NoReturn:
        """End with exit code 2."""
        self.exit(2, f"{self.prog}: {one_line(message)} (see {self.prog} --help)\n")


def parser() -> argparse.ArgumentParser:
    """The parser of all commands; each adds its own."""
    whole = Parser(
        prog="akt-lab", description="See zero-shot quantization happen, and test its claims."
    )
    whole.add_argument("--version", action="version", version=f"akt-lab {__version__}")
    commands = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        command.add(commands, name)
    return whole


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; a user's mistake is one line on standard error, never a traceback."""
    for stream in (sys.stdout, sys.stderr):  # a class's name, say, in a console of Windows
        if getattr(stream, "errors", None) == "strict" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    warnings.filterwarnings("ignore", "Image size .* exceeds limit")  # we refuse it, in one line
    warnings.filterwarnings("ignore", "TensorFloat32 tensor cores")  # left off, for comparison
    whole = parser()
    for argument in sys.argv[1:] if argv is None else argv:
        if re.fullmatch("--[a-z-]+=--", argument):  # argparse makes an empty list of it
            whole.error(f"argument {argument[:-3]}: must name something, not '--'")
    options, rest = whole.parse_known_args(argv)
    if rest and options.command != "lab":  # whose server takes them
        whole.error(f"unrecognized arguments: {' '.join(rest)}")
    options.rest = rest
    try:
        with _stopped_by_signals():
            return COMMANDS[options.command].run(options)
    except AktError as error:
        return _end(options.command, str(error), 2 if isinstance(error, UsageError) else 1)
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        place = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        return _end(options.command, f"{place}{error.strerror or error}", 1)
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError) or FULL.search(f"{type(error).__name__} {error}")):
            raise
        words = "not enough memory: try a smaller --batch-size, --image-size or --pool"
        return _end(options.command, f"{words} ({error or 'MemoryError'})", 1)
    except (KeyboardInterrupt, Stopped) as stop:
        number = getattr(stop, "number", signal.SIGINT)
        how = "--resume goes on from its last checkpoint, if it has one"
        if options.command != "quantize":
            how = "the same command goes on from it"
        by = "" if number == signal.SIGINT else f" by {signal.Signals(number).name}"
        with suppress(OSError):  # the terminal may be gone
            print(f"\nstopped{by}; what was saved is kept, and {how}", file=sys.stderr)
        return 128 + number


def _end(command: str, message: str, code: int) -> int:
    print(f"akt-lab {command}: {one_line(message)}", file=sys.stderr)
    return code


class Stopped(BaseException):
    """A signal asked the command to end."""

    def __init__(self, number: int) -> None:
        """Which one."""
        super().__init__(number)
        self.number = number


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end a command as Ctrl-C does; the first one, and the rest is ignored.

    What is not left to its default stays as it is: under nohup nothing hears SIGHUP.
    """
    names = ("SIGTERM", "SIGHUP")  # Windows has no SIGHUP
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    here = threading.current_thread() is threading.main_thread()
    ours = [n for n in numbers if here and signal.getsignal(n) == signal.SIG_DFL]

    def stop(number: int, _: Any) -> None:
        for each in ours:
            signal.signal(each, signal.SIG_IGN)
        raise Stopped(number)

    try:
        for each in ours:
            signal.signal(each, stop)
        yield
    finally:
        for each in ours:
            signal.signal(each, signal.SIG_DFL)
