"""Our training step against the released one, repaired and written plainly, in one run.

    python benchmarks/step.py --batch 200 --precision fp32 --json

Same teacher, same weights, same noise and classes; the two take turns, and medians are compared.
On the same images the losses of a first step must agree to 1e-4, or the comparison is refused (in
float32; in bfloat16 the largest difference is only printed). Peak memory is
measured in a process for each.
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
from pathlib import Path

import torch
from pytorchcv.model_provider import get_model
from reference import Reference
from torch import nn

from akt_lab.benches import CIFAR_MEAN, CIFAR_STD, Bench
from akt_lab.memory import keep_freed_memory
from akt_lab.methods import Settings
from akt_lab.quantizer import freeze_ranges
from akt_lab.training import Training, prepare, train_step

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


def check_losses(ours: Training, reference: Reference, batch: int) -> float:
    """Largest difference of any loss term in a first step on the very same images.

    Relative to the term, or to a thousandth of their sum if that is larger. Both sides use the
    plain generator here: images that differ in the seventh digit would tip a few activations to
    the next level of a 3-bit grid, and the comparison would show that and nothing else.
    """
    twin = copy.deepcopy(reference.generator)
    optimizer = torch.optim.Adam(twin.parameters(), 1e-3, betas=(0.5, 0.999))
    z, y = ours.generator.draw(batch, ours.rng)
    same = dataclasses.replace(ours, generator=twin, generator_optimizer=optimizer)
    terms = train_step(same, z, y)
    plain = reference.step(z, y)
    floor = 1e-3 * sum(abs(value) for value in plain.values())
    return max(
        abs(terms[name].item() - value) / max(abs(value), floor) for name, value in plain.items()
    )


def compare(batch: int, precision: str, repeats: int) -> dict[str, object]:
    """One row: seconds a step of both, taken in turns, and their ratio."""
    teacher = make_teacher()
    ours = make_ours(teacher, batch, precision)
    reference = Reference(teacher, ours.student, ours.generator, BITS)
    difference = check_losses(ours, reference, batch)
    if precision == "fp32" and not difference < TOLERANCE:
        raise SystemExit(f"losses differ by {difference:.1e} relative, over {TOLERANCE:.0e}")
    seconds: dict[str, list[float]] = {"ours": [], "reference": []}
    for _ in range(repeats + 1):
        z, y = ours.generator.draw(batch, ours.rng)
        start = time.perf_counter()
        train_step(ours, z, y)
        middle = time.perf_counter()
        reference.step(z, y)
        seconds["ours"].append(middle - start)
        seconds["reference"].append(time.perf_counter() - middle)
    ours_s, reference_s = (statistics.median(seconds[k][1:]) for k in ("ours", "reference"))
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
    done = subprocess.run([*command, "--peak-of", side], capture_output=True, text=True, check=True)
    return float(done.stdout)


def measure_peak(side: str, batch: int, precision: str) -> float:
    """The body of `peak_memory`'s process."""
    teacher = make_teacher()
    ours = make_ours(teacher, batch, precision)
    draw = ours.generator.draw
    if side == "reference":
        reference = Reference(teacher, ours.student, ours.generator, BITS)
    for _ in range(3):
        z, y = draw(batch, ours.rng)
        _ = train_step(ours, z, y) if side == "ours" else reference.step(z, y)
    return round(peak_resident_kb() / 1024, 1)


def peak_resident_kb() -> int:
    """Of this process alone; getrusage's would start from its parent's on Linux."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1])  # type: ignore[index]
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024  # macOS counts bytes


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
    keep_freed_memory()  # as `akt-lab quantize` does; both sides gain by it
    if options.peak_of:
        print(measure_peak(options.peak_of, options.batch[0], options.precision[0]))
        sys.exit()
    rows = [compare(b, p, options.repeats) for b in options.batch for p in options.precision]
    if options.json:
        print(json.dumps(rows, indent=2))
    else:
        for row in rows:
            print("  ".join(f"{name}={value}" for name, value in row.items()))
