import math
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights

from tests.course.checks import accepted, mutants, refused


def fold(
    weight,
    bias,
    norm,
    factor=lambda norm: norm.weight / (norm.running_var + norm.eps).sqrt(),
    shape=(-1, 1, 1, 1),
    shift=lambda bias, norm, factor: (bias - norm.running_mean) * factor + norm.bias,
):
    bias = torch.zeros_like(norm.running_mean) if bias is None else bias
    return weight * factor(norm).view(shape), shift(bias, norm, factor(norm))


wrong = mutants("fold_batch_norm")
wrong("None", forgets_to_return=lambda *given: print(fold(*given)))
wrong(
    "eps is left out", without_eps=partial(fold, factor=lambda n: n.weight / n.running_var.sqrt())
)
wrong(
    "PyTorch's default; this layer has its own",
    eps_is_fixed=partial(fold, factor=lambda n: n.weight / (n.running_var + 1e-5).sqrt()),
)
wrong(
    "eps is added after the root",
    eps_outside=partial(fold, factor=lambda n: n.weight / (n.running_var.sqrt() + n.eps)),
)
wrong(
    "square root",
    without_the_root=partial(fold, factor=lambda n: n.weight / (n.running_var + n.eps)),
)
wrong(
    "norm.weight is left out",
    without_gamma=partial(fold, factor=lambda n: (n.running_var + n.eps).rsqrt()),
)


@wrong("*output* channel")
def over_input_channels(weight, bias, norm):
    same = weight.shape[0] == weight.shape[1]
    return fold(weight, bias, norm, shape=(1, -1, 1, 1) if same else (-1, 1, 1, 1))


@wrong("even a convolution without a bias")
def no_bias_stays_none(weight, bias, norm):
    new, shifted = fold(weight, bias, norm)
    return new, None if bias is None else shifted


wrong("own bias is lost", drops_the_bias=lambda weight, bias, norm: fold(weight, None, norm))
wrong(
    "passes through the batch norm",
    bias_is_not_scaled=partial(fold, shift=lambda b, n, f: b - n.running_mean * f + n.bias),
)
wrong(
    "norm.bias is left out",
    without_beta=partial(fold, shift=lambda b, n, f: (b - n.running_mean) * f),
)
wrong(
    "subtracted, not added",
    adds_the_mean=partial(fold, shift=lambda b, n, f: (b + n.running_mean) * f + n.bias),
)


@wrong("changed what it was given")
def in_place(weight, bias, norm):
    new, shifted = fold(weight, bias, norm)
    return weight.copy_(new.detach()), shifted


def packed(q, bits, flip_numbers=False, flip_bytes=False, fill=0):
    stream = (q.long().unsqueeze(1) >> torch.arange(bits)) & 1
    stream = (stream.flip(1) if flip_numbers else stream).flatten()
    rows = F.pad(stream, (0, -len(stream) % 8), value=fill).view(-1, 8)
    rows = rows.flip(1) if flip_bytes else rows
    return (rows << torch.arange(8)).sum(dim=1).to(torch.uint8)


