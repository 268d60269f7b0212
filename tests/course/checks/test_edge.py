from functools import partial

import torch
import torch.nn.functional as F

from tests.course.checks import mutants, refused


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
wrong("filled up with zeros", fills_with_ones=partial(packed, fill=1))

test_mutants = refused("fold_batch_norm", "pack")
