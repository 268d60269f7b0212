import pytest

from akt_lab.errors import UsageError
from akt_lab.methods import METHODS, Settings, get_method


def test_the_papers_settings_are_the_defaults():
    s = Settings(method="gdfq")
    assert (s.epochs, s.steps, s.batch_size, s.warmup_epochs) == (400, 200, 200, 4)
    assert (s.generator_lr, s.student_lr, s.momentum, s.weight_decay) == (1e-3, 1e-4, 0.9, 1e-4)
    assert (s.milestones, s.temperature, s.alpha) == ((100, 200, 300), 20.0, 0.5)
    assert Settings(method="adadfq").batch_size == 16


def test_akt_changes_nothing_but_the_features():
    for name in ("gdfq", "adadfq"):
        plain, akt = METHODS[name], METHODS[f"{name}+akt"]
        assert akt.akt
        assert not plain.akt
        assert akt.generator_terms is plain.generator_terms
        assert akt.student_terms is plain.student_terms
        assert akt.batch_size == plain.batch_size  # an equal budget


def test_post_training_stops_after_its_warm_up():
    assert Settings(method="ptq", epochs=8, warmup_epochs=2).epochs == 2


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"method": "adadfqq"}, "did you mean 'adadfq'"),
        ({"weight_bits": 9}, "2 to 8, not 9"),
        ({"act_bits": 1}, "2 to 8, not 1"),
        ({"variant": "papr"}, "did you mean 'paper'"),
        ({"ranges": "x"}, "choose from: ema"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"epochs": 1}, "leaves nothing"),
        ({"epochs": 4, "warmup_epochs": 4}, "leaves nothing"),
        ({"student_lr": -1.0}, "student_lr must be positive"),
        ({"student_lr": float("nan")}, "student_lr must be positive"),
        ({"alpha": 1.5}, "between 0 and 1"),
        ({"precision": "fp16"}, "unknown precision"),
    ],
)
def test_what_cannot_be_right_is_refused(values, words):
    with pytest.raises(UsageError, match=words):
        Settings(**values)


def test_unknown_settings_are_refused():
    with pytest.raises(UsageError, match="unknown setting 'alhpa': did you mean 'alpha'"):
        Settings.from_dict({"alhpa": 0.5})
    with pytest.raises(UsageError, match="unknown method"):
        get_method("nothing")
