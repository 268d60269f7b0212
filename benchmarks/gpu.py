"""A training step on a GPU: the reference's, ours, compiled, recorded, and of students at once.

    python benchmarks/gpu.py --csv gpu.csv              # under 4 minutes
    python benchmarks/gpu.py --device cpu --steps 2     # does its code run? no number to keep

The step of benchmarks/step.py: ResNet-20, AdaDFQ with AKT's `code`, 3 bits, float32 without TF32.
`reference` and `eager` are asked for from Python, kernel by kernel, `compiled` as one function;
`graph` and `compiled graph` are replayed, side by side each student in a stream of its own.
`evaluation` is one of 10,000 images. A row as soon as it is measured.
"""

import argparse
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from reference import Reference
from step import BITS, check_losses, make_bench, make_ours, make_teacher
from torch import nn

from akt_lab.runs.recorded_steps import AS_WRITTEN, RecordedSteps
from akt_lab.runs.sweep import OWN_STREAM
from akt_lab.runs.training import evaluate
from akt_lab.shared_graph import SharedGraph
from akt_lab.step import Training, train_step

PLAIN = 10  # steps of what Python asks for, at most
GRAPHS = (1, 8)  # side by side, of what is not compiled


def main(argv: Sequence[str] | None = None) -> pd.DataFrame:
    """Print and keep the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--batch", type=int, nargs="+", default=[16, 200])
    parser.add_argument("--side-by-side", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--steps", type=int, default=100, help="timed, of each")
    parser.add_argument("--images", type=int, default=10_000, help="to evaluate on")
    parser.add_argument("--seconds", type=float, default=200, help="after which no row is begun")
    parser.add_argument("--csv", type=Path, help="append the rows to this file")
    options = parser.parse_args(argv)
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("PyTorch finds no GPU: --device cpu --steps 2 shows that the code runs")
    card = torch.cuda.get_device_name() if options.device == "cuda" else "a processor"
    if options.device == "cpu":
        print("a processor: nothing is recorded or compiled; benchmarks/step.py measures there")
    torch.backends.cudnn.allow_tf32 = False
    began, rows = time.perf_counter(), []
    for measured in measure(options, lambda: time.perf_counter() - began > options.seconds):
        rows.append({"card": card, "torch": torch.__version__, **measured})
        print(*(f"{name}={value}" for name, value in rows[-1].items()), sep="  ", flush=True)
        if options.csv:
            new = not options.csv.exists()
            pd.DataFrame(rows[-1:]).to_csv(options.csv, mode="a", header=new, index=False)
    print(f"{time.perf_counter() - began:.0f} s in all")
    return pd.DataFrame(rows)


def measure(options: argparse.Namespace, late: Callable[[], bool]) -> Iterator[dict[str, Any]]:
    """The rows, until it is `late`."""
    teacher = make_teacher().to(options.device)
    kinds = (False, True) if options.device == "cuda" else (False,)
    for batch in options.batch:
        yield from from_python(teacher, batch, options)
    for compiled, batch in itertools.product(kinds, options.batch):
        if late():
            print(f"left out, as it is late: batch {batch}, compiled {compiled}")
            continue
        yield from at_once(teacher, batch, compiled, options)


def from_python(
    teacher: nn.Module, batch: int, options: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """Rows of the reference's step and ours, and at the first batch size of an evaluation."""
    ours = make_ours(teacher, batch, device=options.device)
    reference = Reference(teacher, ours.student, ours.generator, BITS)
    for network in (reference.student, reference.generator):
        network.to(options.device)
    difference = check_losses(ours, reference, batch)
    few = min(PLAIN, options.steps)

    def theirs() -> None:
        reference.step(*ours.generator.draw(batch, ours.rng))

    def eager() -> None:
        train_step(ours, *ours.generator.draw(batch, ours.rng))

    yield row(batch, "reference", timed(theirs, few), loss_difference=difference)
    yield row(batch, "eager", timed(eager, few))
    if batch == options.batch[0]:
        bench = make_bench(teacher, options.images, options.device)
        seconds = timed(lambda: evaluate(ours.student, bench), 1)
        yield row(bench.batch_size, "evaluation", seconds)


def at_once(
    teacher: nn.Module, batch: int, compiled: bool, options: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """Rows of so many students side by side, as a sweep trains them; first of a compiled step."""
    on_gpu = options.device == "cuda"
    numbers = [n for n in options.side_by_side if compiled or not on_gpu or n in GRAPHS]
    name = f"{'compiled ' * compiled}graph" if on_gpu else "not recorded"
    graphs: dict[str, SharedGraph] = {}
    students: list[Student] = []
    for number in sorted(numbers):
        while len(students) < number:
            seed = len(students)
            ours = make_ours(teacher, batch, "fp32", compiled, options.device, seed)
            ours.graphs = graphs
            students.append(Student(ours, options.device))
        first = students[0]
        if compiled and number == min(numbers):
            yield row(batch, "compiled", timed(first.from_python, min(PLAIN, options.steps)))
        seconds = timed(
            lambda group=students[:number]: [each.step() for each in group], options.steps
        )
        yield row(batch, name, seconds, number, first_seconds=round(first.seconds, 1))
    for student in students:
        student.check()


class Student:
    """One of those side by side, its step recorded if there is a GPU."""

    def __init__(self, training: Training, device: str) -> None:
        """Until its step is recorded, and run once so: `seconds`."""
        began = time.perf_counter()
        synchronize()  # its networks were made in another stream
        self.training, self.place = training, OWN_STREAM.get(device, nullcontext)()
        self.steps = RecordedSteps(training)
        for _ in range(AS_WRITTEN + 1):
            self.step()
        synchronize()
        self.seconds = time.perf_counter() - began
        if device == "cuda" and not self.steps.recorded:
            raise SystemExit("the step was not recorded")

    def step(self) -> None:
        """One step, of noise that was drawn ahead."""
        with self.place:
            if not self.steps.waiting:
                self.steps.draw(1000)
            self.steps.do()

    def from_python(self) -> None:
        """One step that is not replayed."""
        with self.place:
            batch = self.training.settings.batch_size
            train_step(self.training, *self.training.generator.draw(batch, self.training.rng))

    def check(self) -> None:
        """Refuse to have timed a step that went wrong."""
        with self.place:
            rows = self.steps.fetch()
        if not all(math.isfinite(value) for each in rows for value in each.values()):
            raise SystemExit("a loss is not finite")


def timed(work: Callable[[], object], times: int) -> float:
    """Seconds that it takes each time, once it has run; the device's work included."""
    work()
    synchronize()
    began = time.perf_counter()
    for _ in range(times):
        work()
    synchronize()
    return (time.perf_counter() - began) / times


def synchronize() -> None:
    """Wait for the GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def row(
    batch: int,
    how: str,
    seconds: float,
    students: int = 1,
    first_seconds: float | None = None,
    loss_difference: float | None = None,
) -> dict[str, Any]:
    """Milliseconds of a round, and of a student's step in it; the most memory taken so far.

    `first_seconds` are those until the first student's step is compiled and recorded.
    """
    memory = torch.cuda.max_memory_reserved() / 1e9 if torch.cuda.is_available() else math.nan
    return {
        "batch": batch,
        "how": how,
        "side_by_side": students,
        "ms_a_round": round(1000 * seconds, 3),
        "ms_a_student_s_step": round(1000 * seconds / students, 3),
        "gb": round(memory, 2),
        "first_seconds": first_seconds,
        "loss_difference": loss_difference,
    }


if __name__ == "__main__":
    main()
