"""How a check speaks, and what every check must do. Right answers: test_notebooks.py."""

import importlib
import inspect
from pathlib import Path

import pytest
import torch

from akt_course import checks
from akt_course.checks import answers
from tests.course.checks import ACCEPTED, REFUSED

for file in sorted(Path(__file__).parent.glob("test_[a-z]*.py")):
    importlib.import_module(f"tests.course.checks.{file.stem}")


@pytest.mark.parametrize("name", checks.__all__)
def test_every_check(name):
    check = getattr(checks, name)
    assert REFUSED[name] >= 3
    assert ACCEPTED[name] >= 8
    assert inspect.getdoc(check).endswith(".")
    before = torch.get_rng_state()
    not_written = check(stub)
    assert not not_written.passed
    assert not not_written.written
    assert "not written yet" in not_written.message
    assert "it stopped with" in check(lambda: 0).message
    assert torch.equal(before, torch.get_rng_state())


def stub(*_, **__):
    raise NotImplementedError


def test_a_result_is_a_line():
    result = checks.affine_quantize(lambda x, bits: "<b>")
    assert str(result) == "✗ affine_quantize: the answer is a str, not a tensor"
    assert 'role="status"' in result._repr_html_()


@pytest.mark.parametrize("name", checks.__all__)
def test_a_loop_that_never_ends_is_stopped(name, monkeypatch):
    monkeypatch.setattr(answers, "SECONDS", 0.05)
    result = getattr(checks, name)(forgets_to_count)
    assert not result.passed
    assert "does a loop never end?" in result.message


def forgets_to_count(*_, **__):
    n = 0
    while n < 10:
        pass


def test_what_pytorch_has_not_implemented_is_told():
    def not_on_this_device(x, bits):
        raise NotImplementedError("Could not run 'aten::x'")

    assert "aten::x" in checks.affine_quantize(not_on_this_device).message


def test_an_answer_that_seeds_changes_no_verdict():
    def seeds(*given):
        torch.manual_seed(int(torch.randint(99, ())))
        return torch.linspace(0, 1, 3)

    first = checks.best_clip(seeds).message
    torch.manual_seed(5)
    assert checks.best_clip(seeds).message == first
