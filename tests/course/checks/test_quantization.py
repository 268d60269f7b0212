from functools import partial

import numpy as np
import torch

from akt_lab.quantizer import affine_parameters, fake_quantize
from tests.course.checks import accepted, mutants, refused


def grid(
    x,
    bits,
    levels=lambda bits: 2**bits - 1,
    whole_zero=True,
    rounding=torch.round,
    zero_inside=True,
    sign=1,
    back=-1,
):
    levels = levels(bits)
    low, high = x.min(), x.max()
    if zero_inside:
        low, high = low.clamp(max=0), high.clamp(min=0)
    scale = (high - low) / levels
    zero_point = -low / scale
    if whole_zero:
        zero_point = zero_point.round()
    q = rounding(x / scale + sign * zero_point)
    if whole_zero:
        q = q.clamp(0, levels)
    return (q + back * zero_point) * scale


wrong = mutants("affine_quantize")
wrong("None", forgets_to_return=lambda x, bits: print(grid(x, bits)))
wrong("highest is 2**bits - 1", one_level_too_many=partial(grid, levels=lambda bits: 2**bits))
wrong("*nearest* level", truncates=partial(grid, rounding=torch.floor))
wrong("truncation", towards_zero=partial(grid, rounding=torch.trunc))
wrong("zero point has the wrong sign", low_over_scale=partial(grid, sign=-1, back=1))
wrong("zero point has the wrong sign", sign_on_the_way_there=partial(grid, sign=-1))
wrong("zero point has the wrong sign", sign_on_the_way_back=partial(grid, back=1))
wrong("the power is 2**bits", exclusive_or=partial(grid, levels=lambda bits: 2 ^ bits - 1))
wrong("the power is 2**bits", or_in_brackets=partial(grid, levels=lambda bits: (2 ^ bits) - 1))
wrong("round the zero point", zero_point_is_not_whole=partial(grid, whole_zero=False))
wrong("min(low, 0)", range_without_zero=partial(grid, zero_inside=False))


@wrong("the power is 2**bits")
def divides_floats_by_zero(x, bits):
    low, high = min(x.min().item(), 0), max(x.max().item(), 0)
    scale = (high - low) / (2 ^ bits - 1)
    return grid(x, bits) if scale else None


@wrong("x is changed in place")
def writes_into_x(x, bits):
    return x.copy_(grid(x, bits))


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
wrong("best at 3 bits", always_3_bits=lambda x, bits, candidates: best(x, 3, candidates, error))


@wrong("x is changed in place")
def clips_in_place(x, bits, candidates):
    found = best(x, bits, candidates, error)
    x.clamp_(max=found)
    return found


wrong("squared", absolute_errors=partial(best, error=partial(error, power=1)))

test_mutants = refused("affine_quantize", "best_clip")


# ---- right, in other ways


def in_float64(x, bits):
    return grid(x.double(), bits).to(x.dtype)


def by_floor(x, bits):
    return grid(x, bits, rounding=lambda v: (v + 0.5).floor())


def by_torch(x, bits):
    scale, zero_point = affine_parameters(x.min(), x.max(), bits)
    return torch.fake_quantize_per_tensor_affine(x, scale, zero_point, 0, 2**bits - 1)


def with_numbers(x, bits):
    low, high = min(0.0, x.min().item()), max(0.0, x.max().item())
    scale = (high - low) / ((1 << bits) - 1)
    zero_point = round(-low / scale)
    q = torch.clip(torch.round(x / scale) + zero_point, 0, 2**bits - 1)
    return scale * (q - zero_point)


def nearest_level(x, bits):
    low, high = x.min().clamp(max=0), x.max().clamp(min=0)
    scale = (high - low) / (2**bits - 1)
    levels = (torch.arange(2**bits) - (-low / scale).round()) * scale
    return levels[(x.unsqueeze(-1) - levels).abs().argmin(-1)]


def signed(x, bits):
    """Whole numbers from -zero_point up, with no zero point on the way."""
    low, high = x.min().clamp(max=0), x.max().clamp(min=0)
    scale = (high - low) / (2**bits - 1)
    least = (low / scale).round()
    return torch.clamp((x / scale).round(), least, least + 2**bits - 1) * scale


def in_numpy(x, bits):
    v = x.numpy()
    low, high = np.minimum(v.min(), 0), np.maximum(v.max(), 0)
    scale = (high - low) / (2**bits - 1)
    zero_point = np.rint(-low / scale)
    q = np.clip(np.rint(v / scale) + zero_point, 0, 2**bits - 1)
    return torch.from_numpy((q - zero_point) * scale).float()


def one_by_one(x, bits, candidates):
    smallest, found = float("inf"), None
    for clip in candidates:
        mse = error(x, bits, clip).item()
        if mse < smallest:
            smallest, found = mse, clip
    return found


def at_once(x, bits, candidates):
    scale = candidates.unsqueeze(1) / (2**bits - 1)
    x_hat = (x / scale).round().clamp(0, 2**bits - 1) * scale
    return candidates[((x_hat - x) ** 2).mean(1).argmin()]


test_right = accepted(
    affine_quantize=[
        grid, in_float64, by_floor, by_torch, with_numbers, nearest_level, signed, in_numpy,
        lambda x, bits: fake_quantize(x, *affine_parameters(x.min(), x.max(), bits), bits),
        lambda x, bits: grid(x.flatten(), bits).reshape(x.shape),
    ],
    best_clip=[
        partial(best, error=error), one_by_one, at_once,
        lambda *given: best(*given, error).item(),
        lambda *given: min(given[2], key=lambda clip: error(*given[:2], clip)),
        lambda *given: min((float(error(*given[:2], c)), float(c)) for c in given[2])[1],
        lambda x, bits, candidates: sorted(candidates, key=lambda c: error(x, bits, c).item())[0],
        lambda x, bits, candidates: best(x.double(), bits, candidates, error),
        partial(best, error=lambda x, bits, clip: error(x, bits, clip).sqrt()),
        partial(best, error=lambda x, bits, clip: error(x, bits, clip) * x.numel()),
    ],
)  # fmt: skip
