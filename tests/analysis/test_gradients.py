import math

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from akt_lab.analysis.gradients import (
    Case,
    by_step,
    explosion,
    gradients_of,
    grid,
    make_student,
    study,
    summarise,
    synthetic_batches,
)
from akt_lab.errors import AktError
from akt_lab.graph import trace
from akt_lab.losses import kd_loss


@pytest.fixture(scope="module")
def images(digits):
    return synthetic_batches(digits, batches=12, batch_size=16)


@pytest.fixture(scope="module")
def found(digits, images):
    losses = [(0, "ce"), (8, "ce"), (2, "ce"), (0, "kd"), (3, "kd"), (3, "paper"), (3, "published")]
    cases = [Case(*loss) for loss in losses]
    return study(digits, cases, images, progress=False)


def test_norms_are_autograd_s(digits, images, found):
    """By hand: .backward() on the loss of the same student, layer by layer."""
    x, _ = images[0]
    student = make_student(digits.teacher, Case(3), images)
    t = digits.teacher(x).detach()
    kd_loss(student(x), t).backward()
    first = found[(found.bits == 3) & (found.loss == "kd") & (found.step == 0)].set_index("layer")
    for name, weight in student.named_parameters():
        if weight.ndim > 1:
            assert first.norm[name] == pytest.approx(weight.grad.norm().item(), rel=1e-4)
            assert first.weight_norm[name] == pytest.approx(weight.detach().norm().item(), rel=1e-6)


def test_the_reference_is_the_full_precision_network_with_the_student_s_weights(digits, images):
    x, y = images[0]
    full, student = trace(digits.teacher), make_student(digits.teacher, Case(4), images)
    with torch.no_grad():
        for weight in student.parameters():
            weight.mul_(1.1)
    found = gradients_of(full, None, x, y, "ce", of=student)
    moved = trace(digits.teacher)
    moved.load_state_dict(student.state_dict(), strict=False)
    F.cross_entropy(moved(x), y).backward()
    for name, weight in moved.named_parameters():
        torch.testing.assert_close(found[name], weight.grad, rtol=1e-4, atol=1e-7)
    for name, weight in trace(digits.teacher).named_parameters():
        assert torch.equal(dict(full.named_parameters())[name], weight)  # nothing was moved


def test_full_precision_agrees_with_itself(found):
    ce = by_step(found[(found.bits == 0) & (found.loss == "ce")])
    assert ce.cosine.min() == pytest.approx(1, abs=1e-5)
    assert (ce.norm / ce.reference_norm).to_numpy() == pytest.approx(1, rel=1e-5)
    kd = by_step(found[(found.bits == 0) & (found.loss == "kd")])
    assert kd.norm.iloc[0] < 1e-3 * ce.norm.iloc[0]  # nothing to learn: the teacher is the student


def test_published_is_plain_distillation(found):
    """The released code's features are exactly zero."""
    plain = found[(found.bits == 3) & (found.loss == "kd")]
    published = found[(found.bits == 3) & (found.loss == "published")]
    assert (plain.norm.to_numpy() == published.norm.to_numpy()).all()
    paper = found[(found.bits == 3) & (found.loss == "paper")]
    assert (plain.norm.to_numpy() != paper.norm.to_numpy()).any()


def test_fewer_bits_point_elsewhere(found):
    cosine = summarise(found).set_index(["bits", "loss"]).cosine
    assert cosine[0, "ce"] > cosine[8, "ce"] > cosine[2, "ce"]


def test_steps_add_the_layers_up(found):
    rows = found[(found.bits == 3) & (found.loss == "kd") & (found.step == 5)]
    whole = by_step(found).set_index(["bits", "loss", "step"]).loc[(3, "kd", 5)]
    assert whole.norm == pytest.approx(math.sqrt((rows.norm**2).sum()))
    assert -1 <= whole.cosine <= 1
    with_nan = rows.assign(norm=math.nan, cosine=math.nan)
    assert math.isnan(by_step(with_nan).norm.iloc[0])
    one_nan = rows.assign(norm=[math.nan, *rows.norm[1:]])
    assert math.isnan(by_step(one_nan).norm.iloc[0])  # not the norm of the others
    assert summarise(one_nan).exploded.all()


