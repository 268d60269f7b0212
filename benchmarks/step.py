"""Our training step against the released one, repaired and written plainly, in one run.

    python benchmarks/step.py --batch 200 --precision fp32 --json

Same teacher, same weights, same noise and classes. Each side lives in a process of its own, as
its user would run it (ours keeps freed memory, the reference is plain PyTorch); the two take
turns, and medians are compared. On the same images the losses of a first step must agree to 1e-4,
or the comparison is refused (in float32 and uncompiled; else the difference is only printed).
"""

import argparse
import copy
import dataclasses
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from pytorchcv.model_provider import get_model
from reference import Reference
from torch import nn

from akt_lab.benches import Bench
from akt_lab.benches.known import CIFAR_MEAN, CIFAR_STD
from akt_lab.quantizer import freeze_ranges
from akt_lab.runs.networks import prepare
from akt_lab.settings import Settings
from akt_lab.speed import keep_freed_memory
from akt_lab.step import Training, train_step

BITS = 3
TOLERANCE = 1e-4


def make_teacher() -> nn.Module:
    """ResNet-20 of pytorchcv with random weights, its batch norms settled on noise."""
    torch.manual_seed(0)
    teacher = get_model("resnet20_cifar10").train()
    with torch.no_grad():
        for _ in range(20):
            teacher(torch.randn(64, 3, 32, 32))
    return teacher.eval()


def make_bench(teacher: nn.Module, images: int = 1, device: str = "cpu") -> Bench:
    """The teacher with images of noise, all of class 0."""
    noise = torch.randint(256, (images, 3, 32, 32), dtype=torch.uint8)
    labels, classes = torch.zeros(images, dtype=torch.long), tuple("0123456789")
    about = (classes, CIFAR_MEAN, CIFAR_STD, torch.device(device))
    return Bench("resnet20", teacher.to(device), noise, labels, *about)


def make_ours(
    teacher: nn.Module,
    batch: int,
    precision: str = "fp32",
    compiled: bool = False,
    device: str = "cpu",
    seed: int = 0,
) -> Training:
    """Our side, past its warm-up: ranges observed once and frozen."""
    settings = Settings(
        method="adadfq+akt",
        variant="code",
        weight_bits=BITS,
        act_bits=BITS,
        batch_size=batch,
        precision=precision,
        compile=compiled,
        seed=seed,
    )
    ours = prepare(make_bench(teacher, device=device), settings)
    with torch.no_grad():
        ours.student(ours.generator(*ours.generator.draw(batch, ours.rng)))
    freeze_ranges(ours.student)
    ours.epoch = settings.warmup_epochs
    return ours


def check_losses(ours: Training, reference: Reference, batch: int) -> float:
    """Largest difference of any loss term in a first step on the very same images.

    Relative to the term, or to a thousandth of their sum if that is larger. Both sides use the
    plain generator here: images that differ in the seventh digit would tip a few activations to
    the next level of a 3-bit grid, and the comparison would show that and nothing else.
    """
    twin = copy.deepcopy(reference.generator)
    optimizer = torch.optim.Adam(twin.parameters(), 1e-3, betas=(0.5, 0.999))
    z, y = ours.generator.draw(batch, ours.rng)
    settings = dataclasses.replace(ours.settings, compile=False)
    same = dataclasses.replace(
        ours, settings=settings, generator=twin, generator_optimizer=optimizer
    )
    terms = train_step(same, z, y)
    plain = reference.step(z, y)
    floor = 1e-3 * sum(abs(value) for value in plain.values())
    return max(
        abs(terms[name].item() - value) / max(abs(value), floor) for name, value in plain.items()
    )


