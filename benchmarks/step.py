"""Our training step against the released one, repaired and written plainly, in one run.

    python benchmarks/step.py --batch 200 --precision fp32 --json

Same teacher, same weights, same noise and classes; the two take turns, and medians are compared.
The losses of the first step must agree to 1e-4, or the comparison is refused (in float32; in
bfloat16 the largest difference is printed). Peak memory is measured in a process for each.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import torch
from pytorchcv.model_provider import get_model
from reference import Reference
from torch import nn

from akt_lab.benches import CIFAR_MEAN, CIFAR_STD, Bench
from akt_lab.methods import Settings
from akt_lab.quantizer import freeze_ranges
from akt_lab.training import Training, prepare, train_step

BITS = 3
TOLERANCE = 1e-4


def make_teacher() -> nn.Module:
    """pytorchcv's ResNet-20 with random weights, its batch norms settled on noise."""
    torch.manual_seed(0)
    teacher = get_model("resnet20_cifar10").train()
    with torch.no_grad():
        for _ in range(20):
            teacher(torch.randn(64, 3, 32, 32))
    return teacher.eval()


def make_ours(teacher: nn.Module, batch: int, precision: str) -> Training:
    """Our side, past its warm-up: ranges observed once and frozen."""
    none = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    classes = tuple("0123456789")
    device = torch.device("cpu")
    bench = Bench("resnet20", teacher, none, none, classes, CIFAR_MEAN, CIFAR_STD, device)
    settings = Settings(
        method="adadfq+akt",
        variant="code",
        weight_bits=BITS,
        act_bits=BITS,
        batch_size=batch,
        precision=precision,
    )
    ours = prepare(bench, settings)
    with torch.no_grad():
        ours.student(ours.generator(*ours.generator.draw(batch, ours.rng)))
    freeze_ranges(ours.student)
    ours.epoch = settings.warmup_epochs
    return ours


def largest_difference(ours: dict[str, float], reference: dict[str, float]) -> float:
    """Of any loss term, relative to the term (or to 1e-3 of the whole, if it is larger)."""
    whole = sum(abs(value) for value in reference.values())
    return max(
        abs(float(ours[name]) - value) / max(abs(value), 1e-3 * whole)
        for name, value in reference.items()
    )


def compare(batch: int, precision: str, repeats: int) -> dict[str, object]:
    """One row: seconds a step of both, taken in turns, and their ratio."""
    teacher = make_teacher()
    ours = make_ours(teacher, batch, precision)
    reference = Reference(teacher, ours.student, ours.generator, BITS)
    seconds: dict[str, list[float]] = {"ours": [], "reference": []}
    difference = None
    for _ in range(repeats + 1):
        z, y = ours.generator.draw(batch, ours.rng)
        start = time.perf_counter()
        terms = {name: float(term) for name, term in train_step(ours, z, y).items()}
        middle = time.perf_counter()
        plain = reference.step(z, y)
        end = time.perf_counter()
        if difference is None:  # the first step: weights are still equal; its times are not used
            difference = largest_difference(terms, plain)
            continue
        seconds["ours"].append(middle - start)
        seconds["reference"].append(end - middle)
    if precision == "fp32" and not difference < TOLERANCE:  # type: ignore[operator]
        raise SystemExit(f"losses differ by {difference:.1e} relative, over {TOLERANCE:.0e}")
    ours_s, reference_s = (statistics.median(seconds[k]) for k in ("ours", "reference"))
    return {
        "batch": batch,
        "precision": precision,
        "ratio": round(reference_s / ours_s, 3),
        "seconds": round(ours_s, 4),
        "reference_seconds": round(reference_s, 4),
        "peak_mb": peak_memory("ours", batch, precision),
        "reference_peak_mb": peak_memory("reference", batch, precision),
        "largest_loss_difference": difference,
        "threads": torch.get_num_threads(),
        "repeats": repeats,
    }


def peak_memory(side: str, batch: int, precision: str) -> float:
    """Peak resident memory of a process that does three steps of one side, in MB."""
    command = [sys.executable, __file__, "--batch", str(batch), "--precision", precision]
    done = subprocess.run(
        [*command, "--peak-of", side], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def measure_peak(side: str, batch: int, precision: str) -> float:
    """The body of `peak_memory`'s process."""
    teacher = make_teacher()
    ours = make_ours(teacher, batch, precision)
    draw = ours.generator.draw
    if side == "reference":
        reference = Reference(teacher, ours.student, ours.generator, BITS)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(3):
        z, y = draw(batch, ours.rng)
        _ = train_step(ours, z, y) if side == "ours" else reference.step(z, y)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if peak == before:
        raise SystemExit("the steps did not reach the set-up's peak: use a larger --batch")
    return round(peak / 1024, 1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, nargs="+", default=[16, 200])
    parser.add_argument("--precision", choices=("fp32", "bf16"), nargs="+", default=["fp32"])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="a JSON list of rows")
    parser.add_argument("--peak-of", choices=("ours", "reference"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak_of:
        print(measure_peak(options.peak_of, options.batch[0], options.precision[0]))
        sys.exit()
    rows = [compare(b, p, options.repeats) for b in options.batch for p in options.precision]
    if options.json:
        print(json.dumps(rows, indent=2))
    else:
        for row in rows:
            print("  ".join(f"{name}={value}" for name, value in row.items()))
