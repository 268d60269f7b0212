"""Plausible wrong answers to the course's exercises, one file for each file of `checks`."""

MUTANTS = []


def mutant(exercise, says):
    """Register a wrong answer: the check must refuse it, in a message that contains `says`."""

    def keep(answer):
        MUTANTS.append((exercise, answer, says))
        return answer

    return keep
