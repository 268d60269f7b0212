"""What the explorers' tests share: watched runs, histories, and how a picture is compared."""

import io
import json
import os
import re
import time

import numpy as np
import pytest
from PIL import Image

from akt_lab.benches import BenchSpec
from akt_lab.runs.folder import Run
from akt_lab.runs.jobs import Job, do
from akt_lab.settings import Settings
from tests.conftest import SMALL

RECORD = {
    "settings": {
        "method": "adadfq+akt", "variant": "paper", "alpha": 0.5, "temperature": 20.0,
        "epochs": 4, "steps": 50, "warmup_epochs": 2,
    },
    "teacher_accuracy": 99.0,
    "classes": 10,
}  # fmt: skip
FLOOR = -0.5 * 400 * np.log(10)  # of the difference entropy


@pytest.fixture(scope="session")
def runs(digits, tmp_path_factory):
    """Watched runs: plain at 2 and 3 bits, AKT at 3."""
    folder, made = tmp_path_factory.mktemp("runs"), []
    for method, bits in (("adadfq", 2), ("adadfq", 3), ("adadfq+akt", 3)):
        settings = Settings(method=method, weight_bits=bits, act_bits=bits, **SMALL)
        run = Run.create(folder / f"{method}-{bits}")
        do(Job(settings, BenchSpec(), run.folder, watch=True), run, digits, 99.0, progress=False)
        made.append(run)
    return made


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def screen(explorer):
    return re.search(r"base64,([^\"]+)", explorer.picture.value)[1]


def touch(path):
    """As if it was written a minute from now."""
    later = time.time_ns() + 60 * 10**9
    os.utime(path, ns=(later, later))


def steps(rows, norm=20.0):
    """A history of so many rows, epoch by epoch of 50 steps, as `training` writes them."""
    return [_row(*divmod(i, 50), norm) for i in range(rows)]


def _row(epoch, step, norm):
    row = {"epoch": epoch, "step": step, "generator/bns": 0.3, "generator/agreement": 0.0}
    if epoch >= 2:
        student = {"student/spatial": 0.2, "student/difference_entropy": FLOOR + 0.7}
        row |= {**student, "student/gradient_norm": norm}
    if epoch >= 1 and step == 49:
        row |= {"accuracy": 60.0 + 10 * epoch}
    return row


def write(path, rows):
    with open(path, "a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
