"""Checks of notebook 8, to the edge."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from akt_course.checks.answers import (
    close,
    exercise,
    expect,
    expect_tensor,
    expect_unchanged,
    first_that_fits,
)
from akt_course.checks.draws import Draws

# ---- folding ------------------------------------------------------------------------------------

WHY = {
    "eps": "eps is left out: it stands beside the variance, under the root",
    "root": "the variance is used as if it were the standard deviation: take its square root",
    "outside": "eps is added after the root: it belongs under it, beside the variance",
    "fixed": "eps is 1e-5 here, PyTorch's default; this layer has its own: norm.eps",
    "gamma": "norm.weight is left out of the factor",
}


@exercise
def fold_batch_norm(answer: Callable[..., Any], draws: Draws) -> None:
    """Convolution and batch norm in one, within 1e-4, and nothing that was given is changed."""
    for convolution, norm in _cases(draws):
        weight, bias = convolution.weight.detach(), convolution.bias
        bias = None if bias is None else bias.detach()
        given = [weight, *([] if bias is None else [bias]), *norm.state_dict().values()]
        before = [t.clone() for t in given]
        got = answer(weight, bias, norm)
        expect(
            all(torch.equal(a, b) for a, b in zip(given, before, strict=True)),
            "it changed what it was given: write weight * factor, not weight *= factor",
        )
        expect(got is not None, "the answer is None: does the function end in a return?")
        expect(
            isinstance(got, (tuple, list)) and len(got) == 2,
            "the answer should be two tensors, weight and bias",
        )
        expect(
            got[1] is not None,
            "the new bias is None: even a convolution without a bias needs one after folding",
        )
        expect_tensor(got[0], tuple(weight.shape), "the new weight")
        expect_tensor(got[1], (len(weight),), "the new bias")
        new_weight, new_bias = (t.detach().to(weight.dtype) for t in got)
        _weight(new_weight, weight, norm)
        _bias(new_bias, bias, norm)
        x = draws.normal(4, convolution.in_channels, 7, 7)
        _together(new_weight, new_bias, convolution, norm, x)


def _cases(draws: Draws) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    pairs = []
    for channels, out, bias, groups in ((3, 5, True, 1), (4, 4, False, 1), (6, 6, True, 6)):
        convolution = nn.Conv2d(channels, out, 3, padding=1, bias=bias, groups=groups)
        norm = nn.BatchNorm2d(out, eps=0.05).eval()
        values = [
            draws.uniform(out) + 0.3,
            draws.normal(out),
            draws.normal(out),
            0.02 * draws.uniform(out) + 0.005,  # so small that 1e-5 is seen beside it
        ]
        slots = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
        for slot, value in zip(slots, values, strict=True):
            slot.data.copy_(value)  # type: ignore[union-attr]
        pairs.append((draws.fill(convolution), norm))
    return pairs


def _factors(norm: nn.BatchNorm2d) -> dict[str, Tensor]:
    """The right one under `""`, and those that come of a mistake."""
    gamma, variance = norm.weight.detach(), norm.running_var
    assert isinstance(variance, Tensor)
    return {
        "": gamma / (variance + norm.eps).sqrt(),
        "eps": gamma / variance.sqrt(),
        "root": gamma / (variance + norm.eps),
        "outside": gamma / (variance.sqrt() + norm.eps),
        "fixed": gamma / (variance + 1e-5).sqrt(),
        "gamma": 1 / (variance + norm.eps).sqrt(),
    }


def _weight(got: Tensor, weight: Tensor, norm: nn.BatchNorm2d) -> None:
    for name, factor in _factors(norm).items():
        if close(got, weight * factor.view(-1, 1, 1, 1), 1e-4):
            expect(not name, WHY.get(name, ""))
            return
    factor = _factors(norm)[""]
    for shape in ((1, -1, 1, 1), (-1,)):
        try:
            other = weight * factor.view(shape)
        except RuntimeError:
            continue
        expect(
            other.shape != got.shape or not close(got, other, 1e-4),
            "the factor runs over the wrong dimension: one for each *output* channel, the "
            "weight's first, as factor.view(-1, 1, 1, 1)",
        )
    expect(
        not close(got, weight, 1e-4), "the weight came back as it was: multiply it by the factor"
    )
    expect(False, "the new weight is not gamma / sqrt(variance + eps) times the old one")


def _bias(got: Tensor, bias: Tensor | None, norm: nn.BatchNorm2d) -> None:
    mean, beta, factor = norm.running_mean, norm.bias.detach(), _factors(norm)[""]
    assert isinstance(mean, Tensor)
    old = torch.zeros_like(mean) if bias is None else bias
    mistakes = {
        "the convolution's own bias is lost: the batch norm saw it too": beta - mean * factor,
        "the convolution's own bias passes through the batch norm: multiply it by the factor as "
        "well": old + beta - mean * factor,
        "norm.bias is left out": (old - mean) * factor,
        "norm.bias comes after the factor: do not multiply it": (old - mean + beta) * factor,
        "the mean is subtracted, not added": (old + mean) * factor + beta,
        "the running mean is left out": old * factor + beta,
        "the mean is divided by the deviation too: multiply it by the factor": (
            old * factor - mean + beta
        ),
    }
    right = (old - mean) * factor + beta
    if close(got, right, 1e-4):
        return
    first_that_fits(got, ((value, why) for why, value in mistakes.items()), 1e-4)
    expect(False, "the new bias is not (bias - mean) * factor + norm.bias")


def _together(
    weight: Tensor, bias: Tensor, convolution: nn.Conv2d, norm: nn.BatchNorm2d, x: Tensor
) -> None:
    with torch.no_grad():
        wanted = norm(convolution(x))
    found = nn.functional.conv2d(x, weight, bias, padding=1, groups=convolution.groups)
    off = float((found - wanted).abs().max())
    expect(off < 1e-4, "convolution and batch norm differ from the folded one by {:.1e}", off)


# ---- packing ------------------------------------------------------------------------------------


@exercise
def pack(answer: Callable[..., Any], draws: Draws) -> None:
    """As few bytes as can be, and every number comes out as it went in, for 2 to 8 bits."""
    for bits, count in ((2, 8), (3, 8), (3, 13), (4, 5), (5, 7), (6, 21), (7, 3), (8, 4), (3, 1)):
        q = draws.whole(2**bits, count)
        q[0] = 2**bits - 1
        given = q.clone()
        _packed(answer(given, bits), q, bits)
        expect_unchanged("q", given, q)


def _packed(got: Any, q: Tensor, bits: int) -> None:
    expect(got is not None, "the answer is None: does the function end in a return?")
    expect(isinstance(got, Tensor), "the answer is a {}, not a tensor", type(got).__name__)
    expect(
        got.dtype == torch.uint8,
        "the answer is a tensor of {}: bytes are torch.uint8, everything else is wider or signed",
        got.dtype,
    )
    if not torch.equal(got, _bytes(q, bits)):
        _size(got, len(q), bits)
        _order(got, q, bits)


def _size(got: Tensor, count: int, bits: int) -> None:
    size = math.ceil(count * bits / 8)
    expect(
        got.numel() != count or size == count,
        "{} numbers of {} bits take {} bytes: one byte for each number packs nothing",
        count, bits, got.numel(),
    )  # fmt: skip
    expect(
        got.numel() >= size,
        "{} numbers of {} bits came back in {} bytes, which cannot hold them: the last byte may be "
        "half empty, but it is needed",
        count, bits, got.numel(),
    )  # fmt: skip
    expect(
        got.shape == (size,),
        "{} numbers of {} bits came back as {}, expected ({},): a number may begin in one byte and "
        "end in the next",
        count, bits, tuple(got.shape), size,
    )  # fmt: skip


def _order(got: Tensor, q: Tensor, bits: int) -> None:
    for number, byte, says in (
        (-1, 1, "each number's bits are in the stream highest first: lowest first"),
        (-1, -1, "this is the stream highest bit first, in the numbers and in the bytes: lowest "
         "first"),
        (1, -1, "each byte is filled from its highest bit: the stream's first bit is the lowest"),
    ):  # fmt: skip
        expect(not torch.equal(got, _bytes(q, bits, number, byte)), says)
    flat = ((got.long().unsqueeze(1) >> torch.arange(8)) & 1).flatten()
    used = len(q) * bits
    back = (flat[:used].view(len(q), bits) << torch.arange(bits)).sum(dim=1)
    for place, (went_in, comes_out) in enumerate(zip(q.tolist(), back.tolist(), strict=True)):
        expect(
            went_in == comes_out,
            "number {} of {} went in as {} and comes out as {}, at {} bits: bits are lost",
            place + 1, len(q), went_in, comes_out, bits,
        )  # fmt: skip
    expect(False, "the last byte is not filled up with zeros")


def _bytes(q: Tensor, bits: int, number: int = 1, byte: int = 1) -> Tensor:
    """Packed; -1 turns the bits of a number, or of a byte, round."""
    each = (q.unsqueeze(1) >> torch.arange(bits)) & 1
    stream = (each if number == 1 else each.flip(1)).flatten()
    rows = nn.functional.pad(stream, (0, -len(stream) % 8)).view(-1, 8)
    rows = rows if byte == 1 else rows.flip(1)
    return (rows << torch.arange(8)).sum(dim=1).to(torch.uint8)
