"""What runs on a GPU alone: each method recorded, resumed, side by side, evaluated."""

import itertools
from collections import Counter

import pytest
import torch

from akt_lab.benches import BenchSpec, load_bench
from akt_lab.commands import main
from akt_lab.files import load_tensors
from akt_lab.losses import VARIANTS
from akt_lab.methods import METHODS, get_method
from akt_lab.runs import recorded_steps, sweep, training
from akt_lab.runs.folder import Run
from akt_lab.runs.jobs import jobs_of
from akt_lab.runs.recorded_steps import as_cuda_graph
from akt_lab.settings import Settings

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no CUDA device"),
    # --deterministic's: here the bits themselves are compared
    pytest.mark.filterwarnings("ignore:.*does not have a deterministic implementation"),
]
SIZES = {"batch_size": 8, "epochs": 3, "steps": 6, "warmup_epochs": 1}
KINDS = [
    (name, variant, {})
    for name, method in METHODS.items()
    for variant in (VARIANTS if method.akt else ("paper",))
]
KINDS += [
    ("gdfq", "paper", {"low_pass": 3.0, "min_confidence": 0.2, "average": 0.9}),
    ("adadfq", "paper", {"gradient": "clipped"}),
    ("adadfq", "paper", {"ranges": "pnorm", "weight_ranges": "learned", "range_epochs": (2,)}),
    ("adadfq+akt", "code", {"precision": "bf16"}),
    ("adadfq+akt", "code", {"precision": "tf32"}),
    ("hast+akt", "paper", {"precision": "bf16"}),
]


@pytest.fixture(scope="module")
def bench(digits):
    return load_bench(BenchSpec(), "cuda", progress=False)


@pytest.fixture
def recordings(monkeypatch):
    made = []

    def record(step):
        made.append(as_cuda_graph(step))
        return made[-1]

    monkeypatch.setitem(recorded_steps.RECORDERS, "cuda", record)
    return made


def settings_of(method, variant="paper", **more):
    few = {"pool": 32, "pool_steps": 5} if get_method(method).pool else {}
    return Settings(**{"method": method, "variant": variant, **SIZES, **few, **more})


def alike(ours, theirs):
    return all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


@pytest.mark.parametrize(("method", "variant", "more"), KINDS)
def test_a_step_of_every_kind_is_recorded(bench, recordings, tmp_path, method, variant, more):
    """In the warm-up and after it; weights move while it is replayed, and losses are finite."""
    run = Run.create(tmp_path / "run")
    settings = settings_of(method, variant, **more)
    done = training.train(bench, settings, run, progress=False, watch=True)
    trains = done.method.trains
    assert len(recordings) == 1 + trains
    history = run.history()
    if trains:
        losses = history["student/gradient_norm"].dropna()
        assert losses.nunique() == len(losses) == 12
    elif done.method.generates:
        assert history["generator/bns"].nunique() == len(history)
    for earlier, later in itertools.pairwise(run.epochs):  # the student learns from the second on
        kept = [load_tensors(run.epoch(epoch))[0] for epoch in (earlier, later)]
        learnt = [n for n in kept[0] if n.endswith("weight") and n.startswith("student.")]
        assert not any(torch.equal(kept[0][name], kept[1][name]) for name in learnt)


@pytest.mark.parametrize("method", ["gdfq", "adadfq+akt", "hast"])
def test_a_recorded_step_is_the_step(bench, tmp_path, monkeypatch, method):
    """At 8 bits, where a rounding tips little, and at rates that are the same in float32."""
    settings = settings_of(method, weight_bits=8, act_bits=8, generator_lr=2.0**-10,
                           student_lr=2.0**-17, deterministic=True)  # fmt: skip
    fast, plain = (Run.create(tmp_path / name) for name in ("fast", "plain"))
    training.train(bench, settings, fast, progress=False)
    monkeypatch.delitem(recorded_steps.RECORDERS, "cuda")
    training.train(bench, settings, plain, progress=False)
    ours, theirs = (run.history().filter(regex="^(student|generator)/") for run in (fast, plain))
    torch.testing.assert_close(
        torch.tensor(ours.values), torch.tensor(theirs.values), rtol=1e-2, atol=1e-4, equal_nan=True
    )


