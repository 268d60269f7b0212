"""`akt-lab export`: a run's student, or its teacher, as a file that is checked: ONNX, or .pt2."""

import argparse
import json
import sys
from contextlib import redirect_stdout
from typing import Any

from akt_lab.commands.options import add_bench_options, device_of, given_bench, path, report
from akt_lab.errors import UsageError


def add(commands: argparse._SubParsersAction, name: str) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        name,
        help="a run's student as an ONNX file, checked and timed, or as a .pt2 file",
        argument_default=argparse.SUPPRESS,
        description="Write a run's student as an ONNX file, if ONNX Runtime, and OpenVINO where it "
        "is installed, give the student's logits for every evaluation image; and time it. Or as a "
        ".pt2 file of torch.export, which PyTorch alone reads, checked in the same way.",
    )
    parser.add_argument("run", type=path, metavar="RUN", help="a run's folder")
    parser.add_argument(
        "--out", type=path, required=True, metavar="FILE",
        help="the file: .pt2, or else ONNX; it must be new",
    )  # fmt: skip
    parser.add_argument(
        "--storage", choices=("packed", "int4", "int8", "float"),
        help="how weights are held: int8, a byte each (default); int4, half a byte up to 4 bits; "
        "packed, at their bits; float, for what knows no whole numbers",
    )  # fmt: skip
    parser.add_argument(
        "--sums", choices=("float", "8"),
        help="8: round layers' outputs and residual sums to 8 bits, too, and ONNX Runtime computes "
        "in integers; that is checked against the same network in PyTorch (default: float)",
    )  # fmt: skip
    parser.add_argument(
        "--maps", action="store_true", default=False,
        help="the file also gives the feature maps that AKT distils",
    )  # fmt: skip
    parser.add_argument(
        "--float", action="store_true", default=False, help="the run's teacher, in float32"
    )
    parser.add_argument(
        "--check", action=argparse.BooleanOptionalAction, default=True,
        help="run it on every evaluation image, compare, and time it (default: yes)",
    )  # fmt: skip
    add_bench_options(parser, trains=False)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(options: argparse.Namespace) -> int:
    """Write the file, if it is good."""
    with redirect_stdout(sys.stderr):  # a network may print
        result = _exported(options)
    if getattr(options, "json", False):
        print(json.dumps(result, indent=2))
    else:
        report(_lines(result), options)
    return 0


def _exported(options: argparse.Namespace) -> dict[str, Any]:
    from akt_lab import export
    from akt_lab.benches import BenchSpec, load_bench
    from akt_lab.files import write_whole
    from akt_lab.runs.folder import Run

    form = "pt2" if options.out.suffix == ".pt2" else "onnx"
    for name in ("storage", "sums", "maps"):
        given = getattr(options, name, False)
        if options.float and given and name != "maps":
            raise UsageError(f"--float is the teacher, in which nothing is rounded: drop --{name}")
        if form == "pt2" and given:
            raise UsageError(f"--{name} is of ONNX files, and {options.out} is none: drop it")
    storage, sums = getattr(options, "storage", "int8"), getattr(options, "sums", "float")
    export.check_target(options.out)
    if form == "onnx":
        export.needed("onnx")
    made = Run.open(options.run)
    on = {**made.entry("bench"), **given_bench(options)}
    options.device = getattr(options, "device", "cpu")  # where the runtimes are
    bench = load_bench(BenchSpec.from_dict(on), device_of(options), progress=True)
    how: dict[str, Any] = {"sums": sums, "maps": options.maps, "teacher": options.float}
    exported = export.of_run(made, bench, storage, form=form, **how)
    runtimes = export.measured(exported, progress=True) if options.check else {}
    result: dict[str, Any] = {
        "file": str(options.out),
        "network": exported.source,
        "bench": bench.name,
        "bits": exported.metadata["bits"],
        "effective_bits": exported.bits(),
        "storage": exported.metadata["storage"],
        "sums": exported.metadata["sums"],
        "bytes": exported.sizes(),
        "runtimes": runtimes,
    }
    write_whole(options.out, exported.content)
    return result


def _lines(result: dict[str, Any]) -> dict[str, Any]:
    """The same for a reader: a line an entry, and three for each runtime that was timed."""
    shown: dict[str, Any] = {k: v for k, v in result.items() if isinstance(v, str)}
    if bits := result["effective_bits"]:
        shown["effective bits"] = f"{bits['weights']} a weight, {bits['activations']} an activation"
    words = {"file": "in the file", "accounted": "at its bits", "entropy_coded": "ideally coded",
             "float32": "in float32"}  # fmt: skip
    shown["bytes"] = ", ".join(f"{n:,} {words[name]}" for name, n in result["bytes"].items())
    for name, found in result["runtimes"].items():
        shown[f"{name} {found['version']}"] = (
            f"{found['accuracy']:.2f}% of {found['images']:,} images, the network in PyTorch "
            f"{found['student_accuracy']:.2f}%; largest difference {found['difference']:.2g} of a "
            f"logit, {found['at_ties']} images apart by a rounding at a tie, "
            f"{found['classes']} classes differ"
            + ("" if found["good"] else ": NOT the same, it rounds otherwise")
        )
        if "ms" not in found:
            continue
        whole, others = found["in_integers"], found["in_float"]
        ms = f"{found['ms']:.3f} ms an image on one thread"
        if "ms_float32" in found:
            ms += f", float32 {found['ms_float32']:.3f} ms"
        shown[f"{name} speed"] = ms
        named = f"; in float: {', '.join(others)}" if whole and others else ""
        shown[f"{name} layers"] = (
            f"{len(whole)} of {len(whole) + len(others)} ran in integers{named}"
        )
    if not result["runtimes"]:
        shown["checked"] = "no"
    return shown
