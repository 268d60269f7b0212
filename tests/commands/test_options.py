import argparse
from dataclasses import fields
from typing import get_args

import pytest

from akt_lab.commands import parser
from akt_lab.commands.options import SETTING_OPTIONS, given_bench, given_settings, report
from akt_lab.settings import Settings


def parsed(*arguments):
    return parser().parse_args(["quantize", *arguments])


def test_every_setting_is_an_option():
    names = {n.removeprefix("--").replace("-", "_") for n in SETTING_OPTIONS}
    assert names == {"bits", "preset", *(f.name for f in fields(Settings))}
    assert "akt-lab methods" in SETTING_OPTIONS["--method"]["help"]
    for f in fields(Settings):
        assert get_args(f.type)[1] in SETTING_OPTIONS["--" + f.name.replace("_", "-")]["help"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("--weight-bits 4", {"weight_bits": 4}),
        ("--bits 4 --act-bits 8", {"weight_bits": 4, "act_bits": 8}),
        ("--first-bits 8", {"first_bits": 8}),
        ("--lam 0", {"lam": 0.0}),
        ("--milestones 1 2", {"milestones": [1, 2]}),
        ("--milestones", {"milestones": []}),
        ("--compile --seed 7", {"compile": True, "seed": 7}),
        ("--equalize", {"equalize": True}),
        ("--preset code --ranges minmax", {"preset": "code", "ranges": "minmax"}),
        ("", {}),
    ],
)
def test_only_what_was_named_is_given(text, value):
    assert given_settings(parsed(*text.split())) == value


@pytest.mark.parametrize("form", [["0.5", "0.4", "0.3"], ["0.5,0.4,0.3"]])
def test_mean_and_std_in_either_form(form):
    assert given_bench(parsed("--mean", *form))["mean"] == (0.5, 0.4, 0.3)


def test_a_report(capsys):
    report({"student_accuracy": 12.345, "best_accuracy": None, "images": 5}, argparse.Namespace())
    assert capsys.readouterr().out.splitlines() == [
        "student accuracy  12.35%", "best accuracy     None", "images            5",
    ]  # fmt: skip
