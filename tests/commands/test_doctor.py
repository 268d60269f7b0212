import json
import re
import tomllib
from pathlib import Path

import torch

from akt_lab.commands import doctor


def test_what_is_chosen_here(run):
    code, printed, _ = run("doctor", "--json")
    assert code == 0
    found = json.loads(printed)
    assert found["cores"] >= 1
    assert found["precision"].startswith("fp32")
    assert found["compile"].startswith("no")
    assert ("16 students at once" in found["side by side"]) == torch.cuda.is_available()
    assert ("none" in found["gpus"]) != torch.cuda.is_available()
    assert found["threads"].startswith(str(torch.get_num_threads()))
    assert set(doctor.PACKAGES) <= found.keys()


def test_what_is_chosen_on_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (30e9, 80e9))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda gpu: f"Card {gpu}")
    monkeypatch.setattr(doctor, "has_bfloat16", lambda _: True)
    found = doctor._chosen("cuda")
    assert found["gpus"] == "Card 0 (30 of 80 GB free), Card 1 (30 of 80 GB free)"
    assert "--side-by-side" in found["side by side"]
    assert "benchmarks/gpu.py" in found["compile"] or "compiler" in found["compile"]


def test_it_asks_for_what_is_used_only():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked = project["dependencies"] + extras["lab"] + extras["export"]
    assert "akt-lab[export]" in extras["lab"]
    assert "akt-lab[export]" in extras["dev"]
    assert set(doctor.PACKAGES) <= {re.match(r"[\w-]+", each)[0] for each in asked}


def test_a_cache_that_cannot_be_written(refused, monkeypatch):
    monkeypatch.setattr(doctor.os, "access", lambda *_: False)
    refused(1, "set AKT_LAB_CACHE to a folder that can", "doctor")
