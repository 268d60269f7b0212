"""Where a training step's time goes, and how far it is from what its convolutions must take.

    python benchmarks/phases.py --batch 16 200 --csv benchmarks/phases.csv

The phases are those of `akt_lab.step.losses_and_gradients`, run one by one. The roofline: every
convolution that a step needs (forward, gradient at its input, gradient at its weight), each timed
alone on the step's own shapes and memory format. Nothing that uses this machine's convolutions
as they are can be faster than their sum.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import pandas as pd
import torch
from step import make_ours, make_teacher
from torch import Tensor, nn

from akt_lab.generator import UpsampledConv2d
from akt_lab.graph import capture_bn_inputs, capture_maps
from akt_lab.losses import total
from akt_lab.speed import keep_freed_memory
from akt_lab.step import Training, apply_gradients, distillation_terms, train_step


def phases(run: Training, z: Tensor, y: Tensor) -> Iterator[str]:
    """One step; yields the name of each phase when it is over."""
    images = run.generator(z, y)
    pixels = images.detach().requires_grad_()
    yield "generator forward"
    with capture_maps(run.teacher, run.layers) as teacher_maps:
        with capture_bn_inputs(run.teacher) as statistics:
            t = run.teacher(pixels)
    yield "teacher forward"
    with capture_maps(run.student, run.layers) as student_maps:
        s = run.student(pixels)
    yield "student forward"
    generator_loss = total(run.method.image_terms(t, s, y, statistics))
    yield "generator's loss"
    at_pixels = torch.autograd.grad(generator_loss, pixels, retain_graph=True)
    yield "backward to the images"
    weights = list(run.generator.parameters())
    for_generator = torch.autograd.grad(images, weights, at_pixels)
    yield "generator backward"
    student_loss = total(distillation_terms(run, s, t.detach(), y, student_maps, teacher_maps))
    yield "student's loss"
    for_student = torch.autograd.grad(student_loss, list(run.student.parameters()))
    yield "student backward"
    apply_gradients(run.generator_optimizer, for_generator)
    apply_gradients(run.student_optimizer, for_student)
    yield "optimisers"


def time_phases(run: Training, batch: int, repeats: int) -> dict[str, float]:
    """Median seconds of each phase, and of the whole step as `train_step` does it."""
    seconds: dict[str, list[float]] = {"step": []}
    for _ in range(repeats + 1):
        z, y = run.generator.draw(batch, run.rng)
        start = time.perf_counter()
        for name in phases(run, z, y):
            now = time.perf_counter()
            seconds.setdefault(name, []).append(now - start)
            start = now
        train_step(run, z, y)
        seconds["step"].append(time.perf_counter() - start)
    return {name: median(values[1:]) for name, values in seconds.items()}


def convolutions(run: Training, batch: int, repeats: int) -> Iterator[dict[str, object]]:
    """Multiply-adds and median seconds of each convolution of a step, alone."""
    needs = {  # what of each network's convolutions a step computes
        "generator": {"forward": 1, "input": 1, "weight": 1},
        "teacher": {"forward": 1, "input": 1},
        "student": {"forward": 1, "input": 2, "weight": 1},
    }
    images = run.generator(*run.generator.draw(batch, run.rng)).detach()
    for name, counts in needs.items():
        network = getattr(run, name)
        arguments = run.generator.draw(batch, run.rng) if name == "generator" else (images,)
        for layer, (x, out) in _inputs_and_outputs(network, arguments).items():
            for kind, function in _operations(network.get_submodule(layer), x, out).items():
                if kind in counts:
                    yield {
                        "network": name,
                        "layer": layer,
                        "pass": kind,
                        "count": counts[kind],
                        "macs": _multiply_adds(network.get_submodule(layer), x, out),
                        "seconds": _median_seconds(function, repeats),
                    }


def _inputs_and_outputs(
    network: nn.Module, arguments: tuple[Tensor, ...]
) -> dict[str, tuple[Tensor, Tensor]]:
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def hook(name: str) -> Callable[..., None]:
        def keep(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
            seen[name] = inputs[0].clone(), output.clone()

        return keep

    convs = [(n, m) for n, m in network.named_modules() if isinstance(m, nn.Conv2d)]
    handles = [conv.register_forward_hook(hook(name)) for name, conv in convs]
    with torch.no_grad():
        network(*arguments)
    for handle in handles:
        handle.remove()
    return seen


def _operations(conv: nn.Conv2d, x: Tensor, out: Tensor) -> dict[str, Callable[[], object]]:
    gradient = torch.randn_like(out)
    transposed = isinstance(conv, UpsampledConv2d)  # runs as a 4x4 kernel of stride 2
    kernel = conv.weight.detach()
    if transposed:
        kernel = torch.randn(conv.in_channels, conv.out_channels, 4, 4)
        kernel = kernel.contiguous(memory_format=torch.channels_last)
    stride, padding = ([2, 2], [1, 1]) if transposed else (conv.stride, conv.padding)
    rest = (stride, padding, [1, 1], transposed, [0, 0], 1)
    convolve, back = torch.ops.aten.convolution, torch.ops.aten.convolution_backward
    return {
        "forward": lambda: convolve(x, kernel, None, *rest),
        "input": lambda: back(gradient, x, kernel, None, *rest, [True, False, False]),
        "weight": lambda: back(gradient, x, kernel, None, *rest, [False, True, False]),
    }


def _multiply_adds(conv: nn.Conv2d, x: Tensor, out: Tensor) -> int:
    if isinstance(conv, UpsampledConv2d):
        return x.numel() * conv.out_channels * 16
    return out.numel() * conv.in_channels * conv.weight[0, 0].numel()


def _median_seconds(function: Callable[[], object], repeats: int) -> float:
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return median(seconds[1:])


def measure(batch: int, repeats: int) -> pd.DataFrame:
    """Rows: seconds of each phase, of the step, of its convolutions alone; multiply-adds."""
    run = make_ours(make_teacher(), batch)
    seconds = time_phases(run, batch, repeats)
    rows = pd.DataFrame(convolutions(run, batch, repeats))
    count, macs = rows["count"], (rows["macs"] * rows["count"]).sum() / 1e9
    floor = (rows["seconds"] * count).sum()
    print(f"batch {batch}: {macs:.1f} G multiply-adds; convolutions alone {floor:.3f} s, that is")
    print(f"  {macs / floor:.0f} G a second; the step {seconds['step']:.3f} s", end=", ")
    print(f"{seconds['step'] / floor:.2f} times as long")
    for name, value in seconds.items():
        print(f"  {name:24}{value:.4f} s{100 * value / seconds['step']:5.0f}%")
    table = [{"batch": batch, "what": name, "seconds": v} for name, v in seconds.items()]
    table += [{"batch": batch, "what": "convolutions alone", "seconds": floor}]
    table += [{"batch": batch, "what": "multiply-adds (G)", "seconds": macs}]
    return pd.DataFrame(table).rename(columns={"seconds": "value"}).round(4)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, nargs="+", default=[16, 200])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--csv", type=Path, help="write the rows to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    found = pd.concat([measure(batch, options.repeats) for batch in options.batch])
    if options.csv:
        found.to_csv(options.csv, index=False)
