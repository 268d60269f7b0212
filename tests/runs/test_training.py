import math
from dataclasses import replace

import pandas as pd
import pytest
import torch

from akt_lab.errors import AktError, DivergedError, UsageError
from akt_lab.files import load_tensors
from akt_lab.generator import LATENT
from akt_lab.methods import get_method
from akt_lab.quantizer import (
    CHOSEN,
    ActivationQuantizer,
    freeze_ranges,
    learned_scales,
)
from akt_lab.runs import agreement, folder, networks, recorded_steps, training
from akt_lab.runs.folder import Run
from akt_lab.runs.networks import load_generator, load_student, prepare
from akt_lab.runs.training import evaluate, train
from akt_lab.settings import Settings
from tests.conftest import SMALL


def test_published_is_the_plain_method_bit_for_bit(digits):
    def last(method, **values):
        run = train(digits, Settings(method=method, **values, **SMALL), progress=False)
        return run.student.state_dict()

    plain, published = last("adadfq"), last("adadfq+akt", variant="published")
    assert all(torch.equal(plain[k], v) for k, v in published.items())


def test_a_student_learns(digits):
    """Training beats the ranges alone at 3 bits, and the teacher is 98% or better."""
    values = {"weight_bits": 3, "act_bits": 3, "batch_size": 32, "steps": 30}
    floor = train(digits, Settings(method="ptq", epochs=1, **values), progress=False)
    plain = train(digits, Settings(method="adadfq", epochs=4, **values), progress=False)
    assert evaluate(digits.teacher, digits) >= 90
    assert training.summary(plain)["last"] > training.summary(floor)["last"]
    assert training.summary(plain)["last"] > 50


def test_a_run_s_folder(digits, tmp_path):
    run = Run.create(tmp_path / "run")
    run.update_record(bench={"bench": "digits", "teacher": None})
    settings = Settings(method="adadfq+akt", **SMALL)
    done = train(digits, settings, run, progress=False)
    record, history = run.record, run.history()
    assert record["status"] == "done"
    assert Settings.from_dict(record["settings"]) == settings
    assert record["lam"] == done.lam
    assert {"torch", "python", "threads", "commit"} <= record["versions"].keys()
    assert record["accuracy"]["last"] == history["accuracy"].dropna().iloc[-1]
    assert record["projected_seconds"] == pytest.approx(record["seconds"], abs=1)
    assert len(history) == 9
    assert history["student/spatial"].isna().sum() == 3  # the warm-up
    student, _ = load_student(run, digits)
    assert evaluate(student, digits) == record["accuracy"]["last"]


def test_a_watched_run_keeps_its_epochs_and_changes_no_number(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "WRITE_EVERY", 0)  # after every step
    settings = Settings(method="adadfq", **SMALL)
    plain, watched = Run.create(tmp_path / "plain"), Run.create(tmp_path / "watched")
    (watched / "epochs").mkdir()
    (watched / "epochs" / ".0001.safetensors.123.tmp").write_bytes(b"of a killed write")
    once = train(digits, settings, plain, progress=False)
    again = train(digits, settings, watched, progress=False, watch=True)
    weights = again.student.state_dict()
    assert all(torch.equal(weights[k], v) for k, v in once.student.state_dict().items())
    assert (plain.epochs, watched.epochs) == ([], [1, 2, 3])
    assert not list((watched.folder / "epochs").glob(".*"))

    history = watched.history()
    by_layer = [c for c in history if c.startswith("gradient/")]
    assert history.drop(columns=by_layer).equals(plain.history())
    assert {f"gradient/{n}" for n, w in again.student.named_parameters() if w.ndim > 1} == set(
        by_layer
    )
    weights_alone = (history[by_layer] ** 2).sum(axis=1) ** 0.5  # no biases, no batch norms
    share = (weights_alone / history["student/gradient_norm"]).dropna()
    assert len(share) == 6
    assert share.between(0.5, 1).all()

    first, source = load_student(watched, digits, epoch=2)
    last, _ = load_student(watched, digits, epoch=3)
    assert source == "epoch 2"
    assert all(torch.equal(last.state_dict()[k], v) for k, v in weights.items())
    assert any(not torch.equal(first.state_dict()[k], v) for k, v in weights.items())
    images = [load_generator(watched, digits, e).state_dict()["linear.weight"] for e in (1, 3)]
    assert not torch.equal(*images)
    with pytest.raises(AktError, match="has not kept epoch 1"):
        load_student(plain, digits, epoch=1)


