"""Seconds that everyone waits: start-up, loading and evaluating 10,000 images, a checkpoint.

    python benchmarks/everyday.py --csv benchmarks/everyday.csv

CIFAR's sizes, made up: noise as JPEG files, ResNet-20 with random weights. Each is the best of
--repeats, beside the wait that the reader should never exceed.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from PIL import Image
from step import make_ours, make_teacher

from akt_lab.benches import Bench
from akt_lab.benches.images import read_image_folder
from akt_lab.benches.known import CIFAR_MEAN, CIFAR_STD
from akt_lab.runs.checkpoint import save
from akt_lab.runs.folder import Run
from akt_lab.runs.training import evaluate
from akt_lab.speed import keep_freed_memory

CLASSES = tuple("0123456789")


def best(action: Callable[[], object], repeats: int) -> float:
    """Least seconds that `action` took."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def python(*arguments: str) -> Callable[[], object]:
    """A fresh interpreter that does this."""
    return lambda: subprocess.run([sys.executable, *arguments], check=True, capture_output=True)


def photographs(folder: Path, count: int) -> Path:
    """`count` JPEG files of noise, in folders by class."""
    pixels = torch.randint(256, (100, 32, 32, 3), dtype=torch.uint8).numpy()
    for name in CLASSES:
        (folder / name).mkdir()
        for n in range(count // len(CLASSES)):
            Image.fromarray(pixels[n % len(pixels)]).save(folder / name / f"{n}.jpg")
    return folder


def measure(images: int, repeats: int) -> pd.DataFrame:
    """One row for each wait."""
    rows = [
        ("akt-lab --help", best(python("-m", "akt_lab.commands", "--help"), repeats), 0.5),
        ("import akt_lab", best(python("-c", "import akt_lab"), repeats), 2.0),
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = photographs(Path(name), images)
        rows += [
            (
                "load JPEGs",
                best(lambda: read_image_folder(folder, 3, progress=False), repeats),
                10.0,
            )
        ]
        pixels, labels, _ = read_image_folder(folder, 3, progress=False)
    networks = make_ours(make_teacher(), batch=16)
    device = torch.device("cpu")
    for who in ("teacher", "student"):
        network = getattr(networks, who)
        bench = Bench(who, network, pixels, labels, CLASSES, CIFAR_MEAN, CIFAR_STD, device)
        seconds = best(lambda n=network, b=bench: evaluate(n, b), repeats)
        rows += [(f"evaluate the {who}", seconds, 10.0)]
    with tempfile.TemporaryDirectory() as name:
        run = Run.create(Path(name) / "run")
        rows += [("write a checkpoint", best(lambda: save(networks, run), repeats), 1.0)]
    return pd.DataFrame(rows, columns=["wait", "seconds", "at most"]).round(3)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--csv", type=Path, help="write the rows to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    table = measure(options.images, options.repeats)
    print(table.to_string(index=False))
    if options.csv:
        table.to_csv(options.csv, index=False)
