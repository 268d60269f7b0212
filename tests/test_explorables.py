"""The page of four pictures: one file that fetches nothing, and data that say what runs say."""

import base64
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from akt_lab.analysis.gradients import explosion
from akt_lab.explorers.gradients import of_runs
from akt_lab.runs.folder import Run

ROOT = Path(__file__).parents[1]
HERE = ROOT / "site" / "explorables"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def page(explore):
    return explore[0].read_text()


@pytest.fixture(scope="module")
def data(page):
    """What the page holds."""
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page)
    return json.loads(found)


def unpacked(packed):
    """As the page's own `decoded`."""
    array = np.frombuffer(base64.b64decode(packed["data"]), packed["kind"])
    return array.reshape(packed["shape"])


def students(data):
    """Every student, by kind and bits."""
    for kind, by_bits in data["students"].items():
        for bits, student in by_bits.items():
            yield kind, int(bits), student


def test_one_file_that_fetches_nothing(page):
    assert len(page.encode()) < 2 * 2**20
    code = re.sub(r'<script type="application/json".*?</script>', "", page, flags=re.DOTALL)
    assert "{{" not in code
    addresses = re.findall(r"https?://[^\s\"'`<]+", code)
    assert set(addresses) == {"http://www.w3.org/2000/svg"}  # a name, which nothing asks for
    assert not re.search(r"@import|url\(|\bfetch\(|XMLHttpRequest|import\(|<link|<img", code)
    assert not re.search(r"<script[^>]* src=", code)


def test_what_runs_a_network_is_short():
    assert len((HERE / "network.js").read_text().splitlines()) < 200


def test_a_student_is_the_runs_own(data, explore, digits):
    assert len(list(students(data))) == 12
    for kind, bits, student in students(data):
        own = Run(explore[1] / f"{kind}-{bits}").record["accuracy"]["last"]
        assert student["accuracy"] == pytest.approx(own, abs=0.4)  # two images may lie on a tie
    for one in (data["teacher"], *(student for _, _, student in students(data))):
        wrong = len(one["wrong"]) / len(digits.images)
        assert one["accuracy"] == pytest.approx(100 * (1 - wrong), abs=0.006)


def test_a_students_weights_are_whole_numbers_of_its_bits(data):
    for _, bits, student in students(data):
        constants, nodes = student["graph"]["constants"], student["graph"]["nodes"]
        rounded = [inputs[0] for kind, inputs, *_ in nodes if kind == "DequantizeLinear"]
        weights = [unpacked(constants[name]) for name in rounded if name in constants]
        assert len(weights) == 10
        for weight in weights:
            assert weight.dtype == np.int8
            rows = weight.reshape(len(weight), -1).astype(int)
            assert (np.ptp(rows, axis=1) < 2**bits).all()


def test_images_and_labels_are_the_benchs(data, digits):
    assert (unpacked(data["images"]) == digits.images[:, 0].numpy()).all()
    assert data["labels"] == digits.labels.tolist()


def test_norms_are_the_runs_own(data, explore):
    for kind, by_bits in data["gradients"]["runs"].items():
        for bits, packed in by_bits.items():
            ((norms,), _) = of_runs([Run(explore[1] / f"{kind}-{bits}")])
            shown = unpacked(packed)
            assert shown.shape == norms.values.shape
            assert shown == pytest.approx(norms.values, rel=1e-6)
            assert explosion(np.sqrt((shown**2).sum(0))).ratio >= 1


def test_numbers_and_ranges_belong_together(data):
    for numbers in data["numbers"]:
        rows = unpacked(numbers["rows"])
        assert rows.any()
        low, high = unpacked(numbers["ranges"]["minmax"])[-1]
        assert low <= rows.min()
        assert high >= rows.max()
        assert len(unpacked(numbers["ranges"]["per_channel_dynamic"])) == len(rows)


def test_generators_start_alike_and_part(data):
    made = data["generators"]["losses"]
    images = {name: unpacked(one["images"]) for name, one in made.items()}
    first, *others = images.values()
    assert first.shape == (data["generators"]["epochs"] + 1, 10, 6, 128)
    for other in others:
        assert (other[0] == first[0]).all()
        assert (other[-1] != first[-1]).any()
    for one in made.values():
        assert len(one["accuracy"]) == len(one["mismatch"]) == len(one["belief"]) == len(first)
        assert all(0 <= b <= 1 for row in one["belief"] for b in row)


def test_the_same_runs_give_the_same_page(explore, tmp_path):
    again = tmp_path / "again.html"
    command = [sys.executable, str(HERE / "page.py"), "--quick", "--workers", "0"]
    done = subprocess.run([*command, "--runs", str(explore[1]), "--out", str(again)], text=True,
                          capture_output=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert again.read_bytes() == explore[0].read_bytes()


def test_a_folder_that_cannot_be_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    command = [sys.executable, str(HERE / "page.py"), "--runs", str(tmp_path / "file" / "runs")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
