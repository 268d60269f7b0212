"""Whether a teacher fits its images: tried on the first of them, and where it fails, why."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from akt_lab.errors import AktError

SIZES = (28, 32, 48, 64, 96, 112, 128, 160, 192, 224, 227, 256, 299, 320, 384, 448, 512)


@torch.inference_mode()
def check_fits(teacher: nn.Module, images: Tensor, classes: Sequence[str]) -> list[str]:
    """Run a teacher on images of its bench, one and two at a time, and look at what it returns.

    Args:
        teacher: in eval mode.
        images: (1 or 2, channels, S, S), normalised.
        classes: their names.

    Returns:
        what to say of it.

    Raises:
        AktError: if it cannot run on them, and what it takes; or what it returns are not logits.
    """
    logits = _run(teacher, images)
    alone = _run(teacher, images[:1])
    if logits.shape[1] != len(classes):
        names = ", ".join(classes[:4]) + (", …" if len(classes) > 4 else "")
        raise AktError(
            f"the teacher knows {logits.shape[1]} classes, --data holds {len(classes)} folders "
            f"({names}): give a folder for each class, and name the one that holds those"
        )
    check_logits(logits)
    if not _alike(logits, _run(teacher, images)):
        raise AktError(
            "the teacher gives other logits for the same images each time: something in it does "
            "not heed eval(), such as F.dropout(x) without training=self.training"
        )
    notes = []
    if not _alike(logits[:1], alone):
        notes.append(
            "an image's logits depend on the others of its batch (batch norm without running "
            "statistics?), so that accuracies depend on the size of batches"
        )
    teacher(seen := images.clone())
    if not torch.equal(seen, images):
        notes.append(
            "the teacher changes its images in place, such as by nn.ReLU(inplace=True) on them: "
            "what runs after it sees others"
        )
    return notes


@torch.inference_mode()
def asks_for_layout(teacher: nn.Module, images: Tensor) -> bool:
    """Whether the teacher asks for a memory layout, by `view`: channels-last is not it."""
    try:
        teacher(images)
    except RuntimeError as error:
        return "view size is not compatible" in str(error)
    except Exception:  # `check_fits` says what
        pass
    return False


def check_logits(logits: Tensor) -> None:
    """Refuse what a teacher (B, classes) cannot be distilled from.

    Raises:
        AktError: NaN or infinities, or probabilities.
    """
    if not logits.isfinite().all():
        raise AktError(
            "the teacher's logits are not finite (NaN or inf) on the evaluation images: do "
            "--mean, --std and --weights belong to it?"
        )
    sums = logits.sum(dim=1)
    if logits.shape[1] > 1 and logits.min() >= 0 and torch.allclose(sums, sums.new_ones(())):
        raise AktError(
            "the teacher returns probabilities: it ends in a softmax, and losses would take a "
            "second one; return the logits that go into it"
        )


def _alike(a: Tensor, b: Tensor) -> bool:
    """But for rounding."""
    return torch.allclose(a, b, rtol=1e-3, atol=1e-3 * float(a.abs().max()))


def _run(teacher: nn.Module, images: Tensor) -> Tensor:
    """Logits (B, classes).

    Raises:
        AktError: why there are none.
    """
    try:
        logits = teacher(images.clone())
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise AktError(_why(teacher, images, reason)) from error
    if not isinstance(logits, Tensor):
        parts = f" of {len(logits)}" if isinstance(logits, (tuple, list, dict)) else ""
        raise AktError(
            f"the teacher must return logits (B, classes), one tensor, not a "
            f"{type(logits).__name__}{parts}: wrap it in a network that returns the logits alone"
        )
    if logits.ndim != 2 or len(logits) != len(images) or not logits.is_floating_point():
        form, kind = tuple(logits.shape), str(logits.dtype).removeprefix("torch.")
        raise AktError(
            f"the teacher must return logits (B, classes); of {len(images)} images it returns "
            f"{form} in {kind}: flatten them, or do not squeeze the batch away"
        )
    return logits


def _why(teacher: nn.Module, images: Tensor, reason: str) -> str:
    """What images it does run on, other than these: the first that it takes is the reason."""
    channels, size = images.shape[1], images.shape[-1]
    if _runs(teacher, images[:1]):
        return f"the teacher runs on one image, but not on two ({reason})"
    if len(images) == 1 and _runs(teacher, images.expand(2, -1, -1, -1)):
        return f"the teacher runs on two images, but not on one ({reason})"
    other = 1 if channels == 3 else 3
    coloured = images[:, :1].expand(-1, other, -1, -1)
    if _runs(teacher, coloured):
        return (
            f"the teacher takes {other} channels, but --mean and --std describe {channels}: give "
            f"{other} numbers each"
        )
    for s in SIZES:
        for tried in (images, coloured):
            if s != size and _runs(teacher, F.interpolate(tried, (s, s))):
                and_channels = "" if tried is images else f", and {other} numbers of --mean, --std"
                return (
                    f"the teacher does not run on images of {size} x {size} pixels ({reason}); it "
                    f"does on {s} x {s}: give --image-size {s}{and_channels}"
                )
    return f"the teacher cannot run on these images ({reason})"


def _runs(teacher: nn.Module, images: Tensor) -> bool:
    try:
        teacher(images)
    except Exception:
        return False
    return True