wrong = mutants("pack")
wrong("None", packs_and_forgets=lambda q, bits: print(packed(q, bits)))
wrong("torch.uint8", leaves_it_wide=lambda q, bits: packed(q, bits).long())
wrong("packs nothing", one_byte_each=lambda q, bits: q.to(torch.uint8))
wrong("half empty", drops_the_last_byte=lambda q, bits: packed(q, bits)[: len(q) * bits // 8])


@wrong("begin in one byte")
def whole_numbers_in_each_byte(q, bits):
    each = 8 // bits
    rows = F.pad(q.long(), (0, -len(q) % each)).view(-1, each)
    return (rows << (bits * torch.arange(each))).sum(dim=1).to(torch.uint8)


wrong("highest first", numbers_highest_first=partial(packed, flip_numbers=True))
wrong("from its highest bit", bytes_from_the_top=partial(packed, flip_bytes=True))
wrong(
    "highest bit first, in the numbers",
    both_highest_first=partial(packed, flip_numbers=True, flip_bytes=True),
)
wrong("bits are lost", loses_the_top_bit=lambda q, bits: packed(q & (2 ** (bits - 1) - 1), bits))
wrong("q is changed in place", shifts_in_place=lambda q, bits: (
    packed(q, bits), q.__irshift__(bits)
)[0])  # fmt: skip
wrong("filled up with zeros", fills_with_ones=partial(packed, fill=1))

test_mutants = refused("fold_batch_norm", "pack")


# ---- right, in other ways


def with_none_apart(weight, bias, norm):
    deviation = torch.sqrt(norm.running_var + norm.eps)
    new = weight * (norm.weight / deviation)[:, None, None, None]
    shift = norm.bias - norm.running_mean * norm.weight / deviation
    return new, shift if bias is None else shift + bias * norm.weight / deviation


def channel_by_channel(weight, bias, norm):
    new, shifts = torch.empty_like(weight), []
    for c in range(len(weight)):
        factor = norm.weight[c] / math.sqrt(norm.running_var[c] + norm.eps)
        new[c] = weight[c] * factor.detach()
        old = 0 if bias is None else bias[c]
        shifts.append((old - norm.running_mean[c]) * factor + norm.bias[c])
    return new, torch.stack(shifts)


def by_trying(weight, bias, norm):
    """What the norm makes of 0 and of 1 says all."""
    with torch.no_grad():
        at_0, at_1 = (norm(torch.full((1, len(weight), 1, 1), v)).flatten() for v in (0.0, 1.0))
    factor = at_1 - at_0
    return weight * factor.reshape(-1, 1, 1, 1), at_0 + (0 if bias is None else bias) * factor


def by_fuse(weight, bias, norm):
    return fuse_conv_bn_weights(
        weight, bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )


def copies_first(weight, bias, norm):
    weight = weight.clone()
    factor = (norm.weight / (norm.running_var + norm.eps) ** 0.5).detach()
    weight *= factor.view(-1, 1, 1, 1)
    return weight, fold(weight, bias, norm)[1]


def in_numpy(q, bits):
    each = (q.numpy()[:, None] >> np.arange(bits)) & 1
    return torch.from_numpy(np.packbits(each.ravel().astype(np.uint8), bitorder="little"))


def one_large_number(q, bits):
    whole = sum(number << (bits * place) for place, number in enumerate(q.tolist()))
    return torch.tensor(list(whole.to_bytes(-(-len(q) * bits // 8), "little")), dtype=torch.uint8)


def with_text(q, bits):
    stream = "".join(f"{number:0{bits}b}"[::-1] for number in q.tolist())
    rows = [stream[i : i + 8].ljust(8, "0")[::-1] for i in range(0, len(stream), 8)]
    return torch.tensor([int(row, 2) for row in rows], dtype=torch.uint8)


def bit_by_bit(q, bits):
    out = [0] * math.ceil(len(q) * bits / 8)
    for place in range(len(q) * bits):
        number, bit = divmod(place, bits)
        out[place // 8] |= (int(q[number]) >> bit & 1) << (place % 8)
    return torch.tensor(out).byte()


def with_a_buffer(q, bits):
    out, held, count = [], 0, 0
    for number in q.tolist():
        held, count = held | number << count, count + bits
        while count >= 8:
            out.append(held & 255)
            held, count = held >> 8, count - 8
    return torch.tensor(out + [held] * (count > 0), dtype=torch.uint8)


test_right = accepted(
    fold_batch_norm=[
        fold, with_none_apart, channel_by_channel, by_trying, by_fuse, copies_first,
        lambda *given: list(fold(*given)),
        lambda *given: [t.detach() for t in fold(*given)],
        partial(fold, factor=lambda n: n.weight * torch.rsqrt(n.running_var + n.eps)),
        partial(fold, shift=lambda b, n, f: b * f - n.running_mean * f + n.bias),
    ],
    pack=[
        packed, in_numpy, one_large_number, with_text, bit_by_bit, with_a_buffer,
        lambda q, bits: packed(q.int(), bits),
        lambda q, bits: packed(q, bits).clone(),
        lambda q, bits: torch.tensor(packed(q, bits).tolist(), dtype=torch.uint8),
    ],
)  # fmt: skip
