import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from scipy.stats import entropy

from akt_lab import losses
from akt_lab.attention import refined_feature_distillation
from akt_lab.errors import AktError, UsageError

RNG = torch.Generator().manual_seed(0)
S = 3 * torch.randn(6, 5, generator=RNG, dtype=torch.float64)
T = 3 * torch.randn(6, 5, generator=RNG, dtype=torch.float64)
Y = torch.tensor([0, 1, 2, 3, 4, 0])
STATISTICS = [
    tuple(torch.rand(c, generator=RNG, dtype=torch.float64) for _ in range(4)) for c in (3, 7)
]


def cross_entropy(logits, y):
    return float(np.mean([-np.log(softmax(row)[c]) for row, c in zip(logits, y, strict=True)]))


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
def test_kd_against_scipy(temperature):
    p, q = (softmax(v.numpy() / temperature, axis=1) for v in (T, S))
    expected = temperature**2 * np.mean([entropy(a, b) for a, b in zip(p, q, strict=True)])
    assert losses.kd_loss(S, T, temperature).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("temperature", [1.0, 20.0])
def test_difference_entropy_against_scipy(temperature):
    p = softmax((T - S).numpy() / temperature, axis=1)
    expected = -(temperature**2) * np.mean([entropy(row) for row in p])
    assert losses.difference_entropy(S, T, temperature).item() == pytest.approx(expected, rel=1e-9)


def test_equal_logits():
    s = T.clone().requires_grad_()
    kd = losses.kd_loss(s, T)
    assert abs(kd.item()) < 1e-12
    assert torch.autograd.grad(kd, s)[0].abs().max() < 1e-12
    entropy_loss = losses.difference_entropy(s, T)
    assert entropy_loss.item() == pytest.approx(-400 * math.log(5))
    assert torch.autograd.grad(entropy_loss, s)[0].abs().max() < 1e-12


@pytest.mark.parametrize("loss", [losses.kd_loss, losses.difference_entropy])
def test_gradcheck(loss):
    assert torch.autograd.gradcheck(lambda s: loss(s, T), S.clone().requires_grad_())


def test_bns_by_hand():
    expected = np.mean(
        [
            np.mean((mu - m).numpy() ** 2) + np.mean((var - v).numpy() ** 2)
            for mu, var, m, v in STATISTICS
        ]
    )
    assert losses.bns_loss(STATISTICS).item() == pytest.approx(expected)
    same = [(m, v, m, v) for _, _, m, v in STATISTICS]
    assert losses.bns_loss(same).item() == 0
    with pytest.raises(AktError, match="no batch norm"):
        losses.bns_loss([])


def test_gdfq_terms():
    student = losses.gdfq_student_terms(S, T, Y)
    assert student["ce"].item() == pytest.approx(cross_entropy(S.numpy(), Y))
    assert student["kd"].item() == pytest.approx(losses.kd_loss(S, T, 20).item())
    generator = losses.gdfq_generator_terms(T, None, Y, STATISTICS)
    assert generator["ce"].item() == pytest.approx(cross_entropy(T.numpy(), Y))
    assert generator["bns"].item() == pytest.approx(0.1 * losses.bns_loss(STATISTICS).item())


