"""The released training step, repaired and written plainly, to measure ours against.

Our own words for what GDFQ's descendants do in a step: a generator that upsamples and convolves,
fake quantization as a chain of elementwise operations, NCHW, two student passes (one for each
loss), and gradients left on everywhere, the teacher's weights included. Repaired so that the AKT
loss is not zero: the teacher's feature maps are kept, and detached.
"""

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from akt_lab.quantizer import ActivationQuantizer


class _Rounded(torch.autograd.Function):
    """Quantize and dequantize; the gradient passes as it came."""

    @staticmethod
    def forward(ctx, x: Tensor, low: Tensor, high: Tensor, bits: int) -> Tensor:
        levels = 2**bits - 1
        scale = torch.clamp((high.clamp(min=0) - low.clamp(max=0)) / levels, min=1.1920929e-07)
        zero_point = torch.clamp(torch.round(-low.clamp(max=0) / scale), 0, levels)
        q = torch.clamp(torch.round(x * (1 / scale)) + zero_point, 0, levels)
        return (q - zero_point) * scale

    @staticmethod
    def backward(ctx, grad: Tensor):
        return grad, None, None, None


class _Conv(nn.Module):
    def __init__(self, layer: nn.Conv2d, bits: int):
        super().__init__()
        self.layer, self.bits = layer, bits

    def forward(self, x: Tensor) -> Tensor:
        w, c = self.layer.weight, self.layer
        rows = w.detach().flatten(1)
        low, high = (v.values.view(-1, 1, 1, 1) for v in (rows.min(1), rows.max(1)))
        w = _Rounded.apply(w, low, high, self.bits)
        return F.conv2d(x, w, c.bias, c.stride, c.padding, c.dilation, c.groups)


class _Linear(nn.Module):
    def __init__(self, layer: nn.Linear, bits: int):
        super().__init__()
        self.layer, self.bits = layer, bits

    def forward(self, x: Tensor) -> Tensor:
        w = self.layer.weight
        low, high = w.detach().min(1, keepdim=True).values, w.detach().max(1, keepdim=True).values
        return F.linear(x, _Rounded.apply(w, low, high, self.bits), self.layer.bias)


class _Activation(nn.Module):
    def __init__(self, bits: int):
        super().__init__()
        self.bits = bits
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return _Rounded.apply(F.relu(x), self.low, self.high, self.bits)


def _quantized(network: nn.Module, bits: int) -> nn.Module:
    for name, child in network.named_children():
        if isinstance(child, nn.Conv2d):
            setattr(network, name, _Conv(child, bits))
        elif isinstance(child, nn.Linear):
            setattr(network, name, _Linear(child, bits))
        elif isinstance(child, nn.ReLU):
            setattr(network, name, _Activation(bits))
        else:
            _quantized(child, bits)
    return network


class PlainGenerator(nn.Module):
    """The family's generator as it is usually written."""

    def __init__(self, classes: int, size: int, channels: int):
        """The same sizes as ours."""
        super().__init__()
        self.size = size // 4
        self.embedding = nn.Embedding(classes, 100)
        self.linear = nn.Linear(100, 128 * self.size**2)
        self.first = nn.BatchNorm2d(128)
        self.middle = nn.Sequential(
            nn.Conv2d(128, 128, 3, padding=1), nn.BatchNorm2d(128, 0.8), nn.LeakyReLU(0.2)
        )
        self.last = nn.Sequential(
            nn.Conv2d(128, 64, 3, padding=1),
            nn.BatchNorm2d(64, 0.8),
            nn.LeakyReLU(0.2),
            nn.Conv2d(64, channels, 3, padding=1),
            nn.Tanh(),
            nn.BatchNorm2d(channels, affine=False),
        )

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        """Noise and classes -> images."""
        x = self.linear(self.embedding(y) * z).view(-1, 128, self.size, self.size)
        x = self.middle(F.interpolate(self.first(x), scale_factor=2))
        return self.last(F.interpolate(x, scale_factor=2))


