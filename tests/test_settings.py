import json
import pickle
from dataclasses import fields, replace
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from akt_lab.errors import UsageError
from akt_lab.methods import METHODS, get_method
from akt_lab.quantizer import RANGES
from akt_lab.settings import PRESETS, OneOf, Settings, check_read, preset
from tests.faults import JSON, one_line


def test_the_papers_settings_are_the_defaults():
    s = Settings(method="gdfq")
    assert (s.epochs, s.steps, s.batch_size, s.warmup_epochs) == (400, 200, 200, 4)
    assert (s.generator_lr, s.student_lr, s.momentum, s.weight_decay) == (1e-3, 1e-4, 0.9, 1e-4)
    assert (s.milestones, s.temperature, s.alpha) == ((100, 200, 300), 20.0, 0.5)
    assert Settings(method="adadfq").batch_size == 16


SOME = {
    "batch_size": st.sampled_from([16, 32]),
    "student_lr": st.sampled_from([1e-4, 1e-2]),
    "pool": st.just(64),
    "ranges": st.sampled_from(RANGES),
    "warmup_epochs": st.just(2),
    "epochs": st.sampled_from([4, 8, 400]),
    "milestones": st.sampled_from([[], (1, 2)]),
}


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([*METHODS]), min_size=2), st.fixed_dictionaries({}, optional=SOME))
def test_another_method_fills_in_what_was_not_given(methods, given):
    s = Settings(method=methods[0], **given)
    for method in methods[1:]:
        s = replace(s, method=method)
        anew = Settings(method=method, **given)
        assert s == anew
        assert hash(s) == hash(anew)
        assert s.to_dict() == anew.to_dict() == {f.name: getattr(s, f.name) for f in fields(s)}
        assert repr(s) == repr(anew)


def test_what_was_given_stays_and_what_was_not_follows():
    plain = Settings(method="adadfq")
    assert (plain.ranges, replace(plain, method="granq").ranges) == ("ema", "per_channel_dynamic")
    minmax = Settings(method="adadfq", ranges="minmax")
    assert replace(minmax, method="granq").ranges == "minmax"
    assert replace(Settings(method="ptq", epochs=8), method="gdfq").epochs == 8
    assert replace(Settings(epochs=8), epochs=16).warmup_epochs == 4


@pytest.mark.parametrize("method", METHODS)
def test_a_record_gives_the_same_settings_back(method):
    whole = Settings(method=method)
    record = json.loads(json.dumps(whole.to_dict()))
    assert Settings.from_dict(record) == whole
    assert pickle.loads(pickle.dumps(whole)) == whole
    other = replace(Settings.from_dict(record), method="granq", epochs=9)  # all else was given
    assert (other.batch_size, other.ranges) == (whole.batch_size, whole.ranges)


def test_post_training_stops_after_its_warm_up():
    assert Settings(method="ptq", epochs=8, warmup_epochs=2).epochs == 2
    short = Settings(method="ptq", epochs=2, warmup_epochs=8)
    assert short.epochs == short.warmup_epochs == 2  # so its ranges are frozen, and it is judged


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
        ({"pool": -1}, "pool must be at least 1"),
        ({"momentum": -0.1}, "momentum must be at least 0, and less than 1"),
        ({"weight_decay": -1e-4}, "weight_decay must be 0 or more"),
        ({"last_maps": -1}, "last_maps must be 0 or more"),
        ({"low_pass": -1.0}, "low_pass must be 0 or more"),
        ({"average": 1.0}, "average must be at least 0, and less than 1"),
        ({"min_confidence": 1.5}, "min_confidence must be between 0 and 1"),
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
        ({"lam": float("inf")}, "lam must be 0 or more"),
        ({"lam": float("nan")}, "lam must be 0 or more"),
        (
            {"method": "hast+akt", "maps": "sum"},
            r"hast\+akt compares the maps of all bodies",
        ),
    ],
)
def test_what_cannot_be_right_is_refused(values, words):
    with pytest.raises(UsageError, match=words):
        Settings(**values)


def test_unknown_settings_are_refused():
    with pytest.raises(UsageError, match="unknown setting 'alhpa': did you mean 'alpha'"):
        Settings.from_dict({"alhpa": 0.5})
    with pytest.raises(UsageError, match="unknown setting '_filled'"):
        Settings.from_dict({"_filled": {}})


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_settings(name, method):
    settings = Settings(**{**preset(name, method), "method": method})
    if name == "code" and get_method(method).ranges == "ema":
        assert settings.ranges == "ema_legacy"
    if name == "quick":
        assert settings.epochs * settings.steps * settings.batch_size <= 20_000


def test_the_papers_budgets():
    hast = Settings(method="hast", **preset("paper", "hast"))
    assert (hast.pool, hast.batch_size, hast.epochs, hast.steps) == (5120, 64, 400, 80)
    assert Settings(method="hast", **preset("code", "hast")).steps == 80
    code = Settings(method="adadfq+akt", **preset("code", "adadfq+akt"))
    assert (code.batch_size, code.epochs, code.steps, code.variant) == (200, 200, 200, "code")
    with pytest.raises(UsageError, match="did you mean 'quick'"):
        preset("quik", "gdfq")


