"""Options that several commands share: settings of a run, its bench, where and how to print."""

import argparse
import json
import os
import re
import shlex
from collections.abc import Iterable
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, get_args, get_origin

from akt_lab.errors import AktError, UsageError
from akt_lab.settings import OF_METHOD, PRESETS, Settings, check

DEMO_RUNS, FIGURES = Path("runs/demo"), Path("figures")
LONGEST, MOST_THREADS = 255, 1024


def whole(text: str) -> int:
    """A whole number."""
    return int(text)


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if (number := int(text)) < 1:
        raise ValueError
    return number


def named(text: str) -> str:
    """What names something: not nothing, and no text that no file's name can be."""
    if not text.strip() or "\0" in text:
        raise argparse.ArgumentTypeError(f"must name something, not {text!r}")
    return text


def path(text: str) -> Path:
    """Of a file or folder."""
    if any(len(os.fsencode(part)) > LONGEST for part in re.split(r"[/\\]", named(text))):
        raise argparse.ArgumentTypeError(f"names of files have at most {LONGEST} bytes: {text!r}")
    return Path(text)


whole.__name__ = "whole number"  # what argparse calls them
positive.__name__ = "whole number of at least 1"


def _option(setting: Field) -> dict[str, Any]:
    """What argparse is told of a setting, from its annotation and default."""
    kind, about, *_ = get_args(setting.type)
    if kind is bool:
        return {"action": "store_true", "help": about}
    default: Any = "the method's own" if setting.name in OF_METHOD else setting.default
    if default is not None and "(default: " not in about:
        several = isinstance(default, tuple)
        about += f" (default: {' '.join(map(str, default)) if several else default})"
    base = next(iter(get_args(kind)), kind)  # int of int | None
    how = {"type": whole if base is int else base, "help": about}
    return how | ({"nargs": "*"} if get_origin(kind) is tuple else {})


PRESET = f"{', '.join(PRESETS)}: what the options below replace (default: paper)"
SETTING_OPTIONS: dict[str, dict[str, Any]] = {
    "--preset": {"help": PRESET},
    "--bits": {"type": whole, "help": "bits of weights and activations, 2 to 8 (default: 3)"},
    **{f"--{f.name.replace('_', '-')}": _option(f) for f in fields(Settings)},
}


def add_bench_options(parser: argparse.ArgumentParser, trains: bool = True) -> None:
    """Which teacher, on which images; on which device. `trains`: whether the command does."""
    bench = parser.add_argument_group("bench")
    bench.add_argument(
        "--bench",
        type=named,
        help="digits (default), cifar10 or cifar100 (downloaded on first use), imagenet-resnet18 "
        "(or just imagenet) or imagenet-mobilenet_v2 (weights are downloaded, --data is yours)",
    )
    bench.add_argument(
        "--teacher", type=named, help="one's own network: module:function that returns it"
    )
    bench.add_argument("--weights", type=path, help="the teacher's weights, .safetensors or .pth")
    bench.add_argument("--data", type=path, help="evaluation images: a folder for each class")
    if trains:
        bench.add_argument(
            "--train-data", type=path,
            help="training images, a folder for each class, read by `real` and `real+akt` alone",
        )  # fmt: skip
    for name in ("--mean", "--std"):
        bench.add_argument(
            name, nargs="+", action="extend", type=_numbers, metavar="X",
            help="of each channel, on the scale 0 to 1",
        )  # fmt: skip
    bench.add_argument(
        "--image-size", type=positive, help="resize and crop images to this many pixels"
    )
    bench.add_argument(
        "--device", type=named, help="cpu or cuda (default: cuda where there is one)"
    )
    bench.add_argument(
        "--threads",
        type=whole,
        help="processor threads (default: one a core; in a sweep 1 for each run)",
    )


def _numbers(text: str) -> list[float]:
    """`0.5` or `0.5,0.4,0.3`."""
    return [float(part) for part in text.split(",") if part.strip()]


_numbers.__name__ = "number"


# ---- what was named -----------------------------------------------------------------------------


def given_settings(
    options: argparse.Namespace, among: Iterable[str] = SETTING_OPTIONS
) -> dict[str, Any]:
    """The settings that were named on the command line, `among` these options.

    Raises:
        UsageError: for what one of them cannot be, 0 for the method's own included.
    """
    names = [option.removeprefix("--").replace("-", "_") for option in among]
    given = {name: getattr(options, name) for name in names if hasattr(options, name)}
    if "bits" in given:
        bits = given.pop("bits")
        given = {"weight_bits": bits, "act_bits": bits, **given}
    for name, value in given.items():
        if name != "preset":
            check(name, value)
    return given


def given_bench(options: argparse.Namespace) -> dict[str, Any]:
    """The parts of the bench that were named on the command line; paths made absolute."""
    names = ("bench", "teacher", "weights", "data", "mean", "std", "image_size", "train_data")
    given = {name: getattr(options, name) for name in names if hasattr(options, name)}
    if "bench" in given and "teacher" in given:
        raise UsageError("--bench and --teacher exclude each other: a teacher makes its own bench")
    if "teacher" in given:
        given["bench"] = None
    for name in {"weights", "data", "train_data"} & given.keys():
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

    if threads := threads_of(options):
        torch.set_num_threads(threads)
    return choose_device(getattr(options, "device", None))


def threads_of(options: argparse.Namespace, default: int | None = None) -> int | None:
    """The threads that were named.

    Raises:
        UsageError: if they are none, or so many that the system refuses them.
    """
    threads = getattr(options, "threads", default)
    if threads is not None and threads < 1:
        raise UsageError(f"--threads must be at least 1, not {threads}")
    if threads is not None and threads > MOST_THREADS:
        raise UsageError(f"--threads must be at most {MOST_THREADS}, not {threads}")
    return threads


def make_folder(option: str, folder: Path) -> None:
    """Make the folder that an option names, before the work whose results it is to hold.

    Raises:
        AktError: if it cannot be made, or not be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = "it is a file, not a folder" if folder.is_file() else error.strerror
        raise AktError(f"{option} {folder}: {why}") from error
    if not os.access(folder, os.W_OK):
        raise AktError(f"{option} {folder}: may not be written to")


# ---- what is printed ----------------------------------------------------------------------------


def figure_folders(runs: Path, out: Path) -> str:
    """What else the command of a figure names: its folders, where they are not the usual ones."""
    named = {"runs": (runs, DEMO_RUNS), "out": (out, FIGURES)}
    return "".join(f" --{n} {shlex.quote(str(f))}" for n, (f, usual) in named.items() if f != usual)


def report(result: dict[str, Any], options: argparse.Namespace) -> None:
    """Print a result, a line an entry, or with --json as JSON."""
    if getattr(options, "json", False):
        print(json.dumps(result, indent=2))
        return
    width = max(map(len, result))
    for name, value in result.items():
        percent = name.endswith(("accuracy", "agreement")) and value is not None
        shown = f"{value:.2f}%" if percent else value
        shown = f"{value:.4g} nats" if name.endswith("_kl") else shown
        print(f"{name.replace('_', ' '):{width}}  {shown}")
