"""Each name stands for something of its own where it is chosen; another name is refused there."""

import pytest
import torch

from akt_lab import choices
from akt_lab.attention import attention_divergences
from akt_lab.errors import UsageError
from akt_lab.graph import map_layers, trace
from akt_lab.losses import akt_terms
from akt_lab.quantizer import ActivationQuantizer


def divergences(variant):
    student, teacher = torch.randn(2, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return torch.stack(attention_divergences([student], [teacher], variant))


def features(parts):
    maps = [torch.rand(2, 3, 4, 4)]
    return akt_terms({}, maps, maps, parts=parts).keys()


def on_a_grid(ranges="ema", gradient="identity"):
    """Values after three batches, and the gradient that passes where some are clipped."""
    quantizer = ActivationQuantizer(3, ranges, gradient)
    batches = torch.randn(3, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    for size, batch in enumerate(batches, 1):
        x = (size * batch).requires_grad_()
        values = quantizer(x)
    values.sum().backward()
    return torch.stack([values.detach(), x.grad])


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (choices.VARIANTS, divergences),
        (choices.PARTS, features),
        (choices.RANGES, on_a_grid),
        (choices.GRADIENTS, lambda name: on_a_grid(gradient=name)),
    ],
    ids=["variants", "parts", "ranges", "gradients"],
)
def test_each_name_is_something_of_its_own(names, chosen):
    assert len({str(chosen(name)) for name in names}) == len(names)
    with pytest.raises(UsageError, match="unknown"):
        chosen(f"{names[0]}r")


def test_each_place_is_a_layer_of_its_own(digits):
    found = [map_layers(trace(digits.teacher), place) for place in choices.PLACES]
    assert len(set(map(tuple, found))) == len(found)
