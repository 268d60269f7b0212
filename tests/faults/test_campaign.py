"""The fault campaign in short; `make faults` runs all of it."""

from collections import Counter

import pandas as pd
import pytest

from akt_lab.runs.folder import PREVIOUS
from tests.faults import campaign, damage, full_disk, kills
from tests.faults.reading import BAD, OUTCOMES, outcome


def bad(rows):
    """What must not happen, as text that says where it did."""
    return [f"{r['state']} {r['file']} {r['fault']} {r['number']}, {r['reader']}: {r['outcome']}\n"
            f"{r['said']}" for r in rows if r["outcome"] in BAD]  # fmt: skip


@pytest.mark.slow
def test_a_damaged_file_is_noticed_by_all_that_read_it(tmp_path, digits):
    rows = list(damage.campaign(tmp_path, cuts=3, flips=6))
    assert not bad(rows)
    unread = {f"run/{PREVIOUS}"}  # while the last checkpoint is whole
    for file in {r["file"] for r in rows} - unread:  # and each other was noticed by someone
        assert Counter(r["outcome"] for r in rows if r["file"] == file).keys() & {
            "refused", "put_right",
        }, file  # fmt: skip


@pytest.mark.slow
def test_a_disk_that_is_full_at_any_write_loses_nothing(tmp_path, digits):
    rows = list(full_disk.campaign(tmp_path, every=4))
    assert not bad(rows)
    assert {r["outcome"] for r in rows if r["reader"] == "quantize"} == {"refused"}
    assert {r["outcome"] for r in rows if r["reader"] == "the same again"} == {"right"}


@pytest.mark.slow
def test_a_run_that_is_killed_ends_in_the_same_bits(tmp_path, digits):
    rows = list(kills.of_a_run(tmp_path, kills=4))
    assert not bad(rows)
    assert len(rows) > 1


@pytest.mark.slow
def test_a_sweep_of_which_anything_is_killed_does_each_run_once(tmp_path, digits):
    rows = list(kills.of_a_sweep(tmp_path, kills=4, epochs=2))
    assert not bad(rows)
    assert sum(r["reader"] == "results" for r in rows) == 12


# ---- the campaign itself can fail ---------------------------------------------------------------


def test_each_outcome_is_told_from_the_others(tmp_path):
    from akt_lab.errors import AktError

    file = tmp_path / "record.json"

    def fails(error):
        def read():
            raise error

        return read

    def speaks():
        print(f"{file} is damaged: put back")
        return 2

    ways = {
        "right": lambda: 1,
        "put_right": speaks,
        "refused": fails(AktError(f"{file} is damaged: begin again")),
        "unnamed": fails(AktError("something is damaged")),
        "silent": lambda: 2,
        "traceback": fails(KeyError("settings")),
    }
    assert list(ways) == list(OUTCOMES)
    assert {how: outcome(read, 1, file)[0] for how, read in ways.items()} == {h: h for h in ways}


def test_the_page_holds_the_table_that_was_last_written():
    table = pd.read_csv(campaign.CSV)
    text = campaign.PAGE.read_text()
    assert campaign.page(table, text) == text
    assert not table[list(BAD)].to_numpy().any()
    assert set(table) == {*campaign.WHAT, "tried", *OUTCOMES}
