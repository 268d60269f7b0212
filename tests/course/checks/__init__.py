"""Plausible wrong answers to the course's exercises, in the test file of their check."""

import pytest

from akt_course import checks

MUTANTS = []


def mutant(exercise, says):
    """Register a wrong answer: the check must refuse it, in a message that contains `says`."""

    def keep(answer):
        MUTANTS.append((exercise, answer, says))
        return answer

    return keep


def refused(module):
    """The test of a module's wrong answers: each is refused, with the sentence that helps."""
    own = [case for case in MUTANTS if case[1].__module__ == module]

    @pytest.mark.parametrize(
        ("exercise", "answer", "says"), own, ids=lambda v: getattr(v, "__name__", str(v)[:60])
    )
    def test(exercise, answer, says):
        result = getattr(checks, exercise)(answer)
        assert not result.passed
        assert says in result.message, result.message
        assert "stopped with" not in result.message or says.startswith("stopped with")

    return test
