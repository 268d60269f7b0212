import torch
import torch.nn.functional as F

from tests.course.checks import mutant, refused


def fold(weight, bias, norm, factor=None, shape=(-1, 1, 1, 1)):
    if factor is None:
        factor = norm.weight / (norm.running_var + norm.eps).sqrt()
    bias = torch.zeros_like(norm.running_mean) if bias is None else bias
    return weight * factor.view(shape), (bias - norm.running_mean) * factor + norm.bias


@mutant("fold_batch_norm", says="None")
def forgets_to_return(*given):
    fold(*given)


@mutant("fold_batch_norm", says="eps is left out")
def without_eps(weight, bias, norm):
    return fold(weight, bias, norm, norm.weight / norm.running_var.sqrt())


@mutant("fold_batch_norm", says="eps is added after the root")
def eps_outside(weight, bias, norm):
    return fold(weight, bias, norm, norm.weight / (norm.running_var.sqrt() + norm.eps))


@mutant("fold_batch_norm", says="square root")
def without_the_root(weight, bias, norm):
    return fold(weight, bias, norm, norm.weight / (norm.running_var + norm.eps))


@mutant("fold_batch_norm", says="norm.weight is left out")
def without_gamma(weight, bias, norm):
    return fold(weight, bias, norm, (norm.running_var + norm.eps).rsqrt())


@mutant("fold_batch_norm", says="*output* channel")
def over_input_channels(weight, bias, norm):
    right = fold(weight, bias, norm)
    same = weight.shape[0] == weight.shape[1]
    return fold(weight, bias, norm, shape=(1, -1, 1, 1)) if same else right


@mutant("fold_batch_norm", says="even a convolution without a bias")
def no_bias_stays_none(weight, bias, norm):
    new, shifted = fold(weight, bias, norm)
    return new, None if bias is None else shifted


@mutant("fold_batch_norm", says="own bias is lost")
def drops_the_bias(weight, bias, norm):
    return fold(weight, None, norm)


@mutant("fold_batch_norm", says="passes through the batch norm")
def bias_is_not_scaled(weight, bias, norm):
    new, shifted = fold(weight, None, norm)
    return new, shifted + (0 if bias is None else bias)


@mutant("fold_batch_norm", says="norm.bias is left out")
def without_beta(weight, bias, norm):
    new, shifted = fold(weight, bias, norm)
    return new, shifted - norm.bias


@mutant("fold_batch_norm", says="subtracted, not added")
def adds_the_mean(weight, bias, norm):
    new, shifted = fold(weight, bias, norm)
    factor = norm.weight / (norm.running_var + norm.eps).sqrt()
    return new, shifted + 2 * norm.running_mean * factor


@mutant("fold_batch_norm", says="changed what it was given")
def in_place(weight, bias, norm):
    new, shifted = fold(weight, bias, norm)
    return weight.copy_(new.detach()), shifted


def bits_of(q, bits, flip=False):
    each = (q.long().unsqueeze(1) >> torch.arange(bits)) & 1
    return each.flip(1) if flip else each


def to_bytes(stream, flip=False):
    rows = F.pad(stream, (0, -len(stream) % 8)).view(-1, 8)
    rows = rows.flip(1) if flip else rows
    return (rows << torch.arange(8)).sum(dim=1).to(torch.uint8)


@mutant("pack", says="None")
def packs_and_forgets(q, bits):
    to_bytes(bits_of(q, bits).flatten())


@mutant("pack", says="torch.uint8")
def leaves_it_wide(q, bits):
    return to_bytes(bits_of(q, bits).flatten()).long()


@mutant("pack", says="packs nothing")
def one_byte_each(q, bits):
    return q.to(torch.uint8)


@mutant("pack", says="half empty")
def drops_the_last_byte(q, bits):
    return to_bytes(bits_of(q, bits).flatten())[: len(q) * bits // 8]


@mutant("pack", says="begin in one byte")
def whole_numbers_in_each_byte(q, bits):
    each = 8 // bits
    rows = F.pad(q.long(), (0, -len(q) % each)).view(-1, each)
    return (rows << (bits * torch.arange(each))).sum(dim=1).to(torch.uint8)


@mutant("pack", says="highest first")
def numbers_highest_first(q, bits):
    return to_bytes(bits_of(q, bits, flip=True).flatten())


@mutant("pack", says="from its highest bit")
def bytes_from_the_top(q, bits):
    return to_bytes(bits_of(q, bits).flatten(), flip=True)


@mutant("pack", says="highest bit first, in the numbers")
def both_highest_first(q, bits):
    return to_bytes(bits_of(q, bits, flip=True).flatten(), flip=True)


@mutant("pack", says="bits are lost")
def loses_the_top_bit(q, bits):
    return to_bytes(bits_of(q & (2 ** (bits - 1) - 1), bits).flatten())


@mutant("pack", says="filled up with zeros")
def fills_with_ones(q, bits):
    stream = bits_of(q, bits).flatten()
    return to_bytes(F.pad(stream, (0, -len(stream) % 8), value=1))


test_mutants = refused(__name__)
