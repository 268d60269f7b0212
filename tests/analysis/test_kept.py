import subprocess
import sys

import pandas as pd
import pytest

from akt_lab.analysis import kept
from akt_lab.errors import AktError, DamagedError
from akt_lab.runs.folder import STUDENT
from tests.conftest import fake_run

TABLE = pd.DataFrame({"x": [1]})


OWN = {"teacher": "nets:small", "weights": "a.pth"}
PRINTS = {"teacher": "1a", "images": "2b"}


@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        ({}, {"bench": {"bench": "cifar10"}}, "bench: digits, and cifar10 of .*2"),
        ({"bench": OWN}, {"bench": {**OWN, "weights": "b.pth"}}, "weights: a.pth, and b.pth"),
        ({"fingerprints": PRINTS}, {"fingerprints": {**PRINTS, "images": "3c"}}, "images's f.*3c"),
    ],
)
def test_one_bench_is_one_in_all_that_judges(tmp_path, one, other, words):
    """By the network's files and images, too: a name says little."""
    runs = [fake_run(tmp_path / "1", **one), fake_run(tmp_path / "2", **other)]
    with pytest.raises(AktError, match=rf"several benches \({words}"):
        kept.bench_of(runs)


def test_older_records_have_no_fingerprints(tmp_path):
    runs = [fake_run(tmp_path / "1"), fake_run(tmp_path / "2", fingerprints=PRINTS)]
    assert kept.check_one_bench(runs)["teacher's fingerprint"] == "1a"
    assert kept.bench_of(runs).name == "digits"
    with pytest.raises(AktError, match="no runs"):
        kept.bench_of([])


def test_training_images_are_no_part_of_what_judges_but_must_be_one(tmp_path):
    """A zero-shot run beside the ceiling; where its images lie does not matter."""
    seen = {"bench": {**OWN, "train_data": "/a"}, "fingerprints": {**PRINTS, "training": "3c"}}
    moved = {**seen, "bench": {**OWN, "train_data": "/b"}}
    runs = [fake_run(tmp_path / "1", bench=OWN, fingerprints=PRINTS)]
    before = kept.check_one_bench(runs)
    assert "train_data" not in before  # what was kept beside older runs keeps its name
    runs += [fake_run(tmp_path / "2", **seen), fake_run(tmp_path / "3", **moved)]
    assert kept.check_one_bench(runs) == {**before, "training's fingerprint": "3c"}
    other = {**seen, "fingerprints": {**PRINTS, "training": "4d"}}
    with pytest.raises(AktError, match="training's fingerprint: 3c, and 4d"):
        kept.check_one_bench([*runs, fake_run(tmp_path / "4", **other)])


def test_where_one_s_own_teacher_was_found_is_told(tmp_path, monkeypatch):
    own = {"bench": None, "teacher": "nowhere:net", "weights": __file__, "data": str(tmp_path)}
    own |= {"mean": [0.5], "std": [0.5]}
    for made_in, told in ((tmp_path / "there", True), (tmp_path, False)):
        monkeypatch.chdir(tmp_path)
        run = fake_run(tmp_path / str(told), bench=own)
        run.update_record(made_in=str(made_in))
        with pytest.raises(AktError, match="No module named 'nowhere'") as error:
            kept.bench_of([run])
        assert (f"was made in {made_in}, start there" in str(error.value)) is told


@pytest.mark.parametrize("how", ["script.py", "-"])
def test_work_side_by_side_from_a_script_without_a_main_guard(how, tmp_path):
    script = """
print("once")
from functools import partial
from akt_lab.analysis.kept import on_every_core
print(on_every_core({"a": partial(abs, -1), "b": partial(abs, -2)}, False))
"""
    (tmp_path / "script.py").write_text(script)
    own = {"text": True, "capture_output": True, "cwd": tmp_path}
    done = subprocess.run([sys.executable, how], input=script, **own, check=False)
    assert (done.stdout, done.stderr) == ("once\n[1, 2]\n", "")


def test_tables_lie_in_the_folder_that_holds_all_runs(tmp_path):
    runs = [fake_run(tmp_path / name) for name in ("a/one", "b/two")]
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "name.csv").write_text("y\n2\n")  # of what, it does not say
    assert kept.kept(runs, "name", lambda: TABLE).equals(TABLE)
    assert len(list((tmp_path / "studies").glob("name-*.csv"))) == 1
    assert kept.kept(runs, "name", None).equals(TABLE)
    assert not [p for p in tmp_path.rglob("*.csv") if p.parent.name != "studies"]


def test_a_table_is_made_anew_when_what_it_is_of_changed(tmp_path):
    runs = [fake_run(tmp_path / str(seed), seed=seed) for seed in range(3)]
    made = []

    def of(runs, entering, **constants):
        kept.kept(runs, "name", lambda: made.append(0) or TABLE, entering, **constants)
        return len(made)

    assert of(runs[:2], runs[:2], steps=4) == 1
    assert of(runs, runs[:2], steps=4) == 1  # a run that does not enter changes nothing
    assert of(runs, runs, steps=4) == 2
    assert of(runs, runs, steps=5) == 3
    (runs[0] / STUDENT).write_bytes(b"trained again")
    assert of(runs, runs, steps=5) == 4
    assert of(runs, [], steps=5) == 5
    for run in runs:
        run.update_record(fingerprints={"teacher": "another"})
    assert of(runs, [], steps=5) == 6
    assert of(runs, [], steps=5) == 6


@pytest.mark.slow
def test_tasks_side_by_side_come_back_in_order(capfd):
    tasks = {str(n): (lambda n=n: n**2) for n in range(4)}
    assert kept.on_every_core(tasks, progress=False) == [0, 1, 4, 9]
    assert capfd.readouterr().err == ""


def test_a_damaged_table_is_refused_by_name_and_made_again_where_it_is_deleted(tmp_path):
    runs = [fake_run(tmp_path / "a")]
    kept.kept(runs, "name", lambda: TABLE)
    (path,) = (tmp_path / "studies").glob("name-*.csv")
    assert path.read_bytes() == TABLE.to_csv(index=False).encode()
    for hit in (b"x\n2\n", b"x\n", b"", b"\xff"):
        path.write_bytes(hit)
        with pytest.raises(DamagedError, match=rf"{path.name} is damaged .*: delete it, and it is"):
            kept.kept(runs, "name", None)
    path.unlink()
    assert kept.kept(runs, "name", lambda: TABLE).equals(TABLE)
