"""Ties: where a file and its student differ because a value lies between two grid points.

Two programs that add the same numbers in another order differ in the last bits. Where a value lies
that close to the middle between two grid points, one rounds it up and the other down: then images
differ by a whole step, though neither program is wrong. It is shown in one of two ways. Either the
student is given the file's own roundings, each of which must be one that its own value allows, and
must then come to the file's logits (`follows`). Or, as a runtime may compile another program where
roundings are outputs, it rounds a few of its own values at ties the other way (`tips`).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from akt_lab.quantizer import ActivationQuantizer

CLOSE = 1e-4  # of an image's largest logit
TIE = 1e-3  # of a step, from the middle between two grid points
NEAREST, AT_ONCE = 32, 64  # values at ties that are tried, images that are computed together

Rounded = Callable[[str, ActivationQuantizer, Tensor], Tensor]


def apart(logits: Tensor, expected: Tensor) -> Tensor:
    """How far logits are from what is expected, (B,), over each image's largest; inf for NaN."""
    largest = expected.abs().amax(1).clamp(min=torch.finfo().tiny)
    return ((logits - expected).abs().amax(1) / largest).nan_to_num(float("inf"))


@contextmanager
def rounding(student: nn.Module, rounded: Rounded) -> Iterator[None]:
    """Let `rounded(name, quantizer, input)` say what each activation quantizer gives."""
    named = [(n, m) for n, m in student.named_modules() if isinstance(m, ActivationQuantizer)]
    handles = [
        module.register_forward_hook(lambda m, inputs, _, name=name: rounded(name, m, inputs[0]))
        for name, module in named
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def on_grid(quantizer: ActivationQuantizer, x: Tensor) -> tuple[Tensor, Tensor]:
    """`x` in steps, clamped to the grid's ends; and the step."""
    scale, zero_point = quantizer.grid()
    return (x / scale).clamp(-zero_point, 2**quantizer.bits - 1 - zero_point), scale


@torch.inference_mode()
def follows(
    student: nn.Module, images: Tensor, outputs: Mapping[str, np.ndarray], logits: Tensor
) -> Tensor:
    """For each image, whether the student comes to these logits by the file's roundings.

    Each of them must lie at most half a step, and `TIE`, from the value that the student rounds.

    Args:
        student: from `quantize_model`.
        images: (B, channels, H, W).
        outputs: of a file that also gives every rounded activation, as `rounded/NAME`.
        logits: (B, classes), of the file that does not: a runtime may compute that in another way.

    Returns:
        (B,), boolean.
    """
    allowed = torch.ones(len(images), dtype=torch.bool)

    def given(name: str, quantizer: ActivationQuantizer, x: Tensor) -> Tensor:
        steps, scale = on_grid(quantizer, x)
        own = torch.from_numpy(outputs[f"rounded/{name}"]).to(x.device)
        off = (own / scale - steps).abs().flatten(1).amax(1)
        whole = (own / scale - (own / scale).round()).abs().flatten(1).amax(1)
        allowed.logical_and_(((off <= 0.5 + TIE) & (whole <= TIE)).cpu())
        return own

    with rounding(student, given):
        expected = student(images).float().cpu()
    return allowed & (apart(logits, expected) <= CLOSE)


class Tipped(NamedTuple):
    """A value that is rounded the other way: of which quantizer, and its flat index."""

    use: int
    place: int


@torch.inference_mode()
def tips(student: nn.Module, image: Tensor, logits: Tensor, most: int = 2) -> bool:
    """Whether the student comes to these logits if it rounds values at ties the other way.

    Of the values that lie `TIE` from the middle, the `NEAREST` to it are tried: each alone, then
    each with one that follows it, and so on.

    Args:
        student: from `quantize_model`.
        image: (channels, H, W).
        logits: (classes,).
        most: how many values at once.
    """
    tried: list[tuple[Tipped, ...]] = [()]
    for _ in range(most + 1):
        further: list[tuple[Tipped, ...]] = []
        for start in range(0, len(tried), AT_ONCE):
            group = tried[start : start + AT_ONCE]
            made, ties = _with(student, image.expand(len(group), *image.shape), group)
            if (apart(logits.expand(len(made), -1), made) <= CLOSE).any():
                return True
            pairs = zip(group, ties, strict=True)
            further += [(*done, tie) for done, own in pairs for tie in own]
        tried = further
    return False


def _with(
    student: nn.Module, images: Tensor, tipped: list[tuple[Tipped, ...]]
) -> tuple[Tensor, list[list[Tipped]]]:
    """Logits with each image's values tipped; and of each, what lies nearest to ties after them."""
    found: list[list[tuple[float, Tipped]]] = [[] for _ in tipped]
    use = 0

    def given(name: str, quantizer: ActivationQuantizer, x: Tensor) -> Tensor:
        nonlocal use
        steps, scale = on_grid(quantizer, x)
        whole = steps.round()
        other = whole + (steps - whole).sign()
        away = (0.5 - (steps - whole).abs()).flatten(1)
        whole, other = whole.flatten(1), other.flatten(1)
        for image, (done, own) in enumerate(zip(tipped, found, strict=True)):
            for each in done:
                if each.use == use:
                    whole[image, each.place] = other[image, each.place]
            if not done or use >= done[-1].use:
                near = away[image].topk(min(NEAREST, away.shape[1]), largest=False)
                pairs = zip(near.values.tolist(), near.indices.tolist(), strict=True)
                ties = ((off, Tipped(use, i)) for off, i in pairs if off <= TIE)
                own += [(off, tie) for off, tie in ties if not done or tie > done[-1]]
        use += 1
        return whole.view_as(steps) * scale

    with rounding(student, given):
        made = student(images).float().cpu()
    return made, [[tie for _, tie in sorted(own)[:NEAREST]] for own in found]
