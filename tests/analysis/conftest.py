"""What these tests share: a network small enough for dense linear algebra."""

import pytest
import torch
from torch import nn

from akt_lab.quantizer import freeze_ranges, quantize_model

SHORT = {"batch_size": 8, "epochs": 2, "steps": 2, "warmup_epochs": 1, "eval_every": 2}
RNG = torch.Generator().manual_seed(0)
IMAGES = torch.randn(4, 1, 6, 6, generator=RNG, dtype=torch.float64)
LOGITS = 3 * torch.randn(4, 5, generator=RNG, dtype=torch.float64)


@pytest.fixture(scope="module")
def net():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        layers = nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(inplace=True)
        net = nn.Sequential(*layers, nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Flatten())
        return net.append(nn.Linear(16, 5)).double().eval()


@pytest.fixture(scope="module")
def student(net):
    student = quantize_model(net, 3, 3)
    student(IMAGES)
    freeze_ranges(student)
    return student
