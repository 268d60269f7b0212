import json


def test_a_teacher_alone(run, digits):
    code, printed, _ = run("evaluate", "--json")
    assert code == 0
    assert json.loads(printed).keys() == {"bench", "images", "teacher_accuracy"}


def test_no_run(run, refused, tmp_path):
    refused(1, "is not a run folder", "evaluate", tmp_path)
    (tmp_path / "record.json").write_text("{}")
    refused(1, "no 'bench'", "evaluate", tmp_path)
