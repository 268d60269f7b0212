"""A quantized layer's weight in whole numbers, and what they take on a disk.

    w_hat = codes * scale,    codes = q - zero_point

Zero lies on every grid, so that codes need no zero point; a batch norm behind the layer, which is a
scale and a shift of each channel, changes no code but for its sign.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from akt_lab.errors import AktError
from akt_lab.quantizer import SCALE_BITS, ActivationQuantizer, learned_scales
from akt_lab.quantizer.layers import QuantizedWeight

STORAGES = ("packed", "int4", "int8", "float")


@dataclass(frozen=True)
class Codes:
    """A weight on its grid, w_hat = codes * scale.

    Attributes:
        codes: (C_out, ...), int32, each from -zero_point to 2^bits - 1 - zero_point.
        scale: (C_out,), positive.
        zero_point: (C_out,), int32.
        bits: 2 to 8.
    """

    codes: Tensor
    scale: Tensor
    zero_point: Tensor
    bits: int

    def times(self, factor: Tensor) -> "Codes":
        """Those of `w_hat * factor`, (C_out,): of the same size, negated where it is negative."""
        sign = torch.where(factor < 0, -1, 1).int()
        dead = factor == 0
        zero_point = torch.where(sign < 0, 2**self.bits - 1 - self.zero_point, self.zero_point)
        rows = torch.where(dead, 0, sign).view(-1, *(1,) * (self.codes.ndim - 1))
        scale = torch.where(dead, self.scale, self.scale * factor.abs())
        return replace(self, codes=self.codes * rows, scale=scale, zero_point=zero_point)

    def fits(self, bits: int) -> bool:
        """Whether every code is a whole number of so many bits, a sign included."""
        half = 2 ** (bits - 1)
        return bool(((self.codes >= -half) & (self.codes < half)).all())

    def weight(self) -> Tensor:
        """w_hat, (C_out, ...), float32."""
        return self.codes * self.scale.view(-1, *(1,) * (self.codes.ndim - 1))


def codes_of(layer: nn.Module) -> Codes:
    """The weight of one of the layers that `quantize_model` made, in whole numbers.

    Raises:
        AktError: if the weight holds what is no number.
    """
    assert isinstance(layer, QuantizedWeight)
    scale, zero_point = (p.detach().cpu() for p in layer.grid())
    weight = layer.weight.detach().cpu()
    if not weight.isfinite().all():
        raise AktError("a weight of the student is not a number: the run diverged")
    shape = (-1, *(1,) * (weight.ndim - 1))
    q = (weight * (1 / scale).view(shape)).round_().add_(zero_point.view(shape))  # as it rounds
    levels = 2**layer.weight_bits - 1
    codes = q.clamp_(0, levels).sub_(zero_point.view(shape)).int()
    return Codes(codes.contiguous(), scale, zero_point, layer.weight_bits)


# ---- what a student takes on a disk -------------------------------------------------------------


def packed(values: Tensor) -> bytes:
    """Whole numbers from -8 to 15, any shape, two in a byte, the first one in its lower half."""
    nibbles = values.flatten() & 15
    if len(nibbles) % 2:
        nibbles = torch.cat([nibbles, nibbles.new_zeros(1)])
    return (nibbles[::2] | (nibbles[1::2] << 4)).to(torch.uint8).numpy().tobytes()


def bit_planes(values: Tensor, bits: int) -> Tensor:
    """Whole numbers from 0 to 2^bits - 1, any shape, each in its bits.

    Returns:
        (bits, ceil(n / 8)), uint8. Bit k of byte m in plane b is bit b of value 8 m + k; what is
        missing at the end is zero.
    """
    flat = values.flatten()
    eights = nn.functional.pad(flat, (0, -len(flat) % 8)).view(-1, 8)
    planes = (eights >> torch.arange(bits).view(-1, 1, 1)) & 1  # (bits, M, 8)
    return (planes << torch.arange(8)).sum(2).to(torch.uint8)


def entropy(values: Tensor) -> float:
    """Bits that an ideal code takes for one of `values`, told how often each occurs: Shannon's H.

    >>> entropy(torch.tensor([0, 1, 2, 3]))
    2.0
    """
    if not values.numel():
        return 0.0
    share = values.flatten().unique(return_counts=True)[1].double() / values.numel()
    return -(share * share.log2()).sum().item() + 0.0  # and not -0


def accounted_bytes(student: nn.Module, *, coded: bool = False) -> float:
    """Bytes that a student takes if nothing is wasted: weights at their bits, and all ranges.

    A range is a scale of 32 bits and a zero point of the grid's, for each output channel and each
    activation; what stays in floating point takes 32 bits a number: biases, and of a batch norm one
    scale and one shift a channel.

    Args:
        student: from `quantize_model`.
        coded: instead of its bits, a weight takes what an ideal code of its layer's weights does.
    """
    bits, rounded = 0.0, set()
    for module in student.modules():
        if isinstance(module, QuantizedWeight):
            weight = codes_of(module)
            rounded.add(module.weight)
            bits += weight.codes.numel() * (entropy(weight.codes) if coded else weight.bits)
            bits += len(weight.scale) * (SCALE_BITS + weight.bits)
        elif isinstance(module, ActivationQuantizer):
            bits += SCALE_BITS + module.bits
    scales = set(learned_scales(student))  # counted as ranges
    kept = [p for p in student.parameters() if p not in rounded | scales]
    return (bits + 32 * sum(p.numel() for p in kept)) / 8
