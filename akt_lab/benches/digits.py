"""The offline bench: scikit-learn's handwritten digits, and a teacher trained on first use."""

import functools
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from akt_lab.benches.images import normalise
from akt_lab.files import MADE_AGAIN, claim, fill, load_tensors, save_tensors

DIGITS_SIZE, DIGITS_WIDTH, DIGITS_EPOCHS = 16, 8, 30


def load_digits(
    cache: Path, progress: bool = True
) -> tuple[nn.Module, Tensor, Tensor, tuple[str, ...], tuple[float, ...], tuple[float, ...]]:
    """What the bench consists of: teacher, test images and labels, classes, mean, std.

    The teacher comes from the folder `cache`, or is trained into it by one process at a time.

    Raises:
        DamagedError: if the one in the cache is not what was written.
    """
    (train, train_labels), (test, test_labels) = digits_split()
    values = train.float() / 255
    mean, std = (values.mean().item(),), (values.std().item(),)
    teacher, path = DigitsNet(), cache / "digits-teacher-1.safetensors"
    if not path.exists():
        with claim(cache, progress=progress):
            if not path.exists():  # another process may have trained it meanwhile
                train_digits_teacher(teacher, normalise(train, mean, std), train_labels, progress)
                save_tensors(path, teacher.state_dict(), {"epochs": DIGITS_EPOCHS})
    fill(teacher, load_tensors(path, MADE_AGAIN)[0], path, MADE_AGAIN)
    return teacher, test, test_labels, tuple("0123456789"), mean, std


@functools.cache
def digits_split() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """scikit-learn's handwritten digits at 16x16: (images, labels) to train on, and to test on.

    1,257 and 540 images, bytes (N, 1, 16, 16), the classes evenly spread over both.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits, labels = load_digits(return_X_y=True)  # (1797, 64), 0 to 16
    small = torch.from_numpy(digits.astype(np.float32) / 16).view(-1, 1, 8, 8)
    large = F.interpolate(small, size=DIGITS_SIZE, mode="bilinear", align_corners=False)
    images = (large * 255).round().byte().numpy()
    parts = train_test_split(images, labels, test_size=0.3, random_state=0, stratify=labels)
    train, test, train_labels, test_labels = map(torch.from_numpy, parts)
    return (train, train_labels.long()), (test, test_labels.long())


def train_digits_teacher(
    teacher: nn.Module, images: Tensor, labels: Tensor, progress: bool = True, seed: int = 0
) -> None:
    """Train the digits teacher: AdamW, one-cycle rate, images shifted by up to a pixel.

    The bench's teacher has seed 0; another seed is another teacher, as another machine's is.
    """
    epochs, batch = DIGITS_EPOCHS, 64
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in teacher.modules():
            if isinstance(module, (nn.Conv2d, nn.BatchNorm2d, nn.Linear)):
                module.reset_parameters()
        optimizer = torch.optim.AdamW(teacher.parameters(), 1e-2, weight_decay=1e-2)
        steps = epochs * (len(images) // batch)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
        teacher.train()
        bar = tqdm(range(epochs), desc="training the digits teacher", disable=not progress)
        for _ in bar:
            for chosen in torch.randperm(len(images)).split(batch):
                if len(chosen) < batch:
                    continue
                shift = torch.randint(-1, 2, (2,)).tolist()
                shifted = torch.roll(images[chosen], shift, dims=(2, 3))
                loss = F.cross_entropy(teacher(shifted), labels[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
            bar.set_postfix(loss=f"{loss.item():.3f}")
    teacher.eval()


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a skip; the skip is a 1x1 convolution where shapes change."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        """`stride` 2 halves height and width."""
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            projection = nn.Conv2d(channels_in, channels, 1, stride, bias=False)
            self.skip = nn.Sequential(projection, nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels_in, H, W) -> (B, channels, H/stride, W/stride)."""
        return F.relu(self.body(x) + self.skip(x))


class DigitsNet(nn.Module):
    """ResNet-20's little sister: three residual units of 8, 16 and 32 channels."""

    def __init__(self, width: int = DIGITS_WIDTH, channels: int = 1, num_classes: int = 10) -> None:
        """`width` channels at full resolution, doubled twice."""
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.unit1 = ResidualBlock(width, width, 1)
        self.unit2 = ResidualBlock(width, 2 * width, 2)
        self.unit3 = ResidualBlock(2 * width, 4 * width, 2)
        self.classifier = nn.Linear(4 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, S, S) -> logits (B, num_classes)."""
        x = self.unit3(self.unit2(self.unit1(self.stem(x))))
        return self.classifier(x.mean(dim=(2, 3)))
