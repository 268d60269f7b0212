"""All but the recording itself, which needs a GPU (tests/test_gpu.py): a stand-in does the step."""

from dataclasses import replace

import pytest
import torch

from akt_lab.files import load_tensors
from akt_lab.runs import recorded_steps, training
from akt_lab.runs.folder import Run
from akt_lab.runs.in_turns import in_turns
from akt_lab.runs.networks import prepare
from akt_lab.runs.recorded_steps import RecordedSteps
from akt_lab.settings import Settings
from tests.conftest import SMALL

SIZES = {**SMALL, "steps": 6}
EXACT = {"generator_lr": 2.0**-10, "student_lr": 2.0**-13}  # the same number in float32
KINDS = [
    {"method": "adadfq"},
    {"method": "adadfq+akt", "average": 0.9},
    {"method": "gdfq+akt", "variant": "placebo"},
    {"method": "granq", "weight_ranges": "learned", "range_lr": 2.0**-7},
    {"method": "hast+akt", "pool": 64, "pool_steps": 5, "student_lr": 2.0**-17},
]


@pytest.fixture
def recorded(monkeypatch):
    """Steps are recorded as on a GPU; the list has one entry for each recording."""
    made = []

    def record(step):
        made.append(step)
        return step  # as a graph: nothing is done now, and all where it is called

    monkeypatch.setitem(recorded_steps.RECORDERS, "cpu", record)
    monkeypatch.setitem(recorded_steps.AHEAD, "cpu", 2**20)
    return made


def weights(run):
    return {
        **run.student.state_dict(),
        **{f"g.{k}": v for k, v in run.generator.state_dict().items()},
    }


def alike(ours, theirs):
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], v) for k, v in theirs.items())


@pytest.mark.parametrize("given", KINDS, ids=lambda given: given["method"])
def test_recorded_steps_are_the_steps(digits, tmp_path, monkeypatch, given):
    """Drawn ahead, from fixed places, rates as tensors: the same bits as a step at a time."""
    settings = Settings(**EXACT | given | SIZES)
    plain, fast = (Run.create(tmp_path / name) for name in ("plain", "fast"))
    expected = training.train(digits, settings, plain, progress=False)
    monkeypatch.setitem(recorded_steps.RECORDERS, "cpu", lambda step: step)
    monkeypatch.setitem(recorded_steps.AHEAD, "cpu", 2**20)
    got = training.train(digits, settings, fast, progress=False)
    assert fast.history().equals(plain.history())
    assert alike(weights(got), weights(expected))
    assert alike(got.judged.state_dict(), expected.judged.state_dict())


def test_a_step_is_recorded_once_for_the_warm_up_and_once_after_it(digits, recorded):
    run = training.train(digits, Settings(method="gdfq", **EXACT, **SIZES), progress=False)
    assert len(recorded) == 2
    assert isinstance(run.student_optimizer.param_groups[0]["lr"], torch.Tensor)


def test_rates_of_recorded_steps_fall(digits, recorded):
    """They are read where they lie: the tensors stay, their values are the epoch's."""
    run = prepare(digits, Settings(method="adadfq", milestones=(2,), **SMALL))
    RecordedSteps(run)
    groups = [o.param_groups[0] for o in (run.generator_optimizer, run.student_optimizer)]
    rates = [group["lr"] for group in groups]
    for epoch, factor in ((1, 1), (2, 0.1), (1, 1)):
        run.epoch = epoch
        training._set_rates(run)
        for group, rate, full in zip(groups, rates, (1e-3, 1e-4), strict=True):
            assert group["lr"] is rate
            assert rate.item() == pytest.approx(factor * full)


def test_inputs_are_drawn_ahead_as_far_as_they_fit(digits, monkeypatch):
    steps = RecordedSteps(prepare(digits, Settings(method="gdfq", **SMALL)))
    one = 8 * 100 * 4  # bytes of a step's noise
    for room, left, expected in ((0, 9, 1), (one - 1, 9, 1), (3 * one, 9, 3), (9 * one, 4, 4)):
        monkeypatch.setitem(recorded_steps.AHEAD, "cpu", room)
        steps.waiting.clear()
        steps.draw(left)
        assert len(steps.waiting) == expected


