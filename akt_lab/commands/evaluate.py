"""`akt-lab evaluate`: accuracy of a run's student, and of its teacher."""

import argparse
import sys
from contextlib import redirect_stdout
from typing import Any

from akt_lab.commands.options import add_bench_options, device_of, given_bench, path, report
from akt_lab.errors import UsageError


def add(commands: argparse._SubParsersAction, name: str) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        name,
        help="accuracy of a run's student, and of its teacher",
        argument_default=argparse.SUPPRESS,
        description="Accuracy of a run's student and its teacher; of a teacher alone without RUN.",
    )
    parser.add_argument(
        "run", nargs="?", type=path, default=None, metavar="RUN", help="a run's folder"
    )
    add_bench_options(parser, trains=False)
    parser.add_argument(
        "--common-pool", action="store_true", default=False,
        help="also judge the student without labels, on 256 synthetic images that are the same for "
        "students of every method (made on first use: minutes)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(options: argparse.Namespace) -> int:
    """Count what a student and its teacher get right."""
    with redirect_stdout(sys.stderr):  # a network may print
        result = _evaluated(options)
    report(result, options)
    return 0


def _evaluated(options: argparse.Namespace) -> dict[str, Any]:
    from akt_lab.benches import BenchSpec, load_bench
    from akt_lab.runs import agreement, networks, training
    from akt_lab.runs.folder import Run

    if options.common_pool and options.run is None:
        raise UsageError("--common-pool judges a run's student: name a RUN")
    given, made = given_bench(options), None
    if options.run is not None:
        made = Run.open(options.run)
        given = {**made.entry("bench"), **given}
    bench = load_bench(BenchSpec.from_dict(given), device_of(options), progress=True)
    result: dict[str, Any] = {"bench": bench.name, "images": len(bench.images)}
    if made is not None:
        student, result["student"] = networks.load_student(made, bench)
        result["student_accuracy"] = training.evaluate(student, bench, progress=True)
        if options.common_pool:
            images = agreement.common_pool(bench)
            result |= agreement.common_kl(student, bench.teacher, images)
    result["teacher_accuracy"] = training.judge(bench, progress=True)
    return result
