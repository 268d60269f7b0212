"""How a check speaks, and what every check must do. Right answers: test_notebooks.py."""

import importlib
import inspect
from pathlib import Path

import pytest
import torch

from akt_course import checks
from tests.course.checks import REFUSED

for file in sorted(Path(__file__).parent.glob("test_[a-z]*.py")):
    importlib.import_module(f"tests.course.checks.{file.stem}")


@pytest.mark.parametrize("name", checks.__all__)
def test_every_check(name):
    check = getattr(checks, name)
    assert REFUSED[name] >= 3
    assert inspect.getdoc(check).endswith(".")
    before = torch.get_rng_state()
    not_written = check(stub)
    assert not not_written.passed
    assert "not written yet" in not_written.message
    assert "it stopped with" in check(lambda: 0).message
    assert torch.equal(before, torch.get_rng_state())


def stub(*_, **__):
    raise NotImplementedError


def test_a_result_is_a_line():
    result = checks.affine_quantize(lambda x, bits: "<b>")
    assert str(result) == "✗ affine_quantize: the answer is a str, not a tensor"
    assert 'role="status"' in result._repr_html_()
