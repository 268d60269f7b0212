"""Runs of which only what figures read is there: record and history."""

import matplotlib.pyplot as plt
import pytest

from akt_lab.benches import BenchSpec
from akt_lab.runs.folder import Run


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


@pytest.fixture
def made(tmp_path):
    def make(method="adadfq", bits=3, seed=0, last=90.0, history=(), name=None, **given):
        own = {"status": "done", "teacher_accuracy": 99.0, "images": 540, "evaluations": []}
        record = {key: given.pop(key, value) for key, value in own.items()}
        bench = BenchSpec(given.pop("bench", "digits")).to_dict()
        settings = {"method": method, "weight_bits": bits, "act_bits": bits, "seed": seed,
                    "epochs": 6, "steps": 10, "batch_size": 16, "warmup_epochs": 1}  # fmt: skip
        number = len(list(tmp_path.glob("runs/*")))
        run = Run.create(tmp_path / "runs" / (name or f"{number}"))
        accuracy = {} if last is None else {"last": last, "label_free": last, "best": last}
        run.update_record(
            settings={**settings, **given}, bench=bench, accuracy=accuracy, classes=10, lam=None,
            error="it diverged", **record,
        )  # fmt: skip
        run.append_history(list(history))
        return run

    return make
