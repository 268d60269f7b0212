"""Options that several commands share: settings of a run, its bench, where and how to print."""

import argparse
import json
import os
from pathlib import Path
from typing import Any

from akt_lab.errors import UsageError

DEMO_RUNS, FIGURES = Path("runs/demo"), Path("figures")


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if (number := int(text)) < 1:
        raise ValueError
    return number


def rate(text: str) -> float:
    """A learning rate; 0, which stands for the method's own in `Settings`, is not one."""
    if not 0 < (number := float(text)) < float("inf"):
        raise ValueError
    return number


rate.__name__ = "number above 0"

positive.__name__ = "whole number of at least 1"  # what argparse calls it

SETTING_OPTIONS: dict[str, dict[str, Any]] = {
    "--method": {"help": "see `akt-lab methods` (default: adadfq+akt)"},
    "--preset": {"help": "paper (default), code or quick: what the options below replace"},
    "--bits": {"type": int, "help": "bits of weights and activations, 2 to 8 (default: 3)"},
    "--weight-bits": {"type": int, "help": "bits of weights, where they differ"},
    "--act-bits": {"type": int, "help": "bits of activations, where they differ"},
    "--first-bits": {"type": int, "help": "weight bits of the first layer, where they differ"},
    "--last-bits": {"type": int, "help": "weight bits of the last layer, where they differ"},
    "--epochs": {"type": positive, "help": "epochs (default: the papers' 400)"},
    "--steps": {"type": positive, "help": "steps an epoch (default: the papers' 200)"},
    "--batch-size": {"type": positive, "help": "images a step (default: the method's: 16 or 200)"},
    "--warmup-epochs": {
        "type": positive,
        "help": "epochs of the generator alone (default: 4, or 1/4)",
    },
    "--generator-lr": {"type": rate, "help": "the generator's learning rate (default: 1e-3)"},
    "--student-lr": {
        "type": rate,
        "help": "the student's learning rate (default: 1e-4; hast 1e-5)",
    },
    "--milestones": {"type": int, "nargs": "*", "help": "epochs at which both rates fall x0.1"},
    "--temperature": {"type": float, "help": "of the logit loss (default: 20)"},
    "--variant": {"help": "of AKT: paper (default), code or published"},
    "--parts": {"help": "of AKT's features: both (default), spatial or channel, for an ablation"},
    "--maps": {"help": "AKT compares the maps of each body (default), sum or relu"},
    "--last-maps": {"type": int, "help": "how many of them, from the last one back (0: all)"},
    "--pool": {"type": positive, "help": "images optimised once, for hast and zeroq"},
    "--pool-steps": {"type": positive, "help": "steps of their optimisation (default: 500)"},
    "--alpha": {"type": float, "help": "share of the features in AKT's `paper` (default: 0.5)"},
    "--lam": {"type": float, "help": "weight of AKT's features (default: see the README)"},
    "--ranges": {
        "help": "activation ranges: ema, ema_legacy, minmax or per_channel_dynamic"
        " (default: the method's)"
    },
    "--gradient": {"help": "straight-through gradient: identity or clipped"},
    "--precision": {"help": "fp32 (default) or bf16"},
    "--compile": {
        "action": "store_true",
        "help": "fuse the step into one graph: pays from some thousand steps on",
    },
    "--eval-every": {
        "type": positive,
        "help": "epochs from one evaluation to the next (default: 1)",
    },
    "--seed": {"type": int, "help": "random seed (default: 0)"},
}


def add_bench_options(parser: argparse.ArgumentParser) -> None:
    """Which teacher, on which images; on which device."""
    bench = parser.add_argument_group("bench")
    bench.add_argument(
        "--bench",
        help="digits (default), cifar10 or cifar100 (downloaded on first use), imagenet-resnet18 "
        "(or just imagenet) or imagenet-mobilenet_v2 (weights are downloaded, --data is yours)",
    )
    bench.add_argument("--teacher", help="one's own network: module:function that returns it")
    bench.add_argument("--weights", help="the teacher's weights, .safetensors or .pth")
    bench.add_argument("--data", help="evaluation images: a folder for each class")
    for name in ("--mean", "--std"):
        bench.add_argument(
            name, nargs="+", action="extend", type=_numbers, metavar="X",
            help="of each channel, on the scale 0 to 1",
        )  # fmt: skip
    bench.add_argument(
        "--image-size", type=positive, help="resize and crop images to this many pixels"
    )
    bench.add_argument("--device", help="cpu or cuda (default: cuda where there is one)")
    bench.add_argument(
        "--threads",
        type=int,
        help="processor threads (default: one a core; in a sweep 1 for each run)",
    )


def _numbers(text: str) -> list[float]:
    """`0.5` or `0.5,0.4,0.3`."""
    return [float(part) for part in text.split(",") if part.strip()]


# ---- what was named -----------------------------------------------------------------------------


def given_settings(options: argparse.Namespace) -> dict[str, Any]:
    """The settings that were named on the command line."""
    names = [name.removeprefix("--").replace("-", "_") for name in SETTING_OPTIONS]
    given = {name: getattr(options, name) for name in names if hasattr(options, name)}
    if "bits" in given:
        bits = given.pop("bits")
        given = {"weight_bits": bits, "act_bits": bits, **given}
    return given


def given_bench(options: argparse.Namespace) -> dict[str, Any]:
    """The parts of the bench that were named on the command line; paths made absolute."""
    names = ("bench", "teacher", "weights", "data", "mean", "std", "image_size")
    given = {name: getattr(options, name) for name in names if hasattr(options, name)}
    if "bench" in given and "teacher" in given:
        raise UsageError("--bench and --teacher exclude each other: a teacher makes its own bench")
    if "teacher" in given:
        given["bench"] = None
    for name in {"weights", "data"} & given.keys():
        given[name] = os.path.abspath(given[name])
    for name in {"mean", "std"} & given.keys():
        given[name] = tuple(number for part in given[name] for number in part)
    return given


def device_of(options: argparse.Namespace) -> str:
    """The device to work on; sets the threads that were named.

    Raises:
        UsageError: if there is no such device, or no thread.
    """
    import torch

    from akt_lab.runs.jobs import choose_device

    if hasattr(options, "threads"):
        if options.threads < 1:
            raise UsageError(f"--threads must be at least 1, not {options.threads}")
        torch.set_num_threads(options.threads)
    return choose_device(getattr(options, "device", None))


# ---- what is printed ----------------------------------------------------------------------------


def report(result: dict[str, Any], options: argparse.Namespace) -> None:
    """Print a result, a line an entry, or with --json as JSON."""
    if getattr(options, "json", False):
        print(json.dumps(result, indent=2))
        return
    width = max(map(len, result))
    for name, value in result.items():
        percent = name.endswith("accuracy") and value is not None
        shown = f"{value:.2f}%" if percent else value
        print(f"{name.replace('_', ' '):{width}}  {shown}")
