import json

import pytest

from akt_lab.benches import BenchSpec
from akt_lab.runs import agreement
from akt_lab.runs.folder import Run
from akt_lab.runs.training import train
from akt_lab.settings import Settings
from tests.conftest import SMALL


def test_a_teacher_alone(run, digits):
    code, printed, _ = run("evaluate", "--json")
    assert code == 0
    assert json.loads(printed).keys() == {"bench", "images", "teacher_accuracy"}


def test_no_run(run, refused, tmp_path):
    refused(1, "is not a run folder", "evaluate", tmp_path)
    (tmp_path / "record.json").write_text("{}")
    refused(1, "no 'bench'", "evaluate", tmp_path)


def test_on_the_common_pool(run, refused, digits, tmp_path, monkeypatch):
    refused(2, "name a RUN", "evaluate", "--common-pool")
    monkeypatch.setattr(agreement, "COMMON", 20)
    monkeypatch.setattr(agreement, "COMMON_STEPS", 2)
    made = Run.create(tmp_path / "run")
    made.update_record(bench=BenchSpec().to_dict())
    student = train(digits, Settings(method="ptq", **SMALL), made, progress=False).student
    code, printed, _ = run("evaluate", made.folder, "--common-pool", "--json")
    assert code == 0
    result = json.loads(printed)
    images = agreement.common_pool(digits, progress=False)
    expected = agreement.common_kl(student, digits.teacher, images)
    assert {name: result[name] for name in expected} == pytest.approx(expected, rel=1e-4)
    code, printed, _ = run("evaluate", made.folder, "--common-pool")
    lines = [" ".join(line.split()) for line in printed.splitlines()]
    assert f"common kl {result['common_kl']:.4g} nats" in lines
    assert f"common agreement {result['common_agreement']:.2f}%" in lines
    code, printed, _ = run("evaluate", made.folder, "--json")
    assert json.loads(printed) == {k: v for k, v in result.items() if k not in expected}
