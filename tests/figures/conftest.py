"""Runs of which only what figures read is there: record and history."""

import matplotlib.pyplot as plt
import pytest

from tests.conftest import fake_run


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


@pytest.fixture
def made(tmp_path):
    def make(method="adadfq", bits=3, seed=0, last=90.0, name=None, bench="digits", **given):
        settings = {"method": method, "weight_bits": bits, "act_bits": bits, "seed": seed,
                    "epochs": 6, "steps": 10, "batch_size": 16, "warmup_epochs": 1}  # fmt: skip
        number = len(list(tmp_path.glob("runs/*")))
        folder = tmp_path / "runs" / (name or f"{number}")
        return fake_run(folder, last, bench={"bench": bench}, **{**settings, **given})

    return make