def test_hard_labels_where_the_teacher_is_sure():
    """The indicator of SynQ's equation 6: of an image that is left out, no CE, but its KL."""
    sure = softmax(T.numpy(), axis=1)[np.arange(len(Y)), Y]
    limit = float(np.sort(sure)[len(Y) // 2])  # that of an image itself: it is not left out
    each = [cross_entropy(S.numpy()[i : i + 1], Y[i : i + 1]) for i in range(len(Y))]
    expected = sum(ce for ce, p in zip(each, sure, strict=True) if p >= limit - 1e-7) / len(Y)
    plain = losses.gdfq_student_terms(S, T, Y)
    terms = losses.gdfq_student_terms(S, T, Y, min_confidence=limit - 1e-7)
    assert terms["ce"].item() == pytest.approx(expected, rel=1e-5)
    assert 0 < terms["ce"] < plain["ce"]
    assert terms["kd"] == plain["kd"]
    s = S.clone().requires_grad_()
    losses.gdfq_student_terms(s, T, Y, min_confidence=limit - 1e-7)["ce"].backward()
    assert [bool(g.any()) for g in s.grad] == [p >= limit - 1e-7 for p in sure]
    assert losses.gdfq_student_terms(S, T, Y, min_confidence=1.0)["ce"] == 0


def test_adadfq_generator_terms_against_numpy():
    t, s = T.numpy(), S.numpy()
    h = np.array([entropy(row) for row in softmax(t - s, axis=1)])
    h = (h - h.min()) / (np.log(5) - h.min())
    terms = losses.adadfq_generator_terms(T, S, Y, STATISTICS)
    expected = {
        "disagreement": np.maximum(0.1 - h, 0).mean(),
        "agreement": np.maximum(h - 0.8, 0).mean(),
        "ce_difference": 0.2 * cross_entropy(t - s, Y),
        "ce_sum": 0.1 * cross_entropy(t + s, Y),
        "bns": losses.bns_loss(STATISTICS).item(),
    }
    assert {k: v.item() for k, v in terms.items()} == pytest.approx(expected)


@pytest.mark.parametrize("classes", [1, 2, 3, 5, 10])
def test_adadfq_generator_terms_where_student_and_teacher_agree(classes):
    t = torch.randn(4, classes).requires_grad_()
    terms = losses.adadfq_generator_terms(t, t.detach(), torch.zeros(4).long(), STATISTICS)
    (gradient,) = torch.autograd.grad(losses.total(terms), t)
    assert all(term.isfinite() for term in terms.values())
    assert gradient.isfinite().all()


def feature_maps(seed):
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 3, 4, 4, generator=rng, dtype=torch.float64) for _ in range(2)]


def test_akt_variants():
    a, b, kd = feature_maps(1), feature_maps(2), losses.kd_loss(S, T)
    rfd = {v: refined_feature_distillation(a, b, v) for v in ("paper", "code")}
    paper = losses.akt_loss(S, T, a, b, "paper", alpha=0.3, lam=7.0)
    assert paper.item() == pytest.approx((0.3 * 7 * rfd["paper"] + 0.7 * kd).item())
    code = losses.akt_loss(S, T, a, b, "code", alpha=0.3)
    assert code.item() == pytest.approx((kd + 1000 * rfd["code"]).item())
    assert losses.akt_loss(S, T, a, b, "published").item() == pytest.approx(kd.item())
    with pytest.raises(UsageError, match="unknown variant"):
        losses.akt_loss(S, T, a, b, "other")


def test_placebo_is_the_paper_s_loss_of_other_features():
    a, b, kd = feature_maps(1), feature_maps(2), losses.kd_loss(S, T)
    squares = [((s - t) ** 2).mean() for s, t in zip(a, b, strict=True)]
    placebo = losses.akt_terms({"kd": kd}, a, b, "placebo", alpha=0.3, lam=7.0)
    assert {*placebo} == {"kd", "placebo"}
    assert placebo["placebo"].item() == pytest.approx(0.3 * 7 * np.mean(squares))
    assert placebo["kd"].item() == pytest.approx(0.7 * kd.item())
    assert losses.akt_terms({}, a, b, "placebo", alpha=1.0)["placebo"].item() == pytest.approx(
        np.mean(squares)
    )
    with pytest.raises(AktError, match="must pair up"):
        losses.map_error(a, b[:1])


def test_map_error_reaches_the_student_only():
    student, teacher = feature_maps(6), feature_maps(7)
    student[0].requires_grad_(), teacher[0].requires_grad_()
    losses.map_error(student, teacher).backward()
    expected = (student[0] - teacher[0]).detach() * 2 / student[0].numel() / 2  # of two maps
    assert torch.allclose(student[0].grad, expected)
    assert teacher[0].grad is None


@pytest.mark.parametrize("variant", ["paper", "placebo"])
def test_akt_loss_is_zero_with_zero_gradient_at_the_teacher(variant):
    maps = [m.requires_grad_() for m in feature_maps(3)]
    s = T.clone().requires_grad_()
    loss = losses.akt_loss(s, T, maps, [m.detach() for m in maps], variant)
    assert abs(loss.item()) < 1e-12
    assert all(g.abs().max() < 1e-12 for g in torch.autograd.grad(loss, [s, *maps]))


def test_alpha_ends():
    a, b = feature_maps(4), feature_maps(5)
    kd, rfd = losses.kd_loss(S, T), refined_feature_distillation(a, b)
    assert losses.akt_loss(S, T, a, b, alpha=0.0).item() == pytest.approx(kd.item())
    assert losses.akt_loss(S, T, a, b, alpha=1.0).item() == pytest.approx(rfd.item())


