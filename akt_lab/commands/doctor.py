"""`akt-lab doctor`: what this machine has, what is missing, and what is chosen for it."""

import argparse
import os
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from akt_lab import __version__
from akt_lab.commands.options import device_of, report
from akt_lab.errors import AktError

PACKAGES = (
    "torch", "torchvision", "jupyterlab", "distributed", "onnx", "onnxruntime", "openvino",
)  # fmt: skip


def add(commands: argparse._SubParsersAction, name: str) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(name, help="what this machine has, and what is missing")
    parser.add_argument("--json", action="store_true", help="print it as JSON")


def run(options: argparse.Namespace) -> int:
    """Print it; fail where nothing can be kept."""
    from akt_lab.benches.bench import cache_folder

    found = _installed() | _chosen(device_of(options)) | _cache(cache_folder())
    report(found, options)
    if not found["cache writable"]:
        cache = found["cache folder"]
        raise AktError(f"{cache} cannot be written: set AKT_LAB_CACHE to a folder that can")
    return 0


def _installed() -> dict[str, Any]:
    ours = {"akt-lab": __version__, "python": sys.version.split()[0]}
    return ours | {name: _version(name) for name in PACKAGES}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _chosen(device: str) -> dict[str, Any]:
    """What a run does unless it is told otherwise, and whether the other choice would pay."""
    import torch

    side_by_side = "a GPU's: on a processor a sweep has a worker a core"
    if device == "cuda":
        side_by_side = (
            "a sweep trains up to 16 students at once on each GPU, as its memory allows, their "
            "steps recorded as CUDA graphs (--side-by-side)"
        )
    known = {True: "fast here", False: "emulated here, slower", None: "try whether it is faster"}
    bf16 = known[has_bfloat16(device)]
    pays = "pays from some thousand steps on"
    if device == "cuda":
        pays = "benchmarks/gpu.py says what it gives"
    compiler = pays if has_compiler() else "needs a C++ compiler"
    return {
        "device": device,
        "cores": os.cpu_count(),
        "gpus": _gpus(),
        "side by side": side_by_side,
        "threads": f"{torch.get_num_threads()} for one run, 1 for each run of a sweep",
        "precision": f"fp32, as results are compared in it (--precision bf16: {bf16})",
        "compile": f"no (--compile: {compiler})",
    }


def _gpus() -> str:
    """Each with its free memory."""
    import torch

    found = []
    for gpu in range(torch.cuda.device_count()):
        free, total = (size / 1e9 for size in torch.cuda.mem_get_info(gpu))
        name = torch.cuda.get_device_name(gpu)
        found.append(f"{name} ({free:.0f} of {total:.0f} GB free)")
    return ", ".join(found) or "none that PyTorch finds"


def has_bfloat16(device: str) -> bool | None:
    """Whether the device multiplies bfloat16 itself, or emulates it; None where it does not say."""
    if device == "cuda":
        import torch

        return torch.cuda.is_bf16_supported(including_emulation=False)
    processor = Path("/proc/cpuinfo")  # Linux
    if not processor.exists():
        return None
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(processor.read_text().split())


def has_compiler() -> bool:
    """Whether Inductor finds what it needs to compile for the processor."""
    return any(map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++", "cl")))


def _cache(cache: Path) -> dict[str, Any]:
    nearest = next(folder for folder in (cache, *cache.parents) if folder.exists())
    ready = any(cache.glob("digits-teacher-*"))
    return {
        "cache folder": str(cache),
        "cache writable": os.access(nearest, os.W_OK),
        "digits teacher": "ready" if ready else "trained on first use",
        "disk free (GB)": round(shutil.disk_usage(nearest).free / 1e9, 1),
    }