def test_of_every_loss_the_distillation_s_own_gradient_is_known(digits, images, found):
    """AKT's gradient has other parts, too: what it does to distillation's is measured apart."""
    of = dict([*found[found.bits == 3].groupby("loss")])
    assert (of["kd"].kd_norm == of["kd"].norm).all()
    assert of["published"].kd_norm.tolist() == pytest.approx(of["kd"].norm.tolist(), rel=1e-5)
    first = of["paper"][of["paper"].step == 0]  # one and the same student
    same = of["kd"][of["kd"].step == 0].norm.tolist()
    assert first.kd_norm.tolist() == pytest.approx(same, rel=1e-4)
    assert first.norm.tolist() != pytest.approx(same, rel=1e-2)
    assert found[found.loss == "ce"].kd_norm.isna().all()
    summary = summarise(found[found.bits == 3]).set_index("loss").loc["paper"]
    norms = by_step(of["paper"]).kd_norm
    assert summary.kd_tail == pytest.approx(np.percentile(norms, 99) / np.median(norms))
    assert summary.kd_spread == pytest.approx(np.log(norms).std())


def test_a_case_without_reference_has_the_same_gradients_and_no_cosine(digits, images, found):
    alone = study(digits, [Case(3, "kd", reference=False)], images, progress=False)
    beside = found[(found.bits == 3) & (found.loss == "kd")]
    assert (alone.norm.to_numpy() == beside.norm.to_numpy()).all()
    assert alone[["reference_norm", "cosine"]].isna().all(axis=None)
    summary = summarise(alone)
    assert summary.norm.item() > 0
    assert summary[["ratio", "cosine"]].isna().all(axis=None)


def test_only_cross_entropy_does_without_a_teacher(digits, images):
    with pytest.raises(AktError, match="what the teacher sees"):
        gradients_of(trace(digits.teacher), None, *images[0], "kd")


def test_live_ranges_need_no_images(digits):
    student = make_student(digits.teacher, Case(3, ranges="per_channel_dynamic"), [])
    assert student(digits.normalise(digits.images[:2])).isfinite().all()
    with pytest.raises(AktError, match="observed no batch"):
        make_student(digits.teacher, Case(3), [])


def test_a_case_that_breaks_off_ends_there(digits, images):
    found = study(digits, [Case(3, "kd")], images, student_lr=1e30, progress=False)
    assert 1 <= found.step.max() < len(images) - 1
    assert summarise(found).exploded.all()
    assert summarise(found).explosion.iloc[0] == math.inf
    assert summarise(found)[["kd_tail", "kd_spread"]].isna().all(axis=None)


@pytest.mark.parametrize(
    ("norms", "ratio", "step", "exploded"),
    [
        ([1, 1, 1], 1, 0, False),
        ([1, 1, 11, 1], 11, 2, True),
        ([1, math.inf, 1, math.nan], math.inf, 1, True),
        ([2, 2, 18], 9, 2, False),
    ],
)
def test_explosions(norms, ratio, step, exploded):
    found = explosion(norms)
    assert (found.ratio, found.step, found.exploded) == (ratio, step, exploded)
    assert math.isnan(explosion([]).ratio)
    assert math.isnan(explosion([0, 0]).ratio)


def test_the_first_steps_can_be_left_to_the_median():
    found = explosion([40, 2, 1, 6, 2], skip=2)
    assert (found.ratio, found.step, found.exploded) == (3, 3, False)
    assert math.isnan(explosion([1, 2], skip=2).ratio)
    assert explosion([math.nan, 2, 2], skip=1).exploded  # it broke: no matter when
    for norms in ([1, math.inf], [math.nan], [1, 2, -math.inf]):
        assert explosion(norms, skip=5).ratio == math.inf
        assert explosion(norms, skip=5).exploded
    assert not explosion([1, 40], skip=5).exploded


def test_the_grid_has_every_comparison_once():
    cases = grid()
    assert len(cases) == len(set(cases)) == 7 * 4 + 3 * 6
    assert pd.DataFrame(cases).groupby("bits").size()[3] == 7
    with pytest.raises(AktError, match="did you mean 'kd'"):
        Case(3, "kdd")
