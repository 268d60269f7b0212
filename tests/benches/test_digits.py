import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from akt_lab.benches import digits as module
from akt_lab.benches.bench import load_bench
from akt_lab.benches.digits import DigitsNet, digits_split, load_digits
from akt_lab.errors import DamagedError
from akt_lab.files import save_tensors
from akt_lab.runs.training import evaluate


def test_digits(digits):
    assert digits.images.shape == (540, 1, 16, 16)
    assert digits.images.dtype == torch.uint8
    assert digits.num_classes == 10
    counts = digits.labels.bincount()
    assert counts.min() >= 50  # stratified
    assert evaluate(digits.teacher, digits) >= 90
    assert not digits.teacher.training
    (train, _), (test, _) = digits_split()
    assert len(train) + len(test) == 1797
    batch = torch.cat([images for images, _ in digits.batches()])
    assert len(batch) == 540
    assert batch.mean().abs() < 0.1
    assert (digits.pixels(batch[:3]) * 255 - digits.images[:3]).abs().max() < 1e-3
    assert torch.from_numpy(digits.shown(batch[:3])).equal(digits.pixels(batch[:3])[:, 0])
    three = {"images": digits.images.expand(-1, 3, -1, -1), "mean": 3 * digits.mean}
    assert replace(digits, **three, std=3 * digits.std).shown(batch[:2]).shape == (2, 16, 16, 3)


def test_the_teacher_is_kept(digits, cache, monkeypatch):
    monkeypatch.setattr(module, "train_digits_teacher", None)  # calling it would fail
    again = load_bench(progress=False)
    for a, b in zip(digits.teacher.parameters(), again.teacher.parameters(), strict=True):
        assert torch.equal(a, b)


LOAD = """
import sys, pathlib
from akt_lab.benches import digits
digits.train_digits_teacher = None  # calling it would fail
digits.load_digits(pathlib.Path(sys.argv[1]))
"""


def test_two_processes_train_it_once(tmp_path, monkeypatch, capsys):
    """One that comes while another trains waits, says so, and loads what that made."""
    train, others = module.train_digits_teacher, []

    def slowly(*arguments):
        command = [sys.executable, "-c", LOAD, tmp_path]
        others.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
        waits = f"waiting for another process that is writing to {tmp_path}\n"
        assert others[0].stderr.readline() == waits
        train(*arguments)

    monkeypatch.setattr(module, "DIGITS_EPOCHS", 1)
    monkeypatch.setattr(module, "train_digits_teacher", slowly)
    load_digits(tmp_path)
    _, error = others[0].communicate()
    assert (others[0].returncode, error) == (0, "")
    assert "training the digits teacher: 100%" in capsys.readouterr().err


def test_a_damaged_teacher_is_refused_by_name_and_made_again_where_it_is_deleted(tmp_path):
    path = tmp_path / "digits-teacher-1.safetensors"
    save_tensors(path, DigitsNet().state_dict(), {})
    load_digits(tmp_path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    for hit in (bytes(data), bytes(data[:-9]), b""):
        path.write_bytes(hit)
        with pytest.raises(DamagedError, match=r"-1.safetensors is damaged .*: delete it, and it"):
            load_digits(tmp_path)
    save_tensors(path, {"stem": torch.ones(1)}, {})
    with pytest.raises(DamagedError, match=r"it does not fit: .*: delete it, and it is made again"):
        load_digits(tmp_path)
