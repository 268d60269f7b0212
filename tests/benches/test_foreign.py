"""Code that changes what others count on leaves no trace."""

import os
import random
import sys
import warnings

import numpy as np
import pytest
import torch

from akt_lab.benches.foreign import no_trace
from akt_lab.benches.teacher import call_factory


def state():
    random_states = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    backend = torch.backends.cudnn
    return [
        *random_states,
        torch.get_rng_state().tolist(),
        os.getcwd(),
        [*sys.argv],
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        torch.ones(1).device.type,
        torch.get_num_threads(),
        torch.get_float32_matmul_precision(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.is_anomaly_enabled(),
        (backend.benchmark, backend.deterministic),
        [*warnings.filters],
    ]


CODE = """
import argparse, os, random, sys, warnings
import numpy as np, torch
from tests.faults.brought import tiny

torch.set_grad_enabled(False)
torch.set_default_dtype(torch.float64)
torch.set_default_device("meta")
torch.set_num_threads(3)
torch.set_float32_matmul_precision("medium")
torch.use_deterministic_algorithms(True)
torch.backends.cudnn.benchmark = torch.backends.cudnn.deterministic = True
torch.manual_seed(1), random.seed(1), np.random.seed(1)
os.chdir("/")
warnings.simplefilter("ignore")
sys.argv.append("--more")
print("loading", argparse.ArgumentParser().parse_known_args()[0])


def net():
    torch.set_default_device(None)
    torch.autograd.set_detect_anomaly(True)
    random.random()
    return tiny()
"""


def test_nothing_is_changed(tmp_path, monkeypatch, capsys):
    (tmp_path / "changes_everything.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    monkeypatch.setattr(sys, "argv", ["akt-lab", "evaluate", "--nothing-of-theirs"])
    before = state()
    network = call_factory("changes_everything:net")
    assert state() == before
    out, error = capsys.readouterr()
    assert not out
    assert error.startswith("loading Namespace()")
    assert {t.dtype for t in network.parameters()} == {torch.float32}
    assert all(t.requires_grad for t in network.parameters())


def fails():
    torch.set_grad_enabled(False)
    random.seed(3)
    print("hello")
    sys.exit(3)


def test_nothing_is_changed_where_it_fails(capsys):
    before = state()
    with pytest.raises(SystemExit), no_trace():
        fails()
    assert state() == before
    assert capsys.readouterr() == ("", "")  # who ends it says so


def test_no_device_is_set_where_none_was():
    """Each call of PyTorch would be slower for it."""
    with no_trace():
        pass
    assert torch.utils._device.CURRENT_DEVICE is None
