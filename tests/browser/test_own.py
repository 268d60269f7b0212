"""The app on a network of one's own, in whose folder it is started; strange names stay text."""

import pytest
import torch
from PIL import Image

from akt_lab.benches import BenchSpec
from akt_lab.benches.teacher import call_factory
from akt_lab.runs.jobs import Job
from akt_lab.runs.sweep import run_grid
from akt_lab.settings import Settings
from tests.browser import driving
from tests.browser.conftest import LAPTOP, serving, token_of, watched
from tests.conftest import STRANGE

pytestmark = pytest.mark.browser
NETS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, classes=%d):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.head = nn.Linear(8, classes)

    def forward(self, x):
        x = self.stem(x)
        x = torch.relu(self.body(x) + x)
        return self.head(x.mean((2, 3)))
"""
FOLDERS = [name for name in STRANGE if "/" not in name and len(name) < 256]


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder with the network, images of strangely named classes, and a strangely named run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "browser_nets.py").write_text(NETS % len(FOLDERS))
    for name in FOLDERS:
        (tmp_path / "data" / name).mkdir(parents=True)
        Image.effect_noise((8, 8), 60).save(tmp_path / "data" / name / "1.png")
    torch.save(call_factory("browser_nets:Net").state_dict(), "net.pth")
    spec = BenchSpec(None, "browser_nets:Net", "net.pth", "data", (0.5,), (0.5,))
    small = {"batch_size": 8, "epochs": 2, "warmup_epochs": 1, "steps": 2}
    jobs = [
        Job(Settings(method="gdfq", seed=seed, **small), spec, tmp_path / "runs" / name, True)
        for seed, name in enumerate(FOLDERS[:2])
    ]
    run_grid(jobs, workers=0, progress=False)
    return tmp_path


def test_the_app_on_a_network_of_one_s_own(own, browser):
    with (
        serving(own, "own", "--app", "--runs", "runs") as (address, _),
        watched(browser, LAPTOP, "own") as page,
    ):
        page.goto(f"{address}/?token={token_of('own')}")
        for title in ("1 Quantizer", "2 Attention", "3 Gradients", "4 Generator"):
            page.get_by_role("tab", name=title).click()
            area = page.locator(".widget-tab-contents > :not(.lm-mod-hidden)")
            driving.until(lambda area=area: driving.pictures(area) or driving.said(area))
            assert driving.said(area) == []
            assert "teacher: browser_nets:Net, 2 runs in" in area.inner_text()
            assert page.locator("img[src=x], .widget-tab-contents b").count() == 0
        menu = area.get_by_label("class", exact=True)
        options = menu.locator("option").all_inner_texts()
        plain = [" ".join(option.split()) for option in options]  # ipywidgets has its own spaces
        assert sorted(plain) == sorted(" ".join(name.split()) for name in FOLDERS)
        driving.choose(area, {"class": next(o for o in options if "onerror" in o)})
        driving.until(lambda: "class <img src=x onerror=alert(1)>" in area.inner_text())
        assert page.locator("img[src=x]").count() == 0
