"""What verifies itself: no bit of it can be hit without being noticed, or without effect."""

import json
import os
from typing import Annotated, Any, Required, TypedDict

import pytest

from akt_lab.errors import AktError, DamagedError
from akt_lab.runs.verified_json import (
    append_lines,
    fits,
    misfits,
    read_bytes,
    read_lines,
    sealed,
    unsealed,
)

ROW = {"epoch": 0, "step": 3, "student/kd": 0.1 + 0.2, "norm": float("inf"), "name": 'a "b" é'}


def flips(data):
    """Every file that differs from this one in one bit."""
    for place in range(8 * len(data)):
        hit = bytearray(data)
        hit[place // 8] ^= 1 << place % 8
        yield bytes(hit)


@pytest.mark.parametrize("indent", [None, 2])
def test_every_flipped_bit_and_every_cut_is_noticed(indent):
    data = sealed(ROW, indent).encode()
    assert unsealed(data) == unsealed(data + b"\r\n") == ROW
    for hit in [*flips(data), *(data[:size] for size in range(len(data)))]:
        try:
            assert unsealed(hit) == ROW  # a blank for another, say
        except ValueError:
            continue
        assert "".join(hit.decode().split()) == "".join(data.decode().split())


def test_what_older_versions_wrote_is_taken_at_its_word():
    assert unsealed(json.dumps(ROW).encode()) == ROW
    for text in ("[1]", "3", "{", "", "[" * 100_000):
        with pytest.raises(ValueError, match=r"\w"):
            unsealed(text.encode())


def test_lines_are_all_written_or_none(tmp_path, monkeypatch):
    path = tmp_path / "lines.jsonl"
    append_lines(path, [ROW, ROW])
    before = path.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(AktError, match=r"no space left to write .*lines.jsonl"):
            append_lines(path, [ROW])
    assert path.read_bytes() == before
    assert list(read_lines(path, "")) == [(1, ROW), (2, ROW)]


def test_a_last_line_that_was_cut_short_is_left_out_and_what_was_hit_is_not(tmp_path, capsys):
    path = tmp_path / "lines.jsonl"
    append_lines(path, [ROW, ROW])
    whole = path.read_bytes()
    first = len(whole) // 2
    for size in range(first, len(whole) + 1):
        path.write_bytes(whole[:size])
        found = [row for _, row in read_lines(path, "")]
        assert found == [ROW] * (2 if size >= len(whole) - 1 else 1)  # its line end alone is cut
    assert capsys.readouterr().err == ""
    path.write_bytes(whole[:-9])
    assert len(list(read_lines(path, "", "the sweep adds it"))) == 1
    said = "line 2, was cut short and is left out: the sweep adds it"
    assert capsys.readouterr().err == f"{path}, {said}\n"
    for hit in (whole[:-1] + b"\x0b", whole[: first - 1] + b"x" + whole[first:]):  # line ends
        path.write_bytes(hit)
        with pytest.raises(DamagedError, match=r"lines.jsonl, line \d, is damaged .*: do that"):
            list(read_lines(path, "do that"))
    path.write_bytes(b"\xff\xfe\n")
    with pytest.raises(DamagedError, match="line 1, is damaged"):
        list(read_lines(path, "do that"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no pipes in folders")
def test_nobody_waits_for_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(AktError, match="it is not a file"):
            read_bytes(path)


class Some(TypedDict, total=False):
    needed: Required[int]
    other: list[float]


@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [
        (int, [1, -3], [1.0, True, "1", None]),
        (float, [1, 1.5, float("nan")], [True, "1", [1.0]]),
        (str, ["", "a"], [1, None]),
        (int | None, [1, None], [1.0, {}]),
        (list[int], [[], [1]], [1, ["1"], {}]),
        (tuple[float, ...], [[], [1, 2.5]], ["12", [None]]),
        (dict[str, float], [{}, {"a": 1}], [[], {"a": "b"}]),
        (Annotated[float, "in words", lambda x: x > 0], [1], [0, "a"]),
        (Some, [{"needed": 1}, {"needed": 1, "other": [2], "more": "x"}], [{}, [], {"needed": ""}]),
        (Any, [1, None, {}], []),
    ],
)
def test_values_fit_their_kinds(kind, right, wrong):
    assert all(fits(value, kind) for value in right)
    assert not any(fits(value, kind) for value in wrong)


def test_misfits_are_named():
    assert misfits({"needed": "x", "other": 1}, Some) == ["needed", "other"]
    assert misfits({"other": []}, Some) == ["needed"]
