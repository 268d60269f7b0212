import math

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy

from akt_lab.attention import (
    attention_divergences,
    channel_attention,
    refined_feature_distillation,
    spatial_attention,
)
from akt_lab.errors import AktError, UsageError


def maps(seed, *shapes, dtype=torch.float64):
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=rng, dtype=dtype) for shape in shapes]


SHAPES = ((3, 4, 5, 5), (3, 8, 2, 3))


def test_maps_by_hand():
    x = torch.tensor([[[[1.0, 2.0]], [[3.0, 0.0]]]])  # 1 image, 2 channels, 1x2
    energy = np.array([(1 + 9) / 2, (4 + 0) / 2])
    assert spatial_attention(x)[0].numpy() == pytest.approx(energy / np.linalg.norm(energy))
    assert channel_attention(x)[0].numpy() == pytest.approx(softmax([(1 + 4) / 2, 9 / 2]))


def test_shapes_and_norms():
    (x,) = maps(0, (3, 4, 5, 6))
    assert spatial_attention(x).shape == (3, 30)
    assert channel_attention(x).shape == (3, 4)
    assert torch.allclose(spatial_attention(x).norm(dim=1), torch.ones(3, dtype=x.dtype))
    assert torch.allclose(channel_attention(x).sum(1), torch.ones(3, dtype=x.dtype))
    assert spatial_attention(torch.zeros(1, 2, 3, 3)).abs().sum() == 0


def test_invariances():
    (x,) = maps(1, (2, 6, 4, 4))
    order = torch.randperm(6)
    assert torch.allclose(spatial_attention(x[:, order]), spatial_attention(x))
    assert torch.allclose(channel_attention(x[:, order]), channel_attention(x)[:, order])
    assert torch.allclose(spatial_attention(3 * x), spatial_attention(x))
    assert torch.allclose(channel_attention(x.flip(2, 3)), channel_attention(x))


def scipy_divergences(student, teacher, variant):
    """KL of every pair and image, from SciPy: (N, B) spatial and channel."""
    spatial, channel = [], []
    for s, t in zip(student, teacher, strict=True):
        rows = []
        for kind in (spatial_attention, channel_attention):
            p, q = kind(t).numpy(), kind(s).numpy()
            if variant == "code":
                p, q = softmax(p / 8, axis=1), softmax(q / 8, axis=1)
            rows.append([entropy(a / a.sum(), b / b.sum()) for a, b in zip(p, q, strict=True)])
        spatial.append(rows[0])
        channel.append(rows[1])
    return np.array(spatial), np.array(channel)


@pytest.mark.parametrize("variant", ["paper", "code"])
def test_against_scipy(variant):
    student, teacher = maps(2, *SHAPES), maps(3, *SHAPES)
    spatial, channel = scipy_divergences(student, teacher, variant)
    reduce = np.sum if variant == "code" else np.mean
    got = attention_divergences(student, teacher, variant)
    assert got[0].item() == pytest.approx(reduce(spatial), rel=1e-8)
    assert got[1].item() == pytest.approx(reduce(channel), rel=1e-8)
    whole = refined_feature_distillation(student, teacher, variant)
    assert whole.item() == pytest.approx(reduce(spatial) + reduce(channel), rel=1e-8)
    single = refined_feature_distillation(
        [m.float() for m in student], [m.float() for m in teacher], variant
    )
    assert single.item() == pytest.approx(whole.item(), rel=1e-4)  # float32 keeps four digits


def test_code_divergence_of_one_hot_and_uniform_is_tiny():
    """The released code's double softmax: hence its weight of 1000."""
    one_hot = torch.zeros(1, 16, 1, 1)
    one_hot[0, 3] = 30.0
    _, channel = attention_divergences([torch.zeros(1, 16, 1, 1)], [one_hot], "code")
    assert channel.item() == pytest.approx(4.9e-4, abs=0.05e-4)


def test_sharp_teacher_against_a_student_that_looks_elsewhere():
    """p and q near 0 and 1: no NaN, no lost mass."""
    a, b = torch.zeros(1, 4, 1, 1), torch.zeros(1, 4, 1, 1)
    a[0, 0], b[0, 1] = 10.0, 10.0
    _, channel = attention_divergences([b], [a], "paper")
    assert channel.item() == pytest.approx(100.0, rel=1e-4)
    spatial, _ = attention_divergences([torch.zeros(1, 2, 3, 3)], [torch.ones(1, 2, 3, 3)], "paper")
    assert math.isfinite(spatial.item())


@pytest.mark.parametrize("variant", ["paper", "code", "published"])
def test_equal_maps_give_zero_loss_and_zero_gradient(variant):
    teacher = maps(4, *SHAPES)
    student = [m.clone().requires_grad_() for m in teacher]
    loss = refined_feature_distillation(student, teacher, variant)
    assert abs(loss.item()) < 1e-12
    if variant == "published":
        assert not loss.requires_grad
        return
    for gradient in torch.autograd.grad(loss, student):
        assert gradient.abs().max() < 1e-12


@pytest.mark.parametrize("variant", ["paper", "code"])
def test_gradient_is_right_and_reaches_the_student_only(variant):
    student, teacher = maps(5, (2, 3, 2, 2)), maps(6, (2, 3, 2, 2))
    student[0].requires_grad_()
    assert torch.autograd.gradcheck(
        lambda s: refined_feature_distillation([s], teacher, variant), student
    )
    assert torch.autograd.gradgradcheck(
        lambda s: refined_feature_distillation([s], teacher, variant), student
    )
    teacher[0].requires_grad_()
    refined_feature_distillation(student, teacher, variant).backward()
    assert student[0].grad.abs().sum() > 0
    assert teacher[0].grad is None


def test_published_is_exactly_zero():
    assert refined_feature_distillation(maps(7, *SHAPES), maps(8, *SHAPES), "published") == 0


def test_batch_and_map_count_scale_the_code_variant_only():
    student, teacher = maps(9, (2, 4, 3, 3)), maps(10, (2, 4, 3, 3))
    double_s, double_t = [student[0].repeat(2, 1, 1, 1)] * 3, [teacher[0].repeat(2, 1, 1, 1)] * 3
    for variant, factor in (("paper", 1), ("code", 6)):
        one = refined_feature_distillation(student, teacher, variant)
        many = refined_feature_distillation(double_s, double_t, variant)
        assert many.item() == pytest.approx(factor * one.item())


def test_mistakes():
    a, b = maps(11, (2, 3, 4, 4)), maps(11, (2, 3, 4, 4), (2, 3, 4, 4))
    with pytest.raises(AktError, match="1 of the student, 2 of the teacher"):
        refined_feature_distillation(a, b)
    with pytest.raises(AktError, match="0 of the student"):
        refined_feature_distillation([], [])
    with pytest.raises(AktError, match=r"map 0: .*\(2, 3, 4, 4\).*\(2, 3, 5, 5\)"):
        refined_feature_distillation(a, maps(0, (2, 3, 5, 5)))
    with pytest.raises(UsageError, match="did you mean 'paper'"):
        refined_feature_distillation(a, a, "papper")
