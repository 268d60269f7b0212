"""Which maps are distilled: the places, how many, and what is refused."""

import pytest
import torch
from torch import nn

from akt_lab.errors import UsageError
from akt_lab.graph import capture_maps, map_layers, residual_bodies, trace
from akt_lab.quantizer import quantize_model


@pytest.mark.parametrize("bits", [None, 3])
def test_where_maps_are_taken(digits, bits):
    def made():
        return trace(digits.teacher) if bits is None else quantize_model(digits.teacher, bits, bits)

    x = digits.normalise(digits.images[:2])
    seen, outputs = [], []
    for place in ("body", "sum", "relu"):
        network = made()
        layers = map_layers(network, place)
        assert len(layers) == len(residual_bodies(made()))
        with capture_maps(network, layers[-1:]) as maps:
            outputs.append(network(x))
        seen += maps.values()
    body, total, relu = seen
    assert not torch.equal(body, total)
    assert torch.equal(relu, total.relu())
    assert torch.equal(outputs[0], outputs[2])


def test_which_maps_mistakes(digits):
    assert (
        map_layers(trace(digits.teacher), "body", 1) == residual_bodies(trace(digits.teacher))[-1:]
    )
    assert map_layers(trace(digits.teacher), "sum", 2) == ["sum_1", "sum_2"]
    with pytest.raises(UsageError, match="unknown maps 'add'"):
        map_layers(trace(digits.teacher), "add")
    with pytest.raises(UsageError, match="no residual sum"):
        map_layers(trace(nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU())), "sum")
    with pytest.raises(UsageError, match="no activation follows"):
        map_layers(trace(LinearSum()), "relu")


class LinearSum(nn.Module):
    """As in MobileNetV2: no activation follows the sum."""

    def __init__(self):
        super().__init__()
        self.stem, self.body, self.head = (nn.Conv2d(3, 3, 1) for _ in range(3))

    def forward(self, x):
        x = self.stem(x)
        return self.head(x + self.body(x))
