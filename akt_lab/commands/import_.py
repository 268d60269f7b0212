"""`akt-lab import`: a student that GDFQ's, AdaDFQ's or HAST's code has saved, as a run's folder."""

import argparse
import sys
from contextlib import redirect_stdout
from typing import Any

from akt_lab.commands.options import (
    SETTING_OPTIONS,
    add_bench_options,
    device_of,
    given_bench,
    given_settings,
    path,
    report,
)
from akt_lab.errors import UsageError

BITS = {
    "--bits": "those of weights and activations, 2 to 8: the file does not say",
    "--weight-bits": "those of weights, where they differ",
    "--act-bits": "those of activations, where they differ",
}


def add(commands: argparse._SubParsersAction, name: str) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        name,
        help="a released student of GDFQ's family, as a run's folder",
        argument_default=argparse.SUPPRESS,
        description="Make a run's folder of a quantized network's state dict as GDFQ's, AdaDFQ's "
        "or HAST's code saves it: for evaluate, export and the explorers.",
    )
    parser.add_argument(
        "checkpoint", type=path, metavar="CHECKPOINT", help="the file, .pth or .safetensors"
    )
    parser.add_argument("--out", type=path, required=True, help="the run's folder; it must be new")
    parser.add_argument(
        "--method", choices=("gdfq", "adadfq", "hast"), required=True, help="whose code saved it"
    )
    for option in BITS:
        parser.add_argument(option, **SETTING_OPTIONS[option] | {"help": BITS[option]})
    add_bench_options(parser, trains=False)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(options: argparse.Namespace) -> int:
    """Read it, evaluate it, leave it in its folder."""
    with redirect_stdout(sys.stderr):  # a network may print
        result = _imported(options)
    report(result, options)
    return 0


def _imported(options: argparse.Namespace) -> dict[str, Any]:
    from akt_lab.benches import BenchSpec, load_bench
    from akt_lab.files import claim
    from akt_lab.runs import found, released
    from akt_lab.runs.folder import Run

    bits = given_settings(options, BITS)
    if {"weight_bits", "act_bits"} - bits.keys():
        raise UsageError("a checkpoint does not say its bits: give --bits, as its settings' qw, qa")
    settings = released.settings_of(options.method, **bits)
    spec = BenchSpec(**given_bench(options))
    if options.out.exists():
        Run.create(options.out)  # says so now if it is in use
    bench = load_bench(spec, device_of(options), progress=True)
    student, notes = released.load_released(options.checkpoint, bench, settings)
    for note in notes:
        found.say(note)
    made = Run.create(options.out)
    with claim(made.folder, wait=False):
        released.keep(student, made, bench, spec, settings, options.checkpoint.name)
    return {
        "run": str(made.folder),
        "method": settings.method,
        "bits": settings.bits,
        "student_accuracy": made.entry("accuracy")["last"],
        "teacher_accuracy": made.entry("teacher_accuracy"),
        "images": made.entry("images"),
    }
