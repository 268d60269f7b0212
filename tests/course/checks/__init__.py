"""Right and plausible wrong answers to the course's exercises, in the test file of their check.

Most of the wrong ones are the right answer with one step changed, `partial(right, step=...)`. Where
a return is forgotten, `print` stands for it: it computes all, and gives None.
"""

from collections import Counter

import pytest

from akt_course import checks

MUTANTS = []
REFUSED = Counter()  # by exercise: how many of them a test refuses
ACCEPTED = Counter()  # by exercise: how many right answers, written differently, a test accepts


def mutants(exercise):
    """How to register an exercise's wrong answers, with what the check must say of each.

    wrong = mutants("double")
    wrong("add it to itself", squares=lambda x: x * x)

    @wrong("add it to itself")  # where a mistake takes several lines
    def adds_too_often(x): ...
    """

    def wrong(says, **answers):
        def keep(answer, name=None):
            MUTANTS.append((exercise, name or answer.__name__, answer, says))
            return answer

        for name, answer in answers.items():
            keep(answer, name)
        return keep

    return wrong


def refused(*exercises):
    """The test of these exercises' wrong answers: each is refused, with the words that help."""
    cases = [
        pytest.param(exercise, answer, says, id=f"{exercise}-{name}-{says[:60]}")
        for exercise, name, answer, says in MUTANTS
        if exercise in exercises
    ]

    REFUSED.update(exercise for exercise, *_ in MUTANTS if exercise in exercises)

    @pytest.mark.parametrize(("exercise", "answer", "says"), cases)
    def test(exercise, answer, says):
        result = getattr(checks, exercise)(answer)
        assert not result.passed
        assert says in result.message, result.message
        assert "stopped with" not in result.message or says.startswith("stopped with")

    return test


def accepted(**answers):
    """The test of right answers: {exercise: them all}, each of which passes."""
    cases = [
        pytest.param(exercise, answer, id=f"{exercise}-{number}")
        for exercise, ways in answers.items()
        for number, answer in enumerate(ways)
    ]
    ACCEPTED.update({exercise: len(ways) for exercise, ways in answers.items()})

    @pytest.mark.parametrize(("exercise", "answer"), cases)
    def test(exercise, answer):
        result = getattr(checks, exercise)(answer)
        assert result.passed, result.message

    return test
