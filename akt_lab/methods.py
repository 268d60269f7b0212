"""The methods: where a student's images come from, and what it learns from them.

All are published ones but `adadfq-lsq`, our recipe. All are zero-shot but `real`, the ceiling: the
same student and loss on real training images, so that what remains of its gap is the quantizer's,
and what the others lack the missing data's.

A method is one entry in `METHODS`; `Settings` holds everything else that decides a run. The
defaults are the papers' (GDFQ's lineage); see `Settings` for the ones that differ by method.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from akt_lab import losses
from akt_lab.errors import unknown


@dataclass(frozen=True)
class Method:
    """One way to make a student: without data, or for comparison with them.

    Attributes:
        name: as on the command line.
        source: the paper.
        equation: what makes the images; what the student learns from.
        batch_size: images a step, in the paper.
        image_terms: (t, s, y, statistics) -> terms of the loss that makes the images; None where
            they are real ones.
        student_terms: (s, t, y, temperature) -> terms of the student's logit loss; None for
            post-training quantization, which stops after the warm-up.
        map_terms: (student's maps, teacher's maps) -> the method's own terms on feature maps.
        pool: images optimised once, in the paper; 0 where a generator is trained beside the
            student, or none is made.
        augment: whether images from the pool, or real ones, are cropped and flipped.
        hard_labels: whether the student learns the images' classes, too; `student_terms` then takes
            `min_confidence`.
        perturbation: size of the step uphill, at the images, of a second pass; 0 for none.
        sees_student: whether `image_terms` reads the student's logits.
        ranges, weight_ranges: the rules for ranges.
        range_lr: the learning rate of learned ranges.
        gradient: the straight-through rule.
        student_lr: the student's learning rate; HAST's loss weighs its KL 20 times, and at the
            others' 1e-4 it diverges (on digits, at 3 bits).
        akt: whether refined feature distillation joins the student's loss.
    """

    name: str
    source: str
    equation: str
    batch_size: int
    image_terms: Callable[..., losses.Terms] | None
    student_terms: Callable[..., losses.Terms] | None
    map_terms: Callable[..., losses.Terms] | None = None
    pool: int = 0
    augment: bool = False
    hard_labels: bool = False
    perturbation: float = 0.0
    sees_student: bool = False
    ranges: str = "ema"
    weight_ranges: str = "minmax"
    range_lr: float = 1e-2
    gradient: str = "identity"
    student_lr: float = 1e-4
    akt: bool = False

    @property
    def plain(self) -> str:
        """The name of the same method without AKT."""
        return self.name.removesuffix("+akt")

    @property
    def trains(self) -> bool:
        """Whether the student is trained, or only rounded."""
        return self.student_terms is not None

    @property
    def real(self) -> bool:
        """Whether it sees real training images: a ceiling, and not zero-shot."""
        return self.image_terms is None

    @property
    def generates(self) -> bool:
        """Whether a generator is trained beside the student: no pool, and no real images."""
        return not (self.pool or self.real)

    def with_akt(self) -> "Method":
        """The same images and loss, combined with refined feature distillation."""
        return replace(
            self,
            name=f"{self.name}+akt",
            source=f"{self.source} + AKT, arXiv 2412.19125",
            equation=f"{self.equation}, and refined feature distillation",
            akt=True,
        )


_GDFQ = Method(
    name="gdfq",
    source="GDFQ, arXiv 2003.03603",
    equation="L_G = CE(t, y) + 0.1 BNS; L_S = CE(s, y) + T^2 KL(t || s)",
    batch_size=200,
    image_terms=losses.gdfq_generator_terms,
    student_terms=losses.gdfq_student_terms,
    hard_labels=True,
)
_ADADFQ = Method(
    name="adadfq",
    source="AdaDFQ, CVPR 2023",
    equation="L_G = hinges on H(t - s) + 0.2 CE(t - s, y) + 0.1 CE(t + s, y) + BNS; "
    "L_S = -T^2 H((t - s)/T)",
    batch_size=16,
    image_terms=losses.adadfq_generator_terms,
    student_terms=losses.adadfq_student_terms,
    sees_student=True,
)
_HAST = Method(
    name="hast",
    source="HAST, CVPR 2023",
    equation="pixels: BNS + 10 (1 - p_y)^2 CE; l(x) = 20 T^2 KL + 1000 sum MSE(channel energies); "
    "L_S = l(x) + l(x + 0.01 sign grad l)",
    batch_size=64,
    image_terms=losses.hast_image_terms,
    student_terms=losses.hast_student_terms,
    map_terms=losses.channel_alignment,
    pool=5120,
    augment=True,
    perturbation=0.01,
    student_lr=1e-5,
)
_ADADFQ_LSQ = replace(
    _ADADFQ,
    name="adadfq-lsq",
    source="AdaDFQ, CVPR 2023, with LSQ's quantizer, ICLR 2020: our recipe (benchmarks/recipe.py)",
    equation="AdaDFQ's, with activation scales that are learned from where p-norm error is least",
    ranges="learned",
    gradient="clipped",
)
_GRANQ = replace(
    _ADADFQ,
    name="granq",
    source="GranQ, arXiv 2503.18339",
    equation="AdaDFQ's, with one live activation range per sample and channel",
    ranges="per_channel_dynamic",
)
_PTQ = replace(
    _GDFQ,
    name="ptq",
    source="ranges observed on GDFQ's images",
    equation="L_G of GDFQ; no training of the student",
    student_terms=None,
)
_ZEROQ = Method(
    name="zeroq",
    source="ZeroQ, CVPR 2020",
    equation="pixels: MSE of means and standard deviations; no training of the student",
    batch_size=64,
    image_terms=losses.zeroq_image_terms,
    student_terms=None,
    pool=64,
)
_REAL = Method(
    name="real",
    source="real training images (a ceiling, not zero-shot) for AdaDFQ's student",
    equation="L_S = -T^2 H((t - s)/T) on training images, cropped and flipped, without labels",
    batch_size=16,
    image_terms=None,
    student_terms=losses.adadfq_student_terms,
    augment=True,
)
_TRAINED = (_GDFQ, _HAST, _ADADFQ, _ADADFQ_LSQ, _GRANQ, _REAL)

METHODS: Mapping[str, Method] = {
    method.name: method
    for method in (_PTQ, _ZEROQ, *(m for base in _TRAINED for m in (base, base.with_akt())))
}


def get_method(name: str) -> Method:
    """The method of that name; a UsageError with the nearest one if there is none."""
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    return METHODS[name]
