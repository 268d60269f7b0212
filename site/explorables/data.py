"""All that the page shows, from the runs: networks, test images, numbers to round, norms, images.

Digits only, offline, and the same again from the same runs.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import images
import networks
import numpy as np
import students
from networks import packed

from akt_lab.benches import Bench, BenchSpec, load_bench
from akt_lab.explorers.gradients import of_runs
from akt_lab.explorers.quantizer import LIVE, layer_values
from akt_lab.files import write_whole
from akt_lab.runs.folder import Run

STUDENTS = ("rounded", "rounded-pnorm", "plain", "plain-pnorm")  # that answer as one draws
COMPARED = ("plain", "akt")  # whose gradients stand side by side
LAYERS = ("unit1.body.3", "unit2.body.0", "unit3.body.3")  # whose numbers are rounded
QUICK = {"steps": 2, "epochs": 3, "warmup_epochs": 1}  # to try how the page is made
ROWS_APART, NUMBERS_APART = 2, 2  # of the numbers that the notebook's playground shows


def gathered(folder: Path, workers: int | None = None, quick: bool = False) -> dict[str, Any]:
    """Everything, as JSON can hold it; runs are made in `folder`, or found there.

    Args:
        folder: of the runs, and of the generators' images.
        workers: processes; one a core where None.
        quick: whether nothing trains for longer than a step or two, which shows nothing.
    """
    bench = load_bench(BenchSpec())
    found = students.train(folder, workers, **(QUICK if quick else {}))
    some = found["plain", students.BITS[0]]
    return {
        "bits": list(students.BITS),
        "mean": bench.mean[0],
        "std": bench.std[0],
        "images": packed(bench.images[:, 0].numpy(), "uint8"),
        "labels": bench.labels.tolist(),
        "teacher": networks.of(some, bench, teacher=True),
        "students": {
            kind: {bits: networks.of(found[kind, bits], bench) for bits in students.BITS}
            for kind in STUDENTS
        },
        "numbers": numbers(bench),
        "gradients": gradients(found),
        "generators": generators(
            folder, bench, *((1, 1) if quick else (images.EPOCHS, images.STEPS))
        ),
    }


def numbers(bench: Bench) -> list[dict[str, Any]]:
    """Some layers' weights and activations, and the range that each rule finds for them."""
    found = []
    for kind in ("weights", "activations"):
        for layer in LAYERS:
            values = layer_values(bench, layer, kind)
            rows = values.rows[::ROWS_APART, ::NUMBERS_APART].numpy()
            ends = {rule: pair.numpy() for rule, pair in values.ranges.items()}
            ends[LIVE] = ends[LIVE][::ROWS_APART]
            found.append({
                "name": values.name,
                "rows": packed(rows, "float32"),
                "ranges": {rule: packed(pair, "float32") for rule, pair in ends.items()},
            })  # fmt: skip
    return found


def gradients(found: Mapping[tuple[str, int], Run]) -> dict[str, Any]:
    """Norms (layer, step) of watched runs, by kind and bits."""
    shown: dict[str, Any] = {kind: {} for kind in COMPARED}
    for kind in COMPARED:
        for bits in students.BITS:
            ((norms,), broken) = of_runs([found[kind, bits]])
            assert not broken, broken
            shown[kind][bits] = packed(np.nan_to_num(norms.values, nan=np.inf), "float32")
    return {"layers": list(norms.layers), "first": norms.first, "runs": shown}


def generators(folder: Path, bench: Bench, epochs: int, steps: int) -> dict[str, Any]:
    """From `images.made`; kept beside the runs, until length, teacher or that file change."""
    made_with = (
        f"{epochs} {steps} {bench.fingerprints}".encode() + Path(images.__file__).read_bytes()
    )
    kept = folder / f"images-{hashlib.sha256(made_with).hexdigest()[:12]}.json"
    if not kept.exists():
        write_whole(kept, json.dumps(images.made(bench, epochs, steps)).encode())
    return json.loads(kept.read_text())
