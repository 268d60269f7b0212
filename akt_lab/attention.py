"""Attention maps of a feature map, and refined feature distillation between two networks' maps.

AKT (arXiv 2412.19125). Three named variants, because paper and released code differ:

`paper`
    the equations: mean over maps and batch; the spatial map, which the paper normalises to unit
    length, is divided by its sum before its KL, for a KL compares distributions. (The unit
    length cancels in that division.)
`code`
    what the released code meant: both maps go through a softmax at temperature 8 (the channel
    map through its second), summed over maps and batch. KL(one-hot, uniform) over 16 channels is
    then 0.00049, hence the code's weight of 1000.
`published`
    what the released code does: the teacher's maps are cleared before they are read, so the loss
    is exactly zero.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from akt_lab.errors import AktError, unknown

VARIANTS = ("paper", "code", "published")
CODE_TEMPERATURE = 8.0
TINY = 1e-12  # keeps the logarithm of an all-zero map finite


class _Energies(torch.autograd.Function):
    """mean_c(x^2) and mean_hw(x^2) of x (B, H*W, C), with a gradient of two passes over memory."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        squares = x.square()
        return squares.mean(dim=2), squares.mean(dim=1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, by_place: Tensor, by_channel: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        places, channels = x.shape[1:]
        gradient = x * (2 / channels * by_place).unsqueeze(2)
        return gradient.addcmul_((2 / places * by_channel).unsqueeze(1), x)


def _energies(x: Tensor) -> tuple[Tensor, Tensor]:
    """(B, C, H, W) -> (B, H*W) and (B, C); channels last inside, as training stores x."""
    return _Energies.apply(x.flatten(2).transpose(1, 2))


def spatial_attention(x: Tensor) -> Tensor:
    """Where a feature map is active: mean_c(x^2), scaled to unit length.

    Args:
        x: (B, C, H, W).

    Returns:
        (B, H*W), each row of L2 norm 1 (0 where the map is all zero).

    >>> spatial_attention(torch.tensor([[[[3.0, 0.0], [0.0, 4.0]]]]).sqrt())
    tensor([[0.6000, 0.0000, 0.0000, 0.8000]])
    """
    return F.normalize(_energies(x)[0], dim=1)


def channel_attention(x: Tensor) -> Tensor:
    """Which channels are active: softmax over channels of mean_hw(x^2).

    Args:
        x: (B, C, H, W).

    Returns:
        (B, C), each row sums to 1.

    >>> channel_attention(torch.ones(1, 4, 2, 2))
    tensor([[0.2500, 0.2500, 0.2500, 0.2500]])
    """
    return _energies(x)[1].softmax(dim=1)


def _kl(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """KL(teacher || student) of each row, (B,).

    As sum p (e^d - 1 - d), d = log q - log p: every term is of second order, so the tiny
    divergences of near-uniform maps survive float32, where sum p (log p - log q) is mostly noise.
    """
    log_p, log_q = teacher_logits.log_softmax(1), student_logits.log_softmax(1)
    p, d = log_p.exp(), log_q - log_p
    excess = torch.where(d < 1, p * torch.expm1(d.clamp(max=1)), log_q.exp() - p)  # q - p
    return (excess - p * d).sum(dim=1)


def check_maps(student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> None:
    """An AktError if there are no maps (B, C, H, W), or they do not pair up."""
    if not student_maps or len(student_maps) != len(teacher_maps):
        raise AktError(
            f"feature maps must pair up: {len(student_maps)} of the student, "
            f"{len(teacher_maps)} of the teacher; capture the same layers of both"
        )
    for i, (s, t) in enumerate(zip(student_maps, teacher_maps, strict=True)):
        if s.shape != t.shape or s.ndim != 4:
            raise AktError(
                f"map {i}: expected two (B, C, H, W) of one shape, "
                f"got {tuple(s.shape)} of the student and {tuple(t.shape)} of the teacher"
            )


def attention_divergences(
    student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor], variant: str = "paper"
) -> tuple[Tensor, Tensor]:
    """The two parts of refined feature distillation: spatial and channel, without their weight.

    KL(teacher || student) for each pair of maps, in nats; averaged over maps and batch in
    `paper`, summed over both in `code`, zero in `published`.

    Args:
        student_maps: feature maps (B, C_i, H_i, W_i) of the student.
        teacher_maps: the teacher's, same number, order and shapes; detached here.
        variant: one of `VARIANTS`.

    Raises:
        UsageError: for an unknown variant.
        AktError: if there are no maps, or they do not pair up.
    """
    if variant not in VARIANTS:
        raise unknown("variant", variant, VARIANTS)
    check_maps(student_maps, teacher_maps)
    if variant == "published":
        return student_maps[0].new_zeros(()), student_maps[0].new_zeros(())
    spatial, channel = [], []
    for s, t in zip(student_maps, teacher_maps, strict=True):
        (s_sp, s_ch), (t_sp, t_ch) = _energies(s), _energies(t.detach())  # (B, H*W), (B, C)
        if variant == "paper":
            s_sp, t_sp = ((e + TINY).log() for e in (s_sp, t_sp))  # softmax(log e) = e / sum(e)
        else:
            s_sp, t_sp = (F.normalize(e, dim=1) / CODE_TEMPERATURE for e in (s_sp, t_sp))
            s_ch, t_ch = (e.softmax(dim=1) / CODE_TEMPERATURE for e in (s_ch, t_ch))
        spatial.append(_kl(s_sp, t_sp))  # (B,): KL(softmax(t_sp) || softmax(s_sp))
        channel.append(_kl(s_ch, t_ch))
    reduce = torch.sum if variant == "code" else torch.mean
    return reduce(torch.stack(spatial)), reduce(torch.stack(channel))  # of (N, B)


def refined_feature_distillation(
    student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor], variant: str = "paper"
) -> Tensor:
    """L_RFD without its weight lambda: spatial plus channel part. See `attention_divergences`.

    >>> x = torch.rand(2, 4, 5, 5)
    >>> refined_feature_distillation([x], [x], variant="code").item()
    0.0
    """
    spatial, channel = attention_divergences(student_maps, teacher_maps, variant)
    return spatial + channel


def attention_by_image(teacher_map: Tensor, student_map: Tensor) -> list[tuple[float, float]]:
    """`attention_divergences` of `paper`, image by image, for one layer's maps (B, C, H, W)."""
    pairs = zip(student_map.split(1), teacher_map.split(1), strict=True)
    found = (attention_divergences([s], [t]) for s, t in pairs)
    return [(spatial.item(), channel.item()) for spatial, channel in found]