def test_shapes_are_checked():
    with pytest.raises(AktError, match=r"\(6, 5\) of the student and \(6, 4\)"):
        losses.kd_loss(S, T[:, :4])


@pytest.mark.parametrize("variant", ["paper", "code"])
def test_an_ablation_leaves_one_part_out(variant):
    maps = [torch.rand(2, 3, 4, 4) for _ in range(2)]
    both = losses.akt_terms({"kd": torch.ones(())}, maps[:1], maps[1:], variant)
    for part in ("spatial", "channel"):
        alone = losses.akt_terms({"kd": torch.ones(())}, maps[:1], maps[1:], variant, parts=part)
        assert alone == {"kd": both["kd"], part: both[part]}
    with pytest.raises(UsageError, match="did you mean 'spatial'"):
        losses.akt_terms({}, maps[:1], maps[1:], variant, parts="spacial")


# ---- where numbers end ----

OF_LOGITS = {
    "kd": lambda s, t, y, stats: {"kd": losses.kd_loss(s, t)},
    "difference_entropy": lambda s, t, y, stats: losses.adadfq_student_terms(s, t, y),
    "gdfq": lambda s, t, y, stats: losses.gdfq_student_terms(s, t, y),
    "hast": lambda s, t, y, stats: losses.hast_student_terms(s, t, y),
    "gdfq's images": lambda s, t, y, stats: losses.gdfq_generator_terms(t, s, y, stats),
    "adadfq's images": lambda s, t, y, stats: losses.adadfq_generator_terms(t, s, y, stats),
    "hast's images": lambda s, t, y, stats: losses.hast_image_terms(t, s, y, stats),
}


@pytest.mark.parametrize("loss", OF_LOGITS)
@given(
    classes=st.sampled_from([1, 2, 10, 1000]),
    batch=st.sampled_from([1, 3]),
    size=st.sampled_from([0.0, 1e-30, 1.0, 1e4, 1e30]),
    apart=st.sampled_from(["not", "by a digit", "much"]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_terms_and_gradients_are_finite(loss, classes, batch, size, apart, seed):
    rng = torch.Generator().manual_seed(seed)
    t, other = (size * torch.randn(batch, classes, generator=rng) for _ in range(2))
    s = {"not": t.clone(), "by a digit": torch.nextafter(t, t + 1), "much": other}[apart]
    y = torch.randint(classes, (batch,), generator=rng)
    stats = [tuple(torch.rand(3, generator=rng) for _ in range(4))]
    t.requires_grad_(), s.requires_grad_()
    terms = OF_LOGITS[loss](s, t, y, stats)
    slopes = torch.autograd.grad(losses.total(terms), (s, t), allow_unused=True)
    assert all(term.isfinite() for term in terms.values())
    assert all(slope.isfinite().all() for slope in slopes if slope is not None)


@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_agreement_to_the_last_digit_is_agreement(classes):
    """The images' entropies differ by rounding alone: nothing to be divided by."""
    t = torch.randn(64, classes, generator=torch.Generator().manual_seed(0))
    s = torch.nextafter(t, t + 1)
    terms = losses.adadfq_generator_terms(t, s, torch.zeros(64).long(), STATISTICS)
    assert terms["disagreement"].item() == pytest.approx(0.1, abs=1e-4)
    assert terms["agreement"].item() == 0


def test_maps_that_are_none_are_told():
    vectors, maps = [torch.rand(2, 3)], [torch.rand(2, 3, 4, 4)]
    for pair in ((vectors, vectors), (maps, vectors), ([], []), (maps, [])):
        with pytest.raises(AktError, match="map"):
            losses.channel_alignment(*pair)


@pytest.mark.parametrize("variant", ["paper", "code"])
def test_maps_that_agree_or_are_nothing(variant):
    for x in (torch.zeros(1, 2, 3, 3), torch.rand(1, 1, 1, 1), 1e-20 * torch.rand(2, 3, 2, 2)):
        s = x.clone().requires_grad_()
        terms = losses.akt_terms({"kd": s.sum() * 0}, [s], [x], variant)
        (slope,) = torch.autograd.grad(losses.total(terms), s)
        assert losses.total(terms).item() == pytest.approx(0, abs=1e-9)
        assert slope.isfinite().all()
