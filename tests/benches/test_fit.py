"""Whether a teacher fits its images; what is refused is in tests/faults/test_bad_input.py."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from akt_lab.benches.fit import check_fits, check_logits
from akt_lab.errors import AktError

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Head(nn.Module):
    """A stem of the given channels on what `before` makes of images; registered after its head."""

    def __init__(self, channels, before):
        super().__init__()
        self.head, self.stem, self.before = nn.Conv2d(8, 2, 1), nn.Conv2d(channels, 8, 3), before

    def forward(self, x):
        return self.head(F.relu(self.stem(self.before(x)))).mean((2, 3))


def coordinates(x):
    grid = torch.linspace(-1, 1, x.shape[-1]).expand(len(x), 1, *x.shape[2:])
    return torch.cat([x, grid, grid.mT], dim=1)


STEMS = {
    "head first": (3, lambda x: x),
    "space to depth": (12, lambda x: F.pixel_unshuffle(x, 2)),
    "coordinates": (5, coordinates),
    "grey inside": (1, lambda x: x.mean(1, keepdim=True)),
}


@pytest.mark.parametrize("name", STEMS)
def test_a_teacher_that_runs_fits(name):
    teacher = Head(*STEMS[name]).eval()
    assert check_fits(teacher, IMAGES, ("a", "b")) == []
    assert check_fits(teacher, IMAGES[:1], ("a", "b")) == []
    with pytest.raises(AktError, match=r"2 classes, --data holds 5 folders \(a, b, c, d, …\)"):
        check_fits(teacher, IMAGES, "abcde")


@pytest.mark.parametrize("size", [28, 64, 224])
def test_the_size_that_it_takes_is_named(size):
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(3 * size * size, 2)).eval()
    with pytest.raises(AktError, match=rf"on images of 16 x 16 .*give --image-size {size}$"):
        check_fits(teacher, IMAGES, ("a", "b"))


@pytest.mark.parametrize(("takes", "given"), [(1, 3), (3, 1)])
def test_the_channels_that_it_takes_are_named(takes, given):
    images = IMAGES[:, :given]
    with pytest.raises(AktError, match=f"takes {takes} channels, but .* describe {given}"):
        check_fits(Head(takes, lambda x: x), images, ("a", "b"))
    flat = nn.Sequential(nn.Flatten(), nn.Linear(takes * 32 * 32, 2))
    words = f"give --image-size 32, and {takes} numbers of --mean, --std"
    if takes != 3 or given != 1:  # 1 x 16 x 16 has other sizes with as many numbers
        with pytest.raises(AktError, match=words):
            check_fits(flat, images, ("a", "b"))


def test_batch_norm_of_one_dimension_and_dropout_in_eval_mode():
    parts = nn.Flatten(), nn.Linear(768, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2)
    assert check_fits(nn.Sequential(*parts).eval(), IMAGES, ("a", "b")) == []


def test_logits_that_depend_on_the_batch_are_told():
    norm = nn.BatchNorm2d(3, track_running_stats=False)
    teacher = nn.Sequential(norm, nn.ReLU(), nn.Flatten(), nn.Linear(768, 2)).eval()
    images = IMAGES * torch.tensor([1.0, 9.0]).view(2, 1, 1, 1)
    (note,) = check_fits(teacher, images, ("a", "b"))
    assert "depend on the others of its batch" in note


@pytest.mark.parametrize("change", [lambda x: x.mul_(2), F.relu_])
def test_a_teacher_that_changes_its_images_is_told(change):
    images = IMAGES.clone()
    (note,) = check_fits(Head(3, change).eval(), images, ("a", "b"))
    assert "changes its images in place" in note
    assert torch.equal(images, IMAGES)


def test_logits_and_what_is_none():
    logits = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    for right in (logits, logits.log_softmax(1), logits.sigmoid(), logits.abs(), torch.ones(3, 1)):
        check_logits(right)
    for wrong in (logits.softmax(1), logits.double().softmax(1), logits.half().softmax(1)):
        with pytest.raises(AktError, match="it ends in a softmax"):
            check_logits(wrong)
    for value in (torch.nan, torch.inf):
        with pytest.raises(AktError, match="not finite"):
            check_logits(logits.index_fill(0, torch.tensor([7]), value))