@pytest.mark.parametrize("at_once", [2, 3])
def test_recorded_side_by_side_as_alone(digits, recorded, at_once):
    """Students whose steps are taken in turns: each as if it were alone."""
    grid = [Settings(method="adadfq+akt", seed=seed, **SIZES) for seed in range(3)]
    alone = [weights(training.train(digits, settings, progress=False)) for settings in grid]
    steps = {s.seed: training.stepwise(digits, s, progress=False) for s in grid}
    together = {seed: weights(run) for seed, run in in_turns(steps, at_once)}
    assert all(alike(together[seed], theirs) for seed, theirs in enumerate(alone))
    assert not alike(together[0], together[1])


def test_recorded_side_by_side_share_a_graph(digits, recorded, monkeypatch):
    """Traced once, recorded for each; a student as with a graph of its own."""
    made = []
    monkeypatch.setattr(torch, "compile", lambda graph, **_: made.append(graph) or graph)
    grid = [Settings(method="adadfq", seed=seed, compile=True, **SIZES) for seed in range(2)]
    alone = [weights(training.train(digits, settings, progress=False)) for settings in grid]
    graphs = {}
    steps = {s.seed: training.stepwise(digits, s, progress=False, graphs=graphs) for s in grid}
    together = {seed: weights(run) for seed, run in in_turns(steps, 2)}
    assert len(made) == 3
    assert all(alike(together[seed], theirs) for seed, theirs in enumerate(alone))


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_recorded_run_goes_on_to_the_same_bits(digits, tmp_path, recorded, epochs):
    """The first steps after a resume are done as written again, then recorded anew."""
    settings = Settings(method="adadfq+akt", average=0.9, **EXACT, **SIZES)
    whole, broken = (Run.create(tmp_path / name) for name in ("whole", "broken"))
    training.train(digits, settings, whole, progress=False)
    steps = training.stepwise(digits, settings, broken, progress=False)
    for _ in range(epochs * settings.steps + 4):
        next(steps)
    steps.close()
    training.train(digits, settings, broken, progress=False)
    assert broken.history().equals(whole.history())
    students = [load_tensors(run / "student.safetensors")[0] for run in (whole, broken)]
    assert alike(*students)


def test_a_recorded_run_that_diverges_names_step_and_term(digits, tmp_path, recorded):
    """Found where the epoch's numbers are fetched; the rows end with the step that broke."""
    run, plain = Run.create(tmp_path / "run"), Run.create(tmp_path / "plain")
    far = Settings(method="gdfq", **{**EXACT, "student_lr": 2.0**19}, **SIZES)
    for each, room in ((run, 2**20), (plain, 0)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(recorded_steps.AHEAD, "cpu", room)
            with pytest.raises(training.DivergedError, match=r"student/.* at epoch 1, step \d"):
                training.train(digits, far, each, progress=False)
    assert run.history().equals(plain.history())
    assert run.record["error"] == plain.record["error"]
    assert run.record["steps_done"] == len(run.history())


def test_what_cannot_be_recorded_is_done_as_written(digits, monkeypatch, capsys):
    settings = Settings(method="adadfq", **EXACT, **SIZES)
    expected = weights(training.train(digits, settings, progress=False))

    def refuses(step):
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    monkeypatch.setitem(recorded_steps.RECORDERS, "cpu", refuses)
    assert alike(weights(training.train(digits, settings, progress=False)), expected)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2  # the warm-up's, and those after it
    assert said[0].endswith("no CUDA graph can be made of them (operation not permitted)")


def test_too_little_memory_is_no_reason_to_go_on(digits, monkeypatch):
    def full(step):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setitem(recorded_steps.RECORDERS, "cpu", full)
    with pytest.raises(torch.OutOfMemoryError):
        training.train(digits, Settings(method="gdfq", **SIZES), progress=False)


def test_a_step_s_input_is_copied_into_whatever_the_step_asks_of_it(digits, recorded):
    """HAST's asks for a gradient at its images: a leaf that has one may not be written to."""
    settings = Settings(method="hast", pool=32, pool_steps=3, **SMALL)
    run = replace(prepare(digits, settings), epoch=1)
    steps = RecordedSteps(run)
    with torch.no_grad():
        run.student(run.generator(*run.generator.draw(8, run.rng)))
    steps.draw(6)
    for _ in range(6):
        steps.do()
    assert len(recorded) == 1
    rows = steps.fetch()
    assert len(rows) == 6
    assert len({row["student/kd"] for row in rows}) == 6
