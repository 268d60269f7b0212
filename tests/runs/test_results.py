"""What the README reports is what its command prints from results/."""

import json
import math
import re
from pathlib import Path

import pytest

from akt_lab.commands import main
from akt_lab.errors import DamagedError
from akt_lab.runs import results
from akt_lab.runs.verified_json import append_lines
from tests.conftest import fake_run

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "results").glob("*.jsonl"))
PAGES = [(ROOT / name).read_text() for name in ("README.md", "results/README.md")]
SHOWN = [
    (page, name)
    for page in PAGES
    for name in re.findall(r"akt-lab table --results (results/\w+\.jsonl)", page)
]


def test_every_file_is_shown():
    assert {name for _, name in SHOWN} == {f"results/{p.name}" for p in FILES}


@pytest.mark.parametrize(("page", "name"), SHOWN, ids=[name for _, name in SHOWN])
def test_a_page_shows_the_command_s_table(page, name, capsys):
    assert main(["table", "--results", str(ROOT / name)]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert len(rows) > 2
    for row in rows[2:]:  # below the heading
        assert row in page


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_lines_are_whole_and_name_no_place(path):
    lines = results.read(path)
    assert len({(line["run"], line["settings"]["precision"]) for line in lines}) == len(lines)
    assert "/" not in "".join(str(line["bench"][k]) for line in lines for k in ("data", "weights"))
    assert all(line["commit"] for line in lines)


def test_runs_of_other_teachers_are_never_averaged():
    line = results.read(FILES[0])[0]  # older: it knows no fingerprints
    digests = ({"teacher": teacher, "images": "i"} for teacher in "aab")
    first, same, other = (results.row({**line, "fingerprints": each}) for each in digests)
    for key in ("same", "pair"):
        assert first[key] == same[key] != other[key]
        assert "fingerprint" not in results.row(line)[key]


# ---- damage -------------------------------------------------------------------------------------


def of(seed=0, **changes):
    line = results.read(FILES[0])[0]
    own = {"run": f"neither-3-{seed}", "settings": line["settings"] | {"seed": seed}}
    return line | own | changes


def test_a_line_that_is_there_twice_counts_once_and_two_of_one_run_are_refused(tmp_path):
    path = tmp_path / "results.jsonl"
    append_lines(path, [of(0), of(1), of(0)])
    assert results.read(path) == [of(0), of(1)]
    append_lines(path, [of(1, seconds=3.5)])
    words = (
        r"results.jsonl, line 4, is damaged \(it is not what line 2 says of the same run\): take"
    )
    with pytest.raises(DamagedError, match=words):
        results.read(path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"accuracy": {"last": math.nan, "label_free": 1.0, "best": 2.0}}, "'accuracy' cannot be"),
        ({"accuracy": {"last": 1.0}}, "'accuracy' cannot be"),
        ({"accuracy": []}, "'accuracy' cannot be"),
        ({"teacher_accuracy": "99"}, "'teacher_accuracy' cannot be '99'"),
        ({"teacher_accuracy": math.inf}, "'teacher_accuracy' cannot be 'inf'"),
        ({"evaluation_images": 1.5}, "'evaluation_images' cannot be '1.5'"),
        ({"evaluations": [{"epoch": 1}]}, "'evaluations' cannot be"),
        ({"run": 3}, "'run' cannot be '3'"),
        ({"settings": {"method": "adadq"}}, "unknown method 'adadq'"),
        ({"settings": {"method": "ptq", "epoch": 3}}, "unknown setting 'epoch'"),
        ({"settings": {"method": "ptq", "epochs": "3"}}, "epochs must be a whole number, not '3'"),
        ({"settings": {"method": "ptq", "milestones": 3}}, "milestones must be several"),
        ({"settings": []}, "'settings' cannot be"),
        ({"bench": {"bench": "digits", "image": 3}}, "image"),
        ({"bench": {"image_size": "3"}}, "image_size of a bench cannot be '3'"),
    ],
)
def test_a_line_that_is_none_is_refused_by_file_and_number(tmp_path, capsys, changes, words):
    path = tmp_path / "results.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in (of(0), of(1, **changes))))
    assert main(["table", "--results", str(path)]) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"akt-lab table: {path}, line 2, is damaged (")
    assert words in said


def test_half_a_line_is_said_and_made_whole_by_the_sweep(tmp_path, capsys):
    path = tmp_path / "results.jsonl"
    append_lines(path, [of(0), of(1)])
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    assert results.read(path) == [of(0)]
    assert f"{path}, line 2, was cut short and is left out" in capsys.readouterr().err
    kept = results.Results(path)
    kept.append({**of(1), "run": "another"})
    assert results.read(path) == [of(0), {**of(1), "run": "another"}]
    path.write_bytes(whole[:-1])  # the end of the line alone
    results.Results(path)
    assert path.read_bytes() == whole


def test_images_are_counted_without_a_history(tmp_path):
    run = fake_run(tmp_path / "run", status="failed")
    run.update_record(steps_done=120)
    assert results.line_of(run)["student_images"] == 20 * 32  # 50 steps an epoch, two of warm-up