def test_scores_that_are_not_finite_stop_a_run(digits, monkeypatch):
    monkeypatch.setattr(training, "_agreement", lambda _: {"synthetic_kl": math.nan})
    with pytest.raises(DivergedError, match="synthetic_kl not finite"):
        train(digits, Settings(method="gdfq", **SMALL), progress=False)


def test_divergence_names_the_term_and_keeps_the_checkpoint(digits, tmp_path):
    run = Run.create(tmp_path / "run")
    settings = Settings(method="gdfq", student_lr=1e6, batch_size=8, epochs=4, steps=4)
    with pytest.raises(AktError, match=r"diverged: .*student/.* not finite at epoch \d, step \d"):
        train(digits, settings, run, progress=False)
    _, state = load_tensors(run / "checkpoint.safetensors")
    assert state["epoch"] >= 1
    assert run.record["status"] == "failed"
    assert not (run / "student.safetensors").exists()
    last = run.history().filter(like="student/").iloc[-1]
    assert not last.map(math.isfinite).all()  # the history shows where it broke


def test_terms_may_wait_on_the_device(digits, tmp_path, monkeypatch):
    """As on a GPU: the same history and the same last row, fetched several steps at a time."""
    runs = {wait: Run.create(tmp_path / str(wait)) for wait in (1, 5)}
    far = Settings(method="gdfq", student_lr=1e6, batch_size=8, epochs=4, steps=7)
    for wait, run in runs.items():
        monkeypatch.setitem(recorded_steps.AHEAD, "cpu", wait * 8 * LATENT * 4)
        with pytest.raises(DivergedError):
            train(digits, far, run, progress=False)
    pd.testing.assert_frame_equal(*(run.history() for run in runs.values()))


def test_rates_fall_by_steps_or_by_a_cosine(digits):
    steps = Settings(epochs=10, warmup_epochs=2, milestones=(3, 6))
    factors = [training.rate_factor(steps, epoch) for epoch in range(10)]
    assert factors == [0.1 ** ((e >= 3) + (e >= 6)) for e in range(10)]
    cosine = Settings(epochs=10, warmup_epochs=2, schedule="cosine", milestones=(3, 6))
    factors = [training.rate_factor(cosine, epoch) for epoch in range(11)]
    expected = [1, 1, *(math.cos(math.pi * e / 16) ** 2 for e in range(8)), 0]
    assert factors == pytest.approx(expected, abs=1e-12)
    run = prepare(digits, Settings(method="adadfq", schedule="cosine", **SMALL))
    run.epoch = 2
    training._set_rates(run)
    for optimizer, rate in ((run.student_optimizer, 1e-4), (run.generator_optimizer, 1e-3)):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(rate / 2)


def test_bf16_trains(digits):
    run = train(digits, Settings(method="adadfq+akt", precision="bf16", **SMALL), progress=False)
    assert all(torch.isfinite(w).all() for w in run.student.parameters())
    assert all(w.dtype == torch.float32 for w in run.student.parameters())


def test_tf32_is_a_gpu_s(digits):
    with pytest.raises(UsageError, match="a GPU's"):
        train(digits, Settings(method="gdfq", precision="tf32", **SMALL), progress=False)


def test_a_large_hold_out_is_drawn_and_judged_in_parts(digits, monkeypatch):
    """Generator and networks are in eval mode, so a batch's images do not see each other."""
    run = prepare(digits, Settings(method="adadfq", **SMALL))
    run.student(digits.normalise(digits.images[:64]))
    freeze_ranges(run.student)
    counted = []
    for network in (run.generator, run.student, run.teacher):
        network.register_forward_hook(lambda _, inputs, __: counted.append(len(inputs[0])))
    run.holdout = whole = training._draw_holdout(run)
    expected = training._agreement(run)
    assert counted == [256] * 3
    monkeypatch.setattr(agreement, "EVALUATION_PIXELS", 100 * digits.image_size**2)
    run.holdout = training._draw_holdout(run)
    torch.testing.assert_close(run.holdout, whole)
    assert training._agreement(run) == pytest.approx(expected, rel=1e-3)
    assert counted[3:] == [100, 100, 56] * 3


