"""Whether a file computes what its student does: every image, every rounding.

Two programs that add the same numbers in another order differ in the last bits. Where a value lies
that close to the middle between two grid points, one rounds it up and the other down: then images
differ by a whole step, though neither program is wrong. Such an image is counted apart, and only if
it is shown: the student is given the file's own roundings, each of which must be one that its own
value allows, and must then come to the file's logits.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from akt_lab.errors import AktError
from akt_lab.export.builder import LOGITS
from akt_lab.export.runtimes import Runtime
from akt_lab.quantizer import ActivationQuantizer

CLOSE = 1e-4  # of an image's largest logit
TIE = 1e-3  # of a step, from the middle between two grid points


@dataclass(frozen=True)
class Agreement:
    """A file beside its student, over all evaluation images.

    Attributes:
        images: how many.
        difference: the largest between two logits, over the student's largest.
        at_ties: images that differ by more than `CLOSE` because a value lies at a tie.
        apart: images that differ by more than that, and it is not shown why.
        classes: images whose class differs.
        classes_apart: those among them that are no tie: neither a value at a tie of the grid, nor
            two logits that differ by less than `CLOSE`.
        accuracy: the file's, top-1 in percent.
        student_accuracy: the student's.
    """

    images: int
    difference: float
    at_ties: int
    apart: int
    classes: int
    classes_apart: int
    accuracy: float
    student_accuracy: float

    @property
    def good(self) -> bool:
        """Whether the file gives what the student does."""
        return not self.apart and not self.classes_apart


def agreement(
    student: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    file: Runtime,
    with_roundings: Callable[[], Runtime],
    bar: Callable[[int], object] = lambda count: None,
) -> Agreement:
    """Run file and student on images, and compare.

    Args:
        student: from `quantize_model`, or a teacher; in eval mode.
        batches: normalised images (B, channels, H, W) and labels (B,), as `Bench.batches` gives.
        file: the file, loaded.
        with_roundings: the same with every rounded activation as a further output, loaded; asked
            for where images differ.
        bar: told of how many images are done.
    """
    counts = dict.fromkeys(
        ("at_ties", "apart", "classes", "classes_apart", "right", "student_right"), 0
    )
    images, difference, shown = 0, 0.0, None
    for batch, labels in batches:
        with torch.inference_mode():
            expected = student(batch).float().cpu()
        got = torch.from_numpy(file.run(as_array(batch))[LOGITS])
        largest = expected.abs().amax(1).clamp(min=torch.finfo().tiny)  # (B,)
        off = (got - expected).abs().amax(1) / largest
        off = off.nan_to_num(float("inf"))
        difference = max(difference, off.max().item())
        at_ties = torch.zeros(len(off), dtype=torch.bool)
        if (far := off > CLOSE).any():
            shown = shown or with_roundings()
            at_ties[far] = follows(student, batch[far.to(batch.device)], shown, got[far])
        top = expected.topk(2).values if expected.shape[1] > 1 else expected.repeat(1, 2)
        near = (top[:, 0] - top[:, 1]) / largest < 2 * CLOSE
        differ = got.argmax(1) != expected.argmax(1)
        labels = labels.cpu()
        for name, each in (
            ("at_ties", at_ties), ("apart", far & ~at_ties), ("classes", differ),
            ("classes_apart", differ & ~at_ties & ~near),
            ("right", got.argmax(1) == labels), ("student_right", expected.argmax(1) == labels),
        ):  # fmt: skip
            counts[name] += int(each.sum())
        images += len(labels)
        bar(len(labels))
    right, student_right = (100 * counts.pop(k) / images for k in ("right", "student_right"))
    return Agreement(images, difference, **counts, accuracy=right, student_accuracy=student_right)


def as_array(images: Tensor) -> np.ndarray:
    """Images as runtimes take them, (B, channels, H, W), each after the other."""
    return images.detach().cpu().contiguous().numpy()


@torch.inference_mode()
def follows(student: nn.Module, images: Tensor, file: Runtime, logits: Tensor) -> Tensor:
    """For each image, whether the student comes to these logits by the file's roundings.

    Each of them must lie at most half a step, and `TIE`, from the value that the student rounds.

    Args:
        student: from `quantize_model`.
        images: (B, channels, H, W).
        file: one that also gives every rounded activation.
        logits: (B, classes), of the file that does not: a runtime may compute that in another way.

    Returns:
        (B,), boolean.
    """
    outputs = file.run(as_array(images))
    allowed = torch.ones(len(images), dtype=torch.bool)

    def put(name: str) -> Callable[..., Tensor]:
        def hook(module: Any, inputs: tuple[Tensor], output: Tensor) -> Tensor:
            scale, zero_point = module.grid()
            low, high = -zero_point, 2**module.bits - 1 - zero_point
            given = torch.from_numpy(outputs[f"rounded/{name}"]).to(output.device)
            off = (given / scale - (inputs[0] / scale).clamp(low, high)).abs().flatten(1).amax(1)
            whole = (given / scale - (given / scale).round()).abs().flatten(1).amax(1)
            allowed.logical_and_(((off <= 0.5 + TIE) & (whole <= TIE)).cpu())
            return given

        return hook

    named = [(n, m) for n, m in student.named_modules() if isinstance(m, ActivationQuantizer)]
    handles = [module.register_forward_hook(put(name)) for name, module in named]
    try:
        expected = student(images).float().cpu()
    finally:
        for handle in handles:
            handle.remove()
    largest = expected.abs().amax(1).clamp(min=torch.finfo().tiny)
    return allowed & ((logits - expected).abs().amax(1) / largest <= CLOSE)


def refuse(found: Agreement, package: str) -> None:
    """Refuse to call a file good that is not.

    Raises:
        AktError: says how many images differ, in which runtime.
    """
    if not found.good:
        raise AktError(
            f"the file is not good, and was not written: in {package}, {found.apart} of "
            f"{found.images} images have other logits than the student's (by up to "
            f"{found.difference:.2g} of the largest), and {found.classes_apart} another class"
        )