class Side:
    """One side in a process of its own: does a step when asked, and says how long it took."""

    def __init__(self, side: str, options: argparse.Namespace) -> None:
        """Starts it, and lets it do two steps (the first may compile for minutes)."""
        flags = [f"--{name}={getattr(options, name)}" for name in ("batch", "precision", "threads")]
        flags += ["--compile"] * options.compile + ["--equal-memory"] * options.equal_memory
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve", side, *flags],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.first_seconds = self.step()
        self.step()

    def step(self) -> float:
        """Seconds of one more step."""
        return float(self._ask("step"))

    def peak_mb(self) -> float:
        """Its peak resident memory so far, in MB; ends the process."""
        peak = float(self._ask("peak"))
        self.process.communicate()
        return peak

    def _ask(self, what: str) -> str:
        assert self.process.stdin
        assert self.process.stdout
        print(what, file=self.process.stdin, flush=True)
        return self.process.stdout.readline()


def serve(side: str, options: argparse.Namespace) -> None:
    """The body of a `Side`'s process."""
    torch.set_num_threads(options.threads)
    if side == "ours" or options.equal_memory:
        keep_freed_memory()  # as `akt-lab quantize` does
    teacher = make_teacher()
    ours = make_ours(teacher, options.batch, options.precision, options.compile)
    step: Callable[..., object] = lambda z, y: train_step(ours, z, y)  # noqa: E731
    if side == "reference":
        step = Reference(teacher, ours.student, ours.generator, BITS).step
    for question in sys.stdin:
        if question.strip() == "peak":
            print(round(peak_resident_kb() / 1024, 1), flush=True)
            return
        z, y = ours.generator.draw(options.batch, ours.rng)
        start = time.perf_counter()
        step(z, y)
        print(time.perf_counter() - start, flush=True)


def compare(options: argparse.Namespace) -> dict[str, object]:
    """One row: seconds a step of both, taken in turns, and their ratio."""
    teacher = make_teacher()
    ours = make_ours(teacher, options.batch, options.precision)
    reference = Reference(teacher, ours.student, ours.generator, BITS)
    difference = check_losses(ours, reference, options.batch)
    if options.precision == "fp32" and not difference < TOLERANCE:
        raise SystemExit(f"losses differ by {difference:.1e} relative, over {TOLERANCE:.0e}")
    sides = Side("ours", options), Side("reference", options)
    seconds = [[side.step() for side in sides] for _ in range(options.repeats)]
    ours_s, reference_s = (statistics.median(column) for column in zip(*seconds, strict=True))
    return {
        "batch": options.batch,
        "precision": options.precision,
        "compile": options.compile,
        "equal_memory": options.equal_memory,
        "ratio": round(reference_s / ours_s, 3),
        "seconds": round(ours_s, 4),
        "reference_seconds": round(reference_s, 4),
        "peak_mb": sides[0].peak_mb(),
        "reference_peak_mb": sides[1].peak_mb(),
        "first_step_seconds": round(sides[0].first_seconds, 1),
        "largest_loss_difference": difference,
        "threads": options.threads,
        "repeats": options.repeats,
    }


def peak_resident_kb() -> int:
    """Of this process alone; getrusage's would start from its parent's on Linux."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1])  # type: ignore[index]
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024  # macOS counts bytes


def main() -> None:
    """A row for every batch size, precision, and way to run the step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, nargs="+", default=[16, 200])
    parser.add_argument("--precision", choices=("fp32", "bf16"), nargs="+", default=["fp32"])
    parser.add_argument("--compile", action="store_true", help="our step as one compiled graph")
    parser.add_argument(
        "--equal-memory", action="store_true", help="keep freed memory in the reference, too"
    )
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="a JSON list of rows")
    parser.add_argument("--csv", type=Path, help="append the rows to this file")
    parser.add_argument("--serve", choices=("ours", "reference"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    each = [
        argparse.Namespace(**{**vars(options), "batch": batch, "precision": precision})
        for batch in options.batch
        for precision in options.precision
    ]
    if options.serve:
        serve(options.serve, each[0])
        return
    rows = pd.DataFrame([compare(one) for one in each])
    if options.csv:
        rows.to_csv(options.csv, mode="a", header=not options.csv.exists(), index=False)
    records = rows.to_dict("records")
    if options.json:
        print(json.dumps(records, indent=2))
    else:
        print(*("  ".join(f"{k}={v}" for k, v in row.items()) for row in records), sep="\n")


if __name__ == "__main__":
    main()