def test_what_stays_in_float_is_said_and_recorded(digits, tmp_path, monkeypatch, capsys):
    run, settings = Run.create(tmp_path / "run"), Settings(method="ptq", **SMALL)
    for names in ([], ["positions", "embedding.weight"]):
        monkeypatch.setattr(networks, "stays_in_float", lambda _, names=names: names)
        train(digits, settings, run)
        said = "stays in float: positions, embedding.weight\n"
        assert (said in capsys.readouterr().err) == bool(names)
        assert run.record["float_weights"] == names


# ---- chosen and learned ranges ------------------------------------------------------------------


def quantizers(student):
    return [m for m in student.modules() if isinstance(m, ActivationQuantizer)]


@pytest.mark.parametrize("method", ["ptq", "zeroq", "adadfq", "hast"])
def test_ranges_are_chosen_at_the_end_of_the_warm_up(digits, method):
    few = {"pool": 32, "pool_steps": 3} if get_method(method).pool else {}
    plain, chosen = (
        train(digits, Settings(method=method, ranges=rule, **SMALL, **few), progress=False)
        for rule in ("ema", "pnorm")
    )
    pairs = list(zip(quantizers(plain.student), quantizers(chosen.student), strict=True))
    assert all(b.chosen and not b.observing for _, b in pairs)
    assert sum(bool(b.high - b.low < a.high - a.low) for a, b in pairs) > len(pairs) / 2
    assert torch.equal(plain.holdout, chosen.holdout)  # which is not what they are chosen by


def test_learned_scales_have_their_own_rate_and_no_decay(digits):
    settings = Settings(method="adadfq", ranges="learned", weight_ranges="learned",
                        range_lr=0.5, milestones=(2,), **SMALL)  # fmt: skip
    run = train(digits, settings, progress=False)
    weights, scales = run.student_optimizer.param_groups
    assert (weights["lr"], scales["lr"]) == pytest.approx((1e-5, 0.05))
    assert (weights["weight_decay"], scales["weight_decay"]) == (1e-4, 0)
    assert len(weights["params"]) + len(scales["params"]) == len([*run.student.parameters()])
    still = train(digits, replace(settings, range_lr=1e-12), progress=False)
    moved = zip(learned_scales(run.student), learned_scales(still.student), strict=True)
    assert sum(not torch.equal(a, b) for a, b in moved) > len(scales["params"]) / 2


def test_ranges_are_chosen_again_where_asked(digits):
    once, again = (
        train(digits, Settings(method="adadfq", ranges="pnorm", range_epochs=epochs,
                               **{**SMALL, "student_lr": 1e-3}), progress=False)
        for epochs in ((), (2,))
    )  # fmt: skip
    pairs = zip(quantizers(once.student), quantizers(again.student), strict=True)
    assert any(not torch.equal(a.high, b.high) for a, b in pairs)


@pytest.mark.parametrize("rule", CHOSEN)
@pytest.mark.parametrize("after", [1, 3])  # epochs, of which two are the warm-up
def test_a_run_with_chosen_ranges_goes_on_to_the_same_bits(digits, tmp_path, rule, after):
    sizes = {**SMALL, "epochs": 4, "warmup_epochs": 2}
    settings = Settings(method="adadfq+akt", ranges=rule, weight_ranges=rule, range_epochs=(1, 3),
                        **sizes)  # fmt: skip
    whole = train(digits, settings, progress=False)
    run = Run.create(tmp_path / "run")
    ends = {"n": 0}

    def stop(*_):
        ends["n"] += 1
        if ends["n"] == after:
            raise KeyboardInterrupt

    save = training.save
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "save", lambda t, r: (save(t, r), stop()))
        with pytest.raises(KeyboardInterrupt):
            train(digits, settings, run, progress=False)
    resumed = train(digits, settings, run, progress=False)
    for (name, a), b in zip(
        whole.student.state_dict().items(), resumed.student.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), name
    loaded, _ = load_student(run, digits)
    x = digits.normalise(digits.images[:8])
    assert torch.equal(loaded(x), resumed.student(x))
