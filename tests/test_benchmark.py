import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from torchvision import models

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


MODELS = "resnet18", "mobilenet_v3_small", "efficientnet_b0", "squeezenet1_1", "swin_t"


@pytest.mark.slow
def test_models_are_quantized_right_or_refused(tmp_path):
    """By PyTorch's own observers and kernels the logits are the same, to the last digits."""
    command = [sys.executable, str(STEP.with_name("models.py")), *MODELS, "--csv"]
    done = subprocess.run([*command, str(tmp_path / "m.csv")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "m.csv").set_index("model")
    assert list(table.index) == list(MODELS)
    assert "applies a weight by a function call" in table["refused"].pop("swin_t")
    table = table.drop(index="swin_t")
    assert table["refused"].isna().all()
    assert (table["control"] < 1e-4).all()
    assert (table["error"] < 6 * table["noise"]).all()
    assert (table["matched"] == table["batch_norms"]).all()
    assert table["float_activations"].to_dict() == {
        "resnet18": 0, "mobilenet_v3_small": 9, "efficientnet_b0": 16, "squeezenet1_1": 0,
    }  # fmt: skip


def test_every_classification_model_has_its_row():
    """results/models.csv is whole: each model is quantized right, or refused with a reason."""
    table = pd.read_csv(STEP.parents[1] / "results" / "models.csv").set_index("model")
    assert list(table.index) == models.list_models(module=models)
    right = table["refused"].isna()
    assert (table[right]["control"] < 1e-4).all()
    assert (table[right]["layers"] > 0).all()
    assert table[~right]["layers"].isna().all()
