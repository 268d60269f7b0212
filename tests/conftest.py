"""What the tests share: no network, one digits teacher, small networks with known answers."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

ROOT = Path(__file__).parents[1]
PHOTOGRAPHS = ROOT.parent / "shared" / "data" / "cifar10-jpeg"
SMALL = {"batch_size": 8, "epochs": 3, "steps": 3, "warmup_epochs": 1}  # a run of seconds


def fake_run(folder, last=90.0, bench=None, history=(), **given):
    """A run of which only record and history are there; `given` are of the record, or settings."""
    from akt_lab.benches import BenchSpec
    from akt_lab.runs.folder import Run
    from akt_lab.runs.jobs import demo_settings

    own = {"status": "done", "teacher_accuracy": 99.0, "images": 540, "classes": 10,
           "evaluations": [], "fingerprints": {}, "error": "it diverged"}  # fmt: skip
    record = {key: given.pop(key, value) for key, value in own.items()}
    run = Run.create(folder)
    run.update_record(
        settings={**demo_settings("adadfq", 3).to_dict(), **given},
        bench=BenchSpec(**(bench or {})).to_dict(),
        accuracy={} if last is None else dict.fromkeys(("last", "label_free", "best"), last),
        **record,
    )
    run.append_history(list(history))
    return run


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    """Every connection but one to this machine is an error."""
    connect = socket.socket.connect

    def guarded(self, address):
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"a test opened a connection to {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """A cache folder of the tests' own, so that the digits teacher is really trained once."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["AKT_LAB_CACHE"] = str(folder)
    return folder


@pytest.fixture(scope="session")
def digits(cache):
    """The digits bench."""
    from akt_lab.benches import BenchSpec, load_bench

    return load_bench(BenchSpec(), progress=False)


@pytest.fixture(scope="session")
def explore(digits, tmp_path_factory):
    """The page of four pictures after a step or two of everything; and the folder of its runs."""
    folder = tmp_path_factory.mktemp("explore")
    script = ROOT / "site" / "explorables" / "page.py"
    command = [sys.executable, str(script), "--quick", "--workers", "0"]
    command += ["--runs", str(folder / "runs"), "--out", str(folder / "explore.html")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "explore.html", folder / "runs"


@pytest.fixture(scope="session")
def photographs():
    """CIFAR-10's test photographs with a ResNet-20 teacher, where they lie beside the checkout."""
    if not PHOTOGRAPHS.is_dir():
        pytest.skip("no photographs beside the checkout")
    return PHOTOGRAPHS


class FunctionalNet(nn.Module):
    """Blocks that call F.relu, one ReLU module used twice, a ReLU6 and a depthwise convolution."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.grouped = nn.Conv2d(8, 8, 1, groups=2)
        self.relu, self.relu6 = nn.ReLU(inplace=True), nn.ReLU6()
        self.last = nn.Linear(8, 5)

    def forward(self, x):
        x = F.relu(self.norm(self.first(x)))
        y = self.relu(self.depthwise(x))
        y = self.relu(self.grouped(y)) + x
        y = self.relu6(y).relu()
        return self.last(y.mean((2, 3)))


@pytest.fixture
def functional_net():
    torch.manual_seed(0)
    return FunctionalNet().eval()


STRANGE = (  # names that are more than text to a page, to Matplotlib, to Markdown, to a terminal
    "<img src=x onerror=alert(1)>", "<b>bold</b>", "&amp;", "\"quoted'", "$x_1$", "$\\frac$", "_",
    "100%", "two\nlines", "[bold]", "{x}", "`code`", "a|b", "n" * 300,
)  # fmt: skip
