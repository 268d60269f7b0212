"""Networks as people bring them, each wrong in one way; `tiny` is right, and so is its weights'."""

import torch
import torch.nn.functional as F
from torch import nn


class Tiny(nn.Module):
    """Two classes of colour images, in one convolution."""

    def __init__(self, classes=2, channels=3):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(channels, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.head = nn.Linear(4, classes)

    def features(self, x):
        return F.relu(self.norm(self.conv(x))).mean((2, 3))

    def forward(self, x):
        return self.head(self.features(x))


def tiny():
    torch.manual_seed(0)
    return Tiny()


def returning(change):
    """A factory of `Tiny` that returns something else than its logits."""

    class Changed(Tiny):
        def forward(self, x):
            return change(self, x, super().forward(x))

    return Changed


def as_it_comes(self, x, logits):
    return logits * 2 if logits.sum() > 0 else logits


def fails(self, x, logits):
    raise RuntimeError("of its own\nand a second line")


def one_at_a_time(self, x, logits):
    if len(x) > 1:
        raise ValueError("one at a time")
    return logits


def two_at_least(self, x, logits):
    if len(x) < 2:
        raise ValueError("one is too few")
    return logits


def only_of_16(self, x, logits):
    if x.shape[-1] != 224:
        raise ValueError(f"size {x.shape[-1]} is not supported")
    return logits


softmax = returning(lambda self, x, logits: logits.softmax(1))
softmax_of_double = returning(lambda self, x, logits: logits.double().softmax(1))
not_finite = returning(lambda self, x, logits: logits / 0)


def bright_is_nan(self, x, logits):
    return logits.where(x.mean((1, 2, 3))[:, None] < 0, torch.nan)


some_not_finite = returning(bright_is_nan)
pair = returning(lambda self, x, logits: (logits, x))
named = returning(lambda self, x, logits: {"logits": logits})
nothing = returning(lambda self, x, logits: None)
squeezed = returning(lambda self, x, logits: logits.squeeze())
maps = returning(lambda self, x, logits: logits[:, :, None, None])
classes = returning(lambda self, x, logits: logits.argmax(1, keepdim=True).expand(-1, 2))
random = returning(lambda self, x, logits: F.dropout(logits, 0.5) + torch.randn_like(logits))
failing, one, two = returning(fails), returning(one_at_a_time), returning(two_at_least)
untraceable = returning(as_it_comes)
only_224 = returning(only_of_16)
three = lambda: Tiny(classes=3)  # noqa: E731
grey = lambda: Tiny(channels=1)  # noqa: E731
hyperspectral = lambda: Tiny(channels=12)  # noqa: E731
a_class = lambda: Tiny  # noqa: E731
a_number = 3


def with_arguments(depth, *, width):
    return Tiny()


def that_fails():
    raise FileNotFoundError("weights of its own are not there\nin two lines")


def that_exits():
    raise SystemExit("no GPU, no fun")


def complex_weights():
    network = Tiny()
    network.odd = nn.Parameter(torch.zeros(2, dtype=torch.complex64))
    return network


def on_meta():
    return Tiny().to("meta")


def lazy():
    network = Tiny()
    network.head = nn.LazyLinear(2)
    return network
