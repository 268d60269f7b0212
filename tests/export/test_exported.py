import pytest

from akt_lab.benches import BenchSpec
from akt_lab.errors import AktError
from akt_lab.export import OnnxRuntime, here, measured, of_run
from akt_lab.export import runtimes as of_runtimes
from akt_lab.runs.folder import Run
from akt_lab.runs.training import train
from akt_lab.settings import Settings
from tests.conftest import SMALL


@pytest.fixture(scope="module")
def made(digits, tmp_path_factory):
    """A run of ptq at 4 bits."""
    run = Run.create(tmp_path_factory.mktemp("export") / "run")
    run.update_record(bench=BenchSpec().to_dict())
    settings = Settings(method="ptq", weight_bits=4, act_bits=4, **SMALL)
    train(digits, settings, run, progress=False)
    return run


def test_sizes_and_bits(made, digits):
    exported = of_run(made, digits, "int4")
    sizes = exported.sizes()
    assert sizes["file"] == len(exported.content)
    assert sizes["entropy_coded"] < sizes["accounted"] < sizes["file"] < sizes["float32"]
    assert exported.bits() == made.entry("effective_bits")
    teacher = of_run(made, digits, teacher=True)
    assert teacher.sizes() == {"file": len(teacher.content)}
    assert teacher.bits() == {}
    assert teacher.metadata["storage"] == "float"


def test_measured_in_every_runtime(made, digits, monkeypatch):
    monkeypatch.setattr(of_runtimes, "SECONDS", 0.0)
    found = measured(of_run(made, digits))
    assert set(found) == {runtime.package for runtime in here()}
    for each in found.values():
        assert each["apart"] == each["classes_apart"] == 0
        assert each["version"]
    teacher = measured(of_run(made, digits, teacher=True))
    assert all("ms_float32" not in each for each in teacher.values())


def test_a_student_is_asked_once_whatever_the_file(made, digits):
    """Its answers are the same in every runtime and storage."""
    exported, asked = of_run(made, digits, "int8"), []
    counting = exported.network.register_forward_hook(lambda *_: asked.append(1))
    exported.check(OnnxRuntime)
    batches = len(asked)
    assert batches == len(exported.answers) > 0
    smaller = exported.stored_as("int4")
    found = [each.check(runtime) for each in (exported, smaller) for runtime in here()]
    counting.remove()
    assert len(asked) == batches
    assert {each.student_accuracy for each in found} == {found[0].student_accuracy}
    assert smaller.content == of_run(made, digits, "int4").content


def test_a_run_without_a_student(digits, tmp_path):
    run = Run.create(tmp_path / "run")
    run.update_record(bench=BenchSpec().to_dict(), settings=Settings().to_dict())
    with pytest.raises(AktError, match="has no checkpoint yet"):
        of_run(run, digits)


def test_what_a_runtime_gives_is_judged(made, digits, monkeypatch):
    run = OnnxRuntime.run
    monkeypatch.setattr(
        OnnxRuntime, "run", lambda self, images: {k: -v for k, v in run(self, images).items()}
    )
    with pytest.raises(AktError, match="540 of 540 images have other logits"):
        of_run(made, digits).check(OnnxRuntime)
