import json
import subprocess
import sys
from pathlib import Path

import pytest

STEP = Path(__file__).parents[1] / "benchmarks" / "step.py"


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_step_against_the_plain_reference(precision):
    """Same losses to 1e-4 in float32 (the script refuses to compare otherwise), and a ratio."""
    sizes = ["--batch", "8", "--repeats", "3", "--threads", "1"]  # it may not be alone
    command = [sys.executable, str(STEP), *sizes, "--json", "--precision", precision]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    assert row["batch"] == 8
    assert row["precision"] == precision
    assert row["ratio"] == pytest.approx(row["reference_seconds"] / row["seconds"], rel=0.02)
    assert row["peak_mb"] > 100
    if precision == "fp32":
        assert row["largest_loss_difference"] < 1e-4
