"""Whether a file computes what its student does: every image, every rounding.

An image that differs because a value lies at a tie is counted apart, and only if that is shown.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from akt_lab.errors import AktError
from akt_lab.export.builder import LOGITS
from akt_lab.export.runtimes import Runtime
from akt_lab.export.ties import CLOSE, apart, follows, tips

FEW = 8  # images whose ties are searched for in vain: then the file is wrong
MOST = 0.25  # of a batch, where they are searched for: of more, the file is wrong


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
    answers: list[Tensor] | None = None,
) -> Agreement:
    """Run file and student on images, and compare.

    Args:
        student: from `quantize_model`, or a teacher; in eval mode.
        batches: normalised images (B, channels, H, W) and labels (B,), as `Bench.batches` gives.
        file: the file, loaded.
        with_roundings: the same with every rounded activation as a further output, loaded; asked
            for where images differ.
        bar: told of how many images are done.
        answers: the student's logits of each batch, on the CPU; those that are not there yet are
            computed and added, so that the next file needs not ask again.
    """
    answers = [] if answers is None else answers
    counts = dict.fromkeys(
        ("at_ties", "apart", "classes", "classes_apart", "right", "student_right"), 0
    )
    images, in_vain, difference, shown = 0, 0, 0.0, None
    for number, (batch, labels) in enumerate(batches):
        if number == len(answers):
            with torch.inference_mode():
                answers.append(student(batch).float().cpu())
        expected = answers[number]
        got = torch.from_numpy(file.run(as_array(batch))[LOGITS])
        off = apart(got, expected)
        difference = max(difference, off.max().item())
        at_ties = torch.zeros(len(off), dtype=torch.bool)
        if (far := off > CLOSE).any():
            shown = shown or with_roundings()
            differing = batch[far.to(batch.device)]
            outputs = shown.run(as_array(differing))
            followed = follows(student, differing, outputs, got[far]).clone()
            left = (~followed).nonzero().flatten()
            for i in left if len(left) <= MOST * len(off) else ():
                own = {name: each[i] for name, each in outputs.items() if name != LOGITS}
                followed[i] = in_vain < FEW and any(
                    tips(student, differing[i], got[far][i], outputs=start) for start in (None, own)
                )
                in_vain += not followed[i]
            at_ties[far] = followed
        largest = expected.abs().amax(1).clamp(min=torch.finfo().tiny)  # (B,)
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


def refuse(found: Agreement, package: str, advice: str = "") -> None:
    """Refuse to call a file good that is not, with `advice` if there is any.

    Raises:
        AktError: says how many images differ, in which runtime.
    """
    if not found.good:
        raise AktError(
            f"the file is not good, and was not written: in {package}, {found.apart} of "
            f"{found.images} images have other logits than the student's (by up to "
            f"{found.difference:.2g} of the largest), and {found.classes_apart} another class"
            f"{advice}"
        )