@pytest.mark.slow
def test_compiled_side_by_side_share_a_graph(bench, tmp_path, monkeypatch):
    """One is compiled; each student is recorded, and learns as it does uncompiled."""
    compiled, compile_ = [], torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda graph, **how: compiled.append(1) or compile_(graph, **how)
    )
    few = {**SIZES, "weight_bits": 8, "act_bits": 8}
    plain = jobs_of(tmp_path / "plain", BenchSpec(), ["adadfq"], [8], [0, 1, 2], [], few)
    fast = jobs_of(tmp_path / "fast", BenchSpec(), ["adadfq"], [8], [0, 1, 2], [],
                   {**few, "compile": True})  # fmt: skip
    place = sweep.Place(0, device="cuda", side_by_side=3)
    losses = [
        [run.history()["student/difference_entropy"].dropna() for run in
         sweep.run_grid(jobs, progress=False, place=place)]
        for jobs in (plain, fast)
    ]  # fmt: skip
    assert len(compiled) == 1
    for ours, theirs in zip(*losses, strict=True):
        assert ours.to_numpy() == pytest.approx(theirs.to_numpy(), rel=1e-2)


def test_side_by_side_on_a_gpu_as_alone(bench, tmp_path):
    found = []
    for at_once in (1, 4):
        shared = {**SIZES, "deterministic": True}
        grid = jobs_of(tmp_path / str(at_once), BenchSpec(), ["gdfq", "adadfq+akt"], [3], [0, 1],
                       [], shared)  # fmt: skip
        place = sweep.Place(0, device="cuda", side_by_side=at_once)
        runs = sweep.run_grid(grid, progress=False, place=place)
        found.append([load_tensors(run / "student.safetensors")[0] for run in runs])
    assert all(alike(ours, theirs) for ours, theirs in zip(*found, strict=True))


@pytest.mark.parametrize("method", ["gdfq", "adadfq+akt", "hast"])
def test_a_run_on_a_gpu_goes_on_to_the_same_bits(bench, tmp_path, method):
    settings = settings_of(method, average=0.9, deterministic=True)
    whole, broken = (Run.create(tmp_path / name) for name in ("whole", "broken"))
    training.train(bench, settings, whole, progress=False)
    steps = training.stepwise(bench, settings, broken, progress=False)
    for _ in range(2 * settings.steps + 4):
        next(steps)
    steps.close()
    training.train(bench, settings, broken, progress=False)
    assert broken.history().equals(whole.history())
    assert alike(*(load_tensors(run / "student.safetensors")[0] for run in (broken, whole)))


def test_a_run_that_diverges_on_a_gpu_stops_no_other(bench, tmp_path):
    place = sweep.Place(0, device="cuda", side_by_side=2)
    good, bad = (
        jobs_of(tmp_path, BenchSpec(), ["gdfq"], [3], [seed], [], {**SIZES, "student_lr": rate})[0]
        for seed, rate in ((0, 1e-4), (1, 1e6))
    )
    runs = sweep.run_grid([good, bad], progress=False, place=place)
    assert [run.record["status"] for run in runs] == ["done", "failed"]
    assert "not finite at epoch 1, step" in runs[1].record["error"]


def test_evaluation_images_stay_on_the_card(bench, digits):
    (images, _), *_ = bench.batches()
    assert images.is_cuda
    kept, labels = bench._at_hand
    assert kept.is_cuda
    assert labels.is_cuda
    assert bench._at_hand[0] is kept
    assert bench.batch_size > digits.batch_size
    ours, theirs = (training.evaluate(each.teacher, each) for each in (bench, digits))
    assert ours == pytest.approx(theirs, abs=1)
    assert not torch.backends.cudnn.allow_tf32


def test_a_full_card_is_one_line(bench, tmp_path, capsys):
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.01)
    try:
        sizes = ["--batch-size", "100000", "--epochs", "2", "--steps", "3", "--device", "cuda"]
        assert main(["quantize", "--method", "gdfq", *sizes, "--out", str(tmp_path / "run")]) == 1
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "not enough memory: try a smaller --batch-size" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.slow
def test_two_gpus_have_a_worker_each(tmp_path):
    grid = jobs_of(tmp_path, BenchSpec(), ["gdfq", "adadfq"], [3], [0, 1], [], SIZES)
    runs = sweep.run_grid(grid, progress=False, place=sweep.Place(device="cuda", side_by_side=2))
    assert Counter(run.record["status"] for run in runs) == {"done": 4}