@pytest.mark.parametrize(
    ("values", "given", "words"),
    [
        ({"method": "adadfq"}, "alpha", "--alpha is not read by adadfq: it has no AKT"),
        ({"method": "adadfq+akt", "variant": "code"}, "alpha", "its variant is code"),
        ({"method": "gdfq+akt", "variant": "published"}, "lam", "its variant is published"),
        ({"method": "gdfq+akt", "variant": "placebo"}, "parts", "its variant is placebo"),
        ({"method": "gdfq"}, "parts", "it has no AKT"),
        ({"method": "gdfq"}, "maps", "it has no AKT"),
        ({"method": "ptq"}, "student_lr", "it trains no student"),
        ({"method": "ptq"}, "schedule", "it trains no student"),
        ({"method": "zeroq"}, "average", "it trains no student"),
        ({"method": "ptq"}, "min_confidence", "it trains no student"),
        ({"method": "adadfq"}, "min_confidence", "its student learns no hard labels"),
        ({"method": "hast"}, "min_confidence", "its student learns no hard labels"),
        ({"method": "gdfq", "schedule": "cosine"}, "milestones", "its schedule is cosine"),
        ({"method": "hast"}, "generator_lr", "come from a pool"),
        ({"method": "gdfq"}, "pool_steps", "come from a generator"),
    ],
)
def test_settings_that_are_not_read_are_refused(values, given, words):
    with pytest.raises(UsageError, match=words):
        check_read([Settings(**values)], [given])
    check_read([Settings(**values)], ["weight_bits", "seed"])
    others = [Settings(method=name) for name in ("hast+akt", "adadfq+akt", "gdfq+akt")]
    check_read([Settings(**values), *others], [given])  # one run of a grid that reads it will do


@pytest.mark.parametrize(
    ("name", "values", "reads"),
    [
        ("range_lr", {}, {"ranges": "learned"}),
        ("range_lr", {"ranges": "pnorm"}, {"weight_ranges": "learned"}),
        ("range_epochs", {}, {"ranges": "pnorm", "range_epochs": (6,)}),
        ("range_epochs", {"ranges": "pnorm", "range_epochs": (1, 500)}, {"range_epochs": (6,)}),
        ("range_epochs", {"ranges": "learned", "range_epochs": (6,)}, {"ranges": "pnorm"}),
    ],
)
def test_settings_of_ranges_that_are_not_read(name, values, reads):
    deaf = Settings(method="adadfq", **values)
    with pytest.raises(UsageError, match=name.replace("_", "-") + " is not read"):
        check_read([deaf], [name])
    check_read([deaf, replace(deaf, **reads)], [name])
    with pytest.raises(UsageError, match="trains no student"):
        check_read([replace(deaf, method="ptq", **reads)], [name])


def test_what_real_images_leave_unread():
    real, plain = Settings(method="real"), Settings(method="adadfq")
    for name in ("generator_lr", "pool", "pool_steps"):
        with pytest.raises(UsageError, match="is not read by real: its images are real"):
            check_read([real], [name])
    with pytest.raises(UsageError, match="--train-data is not read by adadfq: it sees no training"):
        check_read([plain], ["train_data"])
    check_read([plain, real], ["train_data"])


# ---- names among which a setting chooses --------------------------------------------------------


def test_help_tells_every_name():
    places = []
    for setting in fields(Settings):
        _, about, *allowed = get_args(setting.type)
        for choice in (a for a in allowed if isinstance(a, OneOf)):
            assert all(name in about for name in choice.names)
            places.append(choice.place)
    assert len(places) == 8


NAMES = st.sampled_from([f.name for f in fields(Settings)]) | st.text(max_size=9)


@settings(max_examples=300, deadline=None)
@given(JSON | st.dictionaries(NAMES, JSON, max_size=3))
def test_a_record_s_settings_are_right_or_refused(values):
    with one_line():
        made = Settings.from_dict(values)
        assert Settings.from_dict(json.loads(json.dumps(made.to_dict()))) == made


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"epochs": "3"}, "epochs must be a whole number, not '3'"),
        ({"epochs": 3.0}, "epochs must be a whole number, not 3.0"),
        ({"epochs": True}, "epochs must be a whole number, not True"),
        ({"first_bits": "8"}, "first_bits must be a whole number, not '8'"),
        ({"temperature": None}, "temperature must be a number, not None"),
        ({"method": None}, "method must be a name, not None"),
        ({"compile": 1}, "compile must be true or false, not 1"),
        ({"milestones": 5}, "milestones must be several of them, each a whole number, not 5"),
        ({"milestones": [3, "4"]}, "milestones must be several of them"),
        ({"milestones": [0]}, "milestones must be at least 1, not 0"),
        ({"temperature": 1e300}, "temperature must be at most 1000, not 1e"),
        ({"seed": 2**63}, "seed must be at most 9223372036854775807"),
    ],
)
def test_values_of_another_kind_or_size(given, words):
    with pytest.raises(UsageError, match=words):
        Settings(**given)


def test_every_seed_of_64_bits():
    for seed in (-(2**63), -1, 0, 2**63 - 1):
        torch.Generator().manual_seed(Settings(seed=seed).seed + 1)
