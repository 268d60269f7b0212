"""Ties: where a file and its student differ because a value lies between two grid points.

Two programs that add the same numbers in another order differ in the last bits. Where a value lies
that close to the middle between two grid points, one rounds it up and the other down: then images
differ by a whole step, though neither program is wrong. It is shown in one of two ways. Either the
student is given the file's own roundings, each of which must be one that its own value allows, and
must then come to the file's logits (`follows`). Or, as a runtime may compile another program where
roundings are outputs, a few of those at ties are turned the other way first (`tips`).
"""

import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from akt_lab.quantizer import ActivationQuantizer

CLOSE = 1e-4  # of an image's largest logit
TIE = 1e-3  # of a step, from the middle between two grid points
NEAREST, AT_ONCE = 48, 64  # values at ties that are tried, images that are computed together
BEST = 4  # sets of them that are gone on from

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
def tips(
    student: nn.Module,
    image: Tensor,
    logits: Tensor,
    most: int = 6,
    outputs: Mapping[str, np.ndarray] | None = None,
) -> bool:
    """Whether the student comes to these logits if it rounds values at ties the other way.

    Of the values that lie `TIE` from the middle, the `NEAREST` to it are turned, each alone; then
    one more, in each of the `BEST` that came nearest to the logits; and so on. So it may miss what
    is there, but what it finds is exact.

    Args:
        student: from `quantize_model`.
        image: (channels, H, W).
        logits: (classes,).
        most: how many values at once.
        outputs: from where it starts, `rounded/NAME` of this image alone, wherever the student's
            value allows them; from its own roundings where None.
    """
    start = {
        name: torch.from_numpy(each).to(image.device) for name, each in (outputs or {}).items()
    }
    tried: list[frozenset[Tipped]] = [frozenset()]
    for _ in range(most + 1):
        found: list[tuple[float, frozenset[Tipped], list[Tipped]]] = []
        for first in range(0, len(tried), AT_ONCE):
            group = tried[first : first + AT_ONCE]
            made, ties = _with(student, image.expand(len(group), *image.shape), group, start)
            off = apart(logits.expand(len(made), -1), made).tolist()
            found += zip(off, group, ties, strict=True)
        found = sorted(found, key=operator.itemgetter(0))[:BEST]
        if found and found[0][0] <= CLOSE:
            return True
        further = dict.fromkeys(done | {tie} for _, done, own in found for tie in own)
        tried = list(further)
    return False


def _with(
    student: nn.Module,
    images: Tensor,
    tipped: list[frozenset[Tipped]],
    start: Mapping[str, Tensor],
) -> tuple[Tensor, list[list[Tipped]]]:
    """Logits with each image's values tipped; and of each, which others lie nearest to ties.

    Where one of them is at no tie any more, as another has moved it, logits are NaN.
    """
    found: list[list[tuple[float, Tipped]]] = [[] for _ in tipped]
    wrong: set[int] = set()
    use = 0

    def given(name: str, quantizer: ActivationQuantizer, x: Tensor) -> Tensor:
        nonlocal use
        steps, scale = on_grid(quantizer, x)
        whole = steps.round()
        if (of_file := start.get(f"rounded/{name}")) is not None:
            theirs = of_file / scale
            fits = (theirs - theirs.round()).abs() <= TIE
            fits = fits & ((theirs - steps).abs() <= 0.5 + TIE)  # (B, ...)
            whole = torch.where(fits, theirs.round(), whole)
        other = (whole + (steps - whole).sign()).flatten(1)
        away = (0.5 - (steps - whole).abs()).abs().flatten(1)
        whole = whole.flatten(1)
        near = away.topk(min(NEAREST, away.shape[1]), largest=False)
        for image, (done, own) in enumerate(zip(tipped, found, strict=True)):
            for each in done:
                if each.use == use:
                    whole[image, each.place] = other[image, each.place]
                    if away[image, each.place] > TIE:
                        wrong.add(image)
            pairs = zip(near.values[image].tolist(), near.indices[image].tolist(), strict=True)
            ties = ((off, Tipped(use, i)) for off, i in pairs if off <= TIE)
            own += [(off, tie) for off, tie in ties if tie not in done]
        use += 1
        return whole.view_as(steps) * scale

    with rounding(student, given):
        made = student(images).float().cpu()
    made[sorted(wrong)] = torch.nan
    return made, [[tie for _, tie in sorted(own)[:NEAREST]] for own in found]
