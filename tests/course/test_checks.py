"""Every wrong answer is refused, with the sentence that helps. Right ones: test_notebooks.py."""

import importlib
import inspect
from collections import Counter
from pathlib import Path

import pytest
import torch

from akt_course import checks
from tests.course.mutants import MUTANTS

for file in sorted(Path(__file__).with_name("mutants").glob("[a-z]*.py")):
    importlib.import_module(f"tests.course.mutants.{file.stem}")


@pytest.mark.parametrize(("exercise", "answer", "says"), MUTANTS, ids=lambda v: str(v)[:60])
def test_mutant_is_refused(exercise, answer, says):
    result = getattr(checks, exercise)(answer)
    assert not result.passed
    assert says in result.message, result.message
    assert "stopped with" not in result.message or says.startswith("stopped with")


@pytest.mark.parametrize("name", checks.__all__)
def test_every_check(name):
    check = getattr(checks, name)
    assert Counter(exercise for exercise, *_ in MUTANTS)[name] >= 3
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