class Reference:
    """AdaDFQ with AKT, variant `code`, on pytorchcv's ResNet-20."""

    def __init__(self, teacher: nn.Module, student: nn.Module, generator: nn.Module, bits: int):
        """Takes weights and ranges over from our student and generator."""
        self.teacher = copy.deepcopy(teacher).eval()
        self.student = _quantized(copy.deepcopy(teacher), bits).eval()
        ours = [m for m in student.modules() if isinstance(m, ActivationQuantizer)]
        mine = [m for m in self.student.modules() if isinstance(m, _Activation)]
        for source, target in zip(ours, mine, strict=True):
            target.low.copy_(source.low)
            target.high.copy_(source.high)
        self.generator = PlainGenerator(10, 32, 3)
        weights = zip(
            self.generator.state_dict(), generator.state_dict().values(), strict=True
        )  # same order
        self.generator.load_state_dict({name: value.contiguous() for name, value in weights})
        self.generator_optimizer = torch.optim.Adam(
            self.generator.parameters(), 1e-3, betas=(0.5, 0.999)
        )
        self.student_optimizer = torch.optim.SGD(
            self.student.parameters(), 1e-4, momentum=0.9, weight_decay=1e-4, nesterov=True
        )
        self.statistics: list[Tensor] = []
        self.maps: dict[str, list[Tensor]] = {"teacher": [], "student": []}
        for module in self.teacher.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.register_forward_hook(self._keep_statistics)
        for kind in self.maps:
            for name, module in getattr(self, kind).named_modules():
                if name.endswith(".body"):
                    module.register_forward_hook(
                        lambda m, i, output, kind=kind: self.maps[kind].append(output)
                    )

    def _keep_statistics(self, module, inputs, output) -> None:
        x = inputs[0]
        mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
        self.statistics.append(
            F.mse_loss(mean, module.running_mean) + F.mse_loss(var, module.running_var)
        )

    def step(self, z: Tensor, y: Tensor) -> dict[str, float]:
        """One step of generator and student; the loss terms."""
        self.statistics.clear()
        self.maps = {"teacher": [], "student": []}

        images = self.generator(z, y)
        t = self.teacher(images)
        s = self.student(images)
        difference = t - s
        p = difference.softmax(1)
        h = -(p * difference.log_softmax(1)).sum(1)
        h = (h - h.min()) / (math.log(10) - h.min())
        terms = {
            "generator/disagreement": F.relu(0.1 - h).mean(),
            "generator/agreement": F.relu(h - 0.8).mean(),
            "generator/ce_difference": 0.2 * F.cross_entropy(t - s, y),
            "generator/ce_sum": 0.1 * F.cross_entropy(t + s, y),
            "generator/bns": sum(self.statistics) / len(self.statistics),
        }
        self.generator_optimizer.zero_grad()
        sum(terms.values()).backward()
        self.generator_optimizer.step()

        teacher_maps = [x.detach() for x in self.maps["teacher"]]
        self.maps["student"] = []
        s = self.student(images.detach())
        difference = (t.detach() - s) / 20
        entropy = -(difference.softmax(1) * difference.log_softmax(1)).sum(1)
        spatial, channel = 0.0, 0.0
        for a, b in zip(teacher_maps, self.maps["student"], strict=True):
            spatial = spatial + self._divergence(*(self._spatial(x) for x in (a, b)))
            channel = channel + self._divergence(*(self._channel(x) for x in (a, b)))
        student_terms = {
            "student/difference_entropy": -400 * entropy.mean(),
            "student/spatial": 1000 * spatial,
            "student/channel": 1000 * channel,
        }
        self.student_optimizer.zero_grad()
        sum(student_terms.values()).backward()
        self.student_optimizer.step()
        return {name: term.item() for name, term in {**terms, **student_terms}.items()}

    @staticmethod
    def _spatial(x: Tensor) -> Tensor:
        return F.normalize(x.pow(2).mean(1).flatten(1), dim=1)

    @staticmethod
    def _channel(x: Tensor) -> Tensor:
        return x.pow(2).mean((2, 3)).softmax(1)

    @staticmethod
    def _divergence(a: Tensor, b: Tensor) -> Tensor:
        a, b = a.double(), b.double()  # in float32 this sum's fourth digit is noise
        return F.kl_div((b / 8).log_softmax(1), (a / 8).softmax(1), reduction="sum")
