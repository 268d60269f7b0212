from functools import partial

import torch

from akt_lab.quantizer import affine_parameters, fake_quantize
from tests.course.checks import mutants, refused


def grid(x, bits, levels_too_many=0, whole_zero=True, rounding=torch.round, zero_inside=True):
    levels = 2**bits - 1 + levels_too_many
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


wrong = mutants("affine_quantize")
wrong("None", forgets_to_return=lambda x, bits: print(grid(x, bits)))
wrong("highest is 2^bits - 1", one_level_too_many=partial(grid, levels_too_many=1))
wrong("*nearest* level", truncates=partial(grid, rounding=torch.floor))
wrong("round the zero point", zero_point_is_not_whole=partial(grid, whole_zero=False))
wrong("min(low, 0)", range_without_zero=partial(grid, zero_inside=False))


@wrong("whole numbers")
def forgets_to_come_back(x, bits):
    scale, zero_point = affine_parameters(x.min(), x.max(), bits)
    return ((x / scale).round() + zero_point).clamp(0, 2**bits - 1)


def error(x, bits, clip, power=2):
    x_hat = fake_quantize(x, *affine_parameters(torch.zeros(()), clip, bits), bits)
    return (x_hat - x).abs().pow(power).mean()


def errors(x, bits, candidates, error=error):
    return torch.stack([error(x, bits, clip) for clip in candidates])


def best(x, bits, candidates, error):
    return candidates[errors(x, bits, candidates, error).argmin()]


wrong = mutants("best_clip")
wrong("none of the candidates", its_place=lambda *given: errors(*given).argmin())
wrong("none of the candidates", its_error=lambda *given: errors(*given).min())
wrong("error of what is clipped as well", the_maximum=lambda x, bits, candidates: candidates[-1])
wrong(
    "error of what is clipped as well",
    only_what_is_rounded=partial(best, error=lambda x, bits, clip: error(x[x <= clip], bits, clip)),
)
wrong("squared", absolute_errors=partial(best, error=partial(error, power=1)))

test_mutants = refused("affine_quantize", "best_clip")
