import pickle

import pytest

from akt_lab.errors import AktError, DamagedError, DivergedError, UsageError, unknown


def test_unknown_names_the_nearest_or_all():
    known = ("digits", "cifar10")
    assert str(unknown("bench", "digit", known)) == "unknown bench 'digit': did you mean 'digits'?"
    far = unknown("bench", "x", iter(known))
    assert str(far) == "unknown bench 'x': choose from: digits, cifar10"


@pytest.mark.parametrize("kind", [UsageError, DivergedError])
def test_every_error_is_caught_as_one(kind):
    with pytest.raises(AktError, match="why"):
        raise kind("why")
    assert issubclass(AktError, ValueError)
    assert not issubclass(UsageError, DivergedError)  # 2, 1: the command line tells them apart


def test_what_is_damaged_comes_whole_from_another_process():
    error = pickle.loads(pickle.dumps(DamagedError("a is damaged", "delete it")))
    assert (str(error), error.what) == ("a is damaged: delete it", "a is damaged")
    assert isinstance(error, AktError)


def test_a_message_is_one_line():
    """It may name a file whose name is of two."""
    assert str(UsageError("no file a\nb\x85c")) == r"no file a\nb\nc"
    assert str(pickle.loads(pickle.dumps(AktError("why")))) == "why"  # workers send them
