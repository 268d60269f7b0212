import torch

from akt_lab.quantizer import affine_parameters, fake_quantize
from tests.course.checks import mutant, refused


def grid(x, levels, whole_zero=True, rounding=torch.round, zero_inside=True):
    low, high = x.min(), x.max()
    if zero_inside:
        low, high = low.clamp(max=0), high.clamp(min=0)
    scale = (high - low) / levels
    zero_point = -low / scale
    if whole_zero:
        zero_point = zero_point.round()
    q = rounding(x / scale + zero_point)
    if whole_zero:
        q = q.clamp(0, levels)
    return (q - zero_point) * scale


@mutant("affine_quantize", says="None")
def forgets_to_return(x, bits):
    grid(x, 2**bits - 1)


@mutant("affine_quantize", says="highest is 2^bits - 1")
def one_level_too_many(x, bits):
    return grid(x, 2**bits)


@mutant("affine_quantize", says="*nearest* level")
def truncates(x, bits):
    return grid(x, 2**bits - 1, rounding=torch.floor)


@mutant("affine_quantize", says="round the zero point")
def zero_point_is_not_whole(x, bits):
    return grid(x, 2**bits - 1, whole_zero=False)


@mutant("affine_quantize", says="min(low, 0)")
def range_without_zero(x, bits):
    return grid(x, 2**bits - 1, zero_inside=False)


@mutant("affine_quantize", says="whole numbers")
def forgets_to_come_back(x, bits):
    scale, zero_point = affine_parameters(x.min(), x.max(), bits)
    return ((x / scale).round() + zero_point).clamp(0, 2**bits - 1)


def errors(x, bits, candidates, power=2):
    for clip in candidates:
        x_hat = fake_quantize(x, *affine_parameters(torch.zeros(()), clip, bits), bits)
        yield (x_hat - x).abs().pow(power).mean()


@mutant("best_clip", says="none of the candidates")
def its_place(x, bits, candidates):
    return torch.stack(list(errors(x, bits, candidates))).argmin()


@mutant("best_clip", says="none of the candidates")
def its_error(x, bits, candidates):
    return torch.stack(list(errors(x, bits, candidates))).min()


@mutant("best_clip", says="error of what is clipped as well")
def the_maximum(x, bits, candidates):
    return candidates[-1]


@mutant("best_clip", says="error of what is clipped as well")
def only_what_is_rounded(x, bits, candidates):
    found = [next(errors(x[x <= clip], bits, [clip])) for clip in candidates]
    return candidates[torch.stack(found).argmin()]


@mutant("best_clip", says="squared")
def absolute_errors(x, bits, candidates):
    return candidates[torch.stack(list(errors(x, bits, candidates, power=1))).argmin()]


test_mutants = refused(__name__)
