"""The command line, `akt-lab COMMAND`: a file for each command, with its name.

Nothing heavy is imported before a command needs it, so that `--help` answers at once.
Exit codes: 0 done, 1 failed on the way, 2 wrong usage, 130 stopped by Ctrl-C, 143 by SIGTERM, 129
by SIGHUP.
"""

import argparse
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from akt_lab import __version__
from akt_lab.commands import demo, doctor, evaluate, figures, lab, methods, quantize, sweep, table
from akt_lab.errors import AktError, UsageError

COMMANDS = {
    module.__name__.rpartition(".")[2]: module
    for module in (demo, quantize, evaluate, sweep, table, figures, methods, doctor, lab)
}


def parser() -> argparse.ArgumentParser:
    """The parser of all commands; each adds its own."""
    whole = argparse.ArgumentParser(
        prog="akt-lab", description="See zero-shot quantization happen, and test its claims."
    )
    whole.add_argument("--version", action="version", version=f"akt-lab {__version__}")
    commands = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        command.add(commands, name)
    return whole


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; a user's mistake is one line on standard error, never a traceback."""
    whole = parser()
    options, rest = whole.parse_known_args(argv)
    if rest and options.command != "lab":  # whose server takes them
        whole.error(f"unrecognized arguments: {' '.join(rest)}")
    options.rest = rest
    try:
        with _stopped_by_signals():
            return COMMANDS[options.command].run(options)
    except AktError as error:
        print(f"akt-lab {options.command}: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except (KeyboardInterrupt, Stopped) as stop:
        number = getattr(stop, "number", signal.SIGINT)
        how = "--resume goes on from its last checkpoint, if it has one"
        if options.command != "quantize":
            how = "the same command goes on from it"
        by = "" if number == signal.SIGINT else f" by {signal.Signals(number).name}"
        with suppress(OSError):  # the terminal may be gone
            print(f"\nstopped{by}; what was saved is kept, and {how}", file=sys.stderr)
        return 128 + number


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
