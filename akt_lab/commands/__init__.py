"""The command line, `akt-lab COMMAND`: a file for each command, with its name.

Nothing heavy is imported before a command needs it, so that `--help` answers at once.
Exit codes: 0 done, 1 failed on the way, 2 wrong usage, 130 stopped by Ctrl-C.
"""

import argparse
import sys
from collections.abc import Sequence

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
        return COMMANDS[options.command].run(options)
    except AktError as error:
        print(f"akt-lab {options.command}: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        how = "--resume goes on from its last checkpoint, if it has one"
        if options.command != "quantize":
            how = "the same command goes on from it"
        print(f"\nstopped; what was saved is kept, and {how}", file=sys.stderr)
        return 130
