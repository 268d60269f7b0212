"""The losses of generator and student: pure functions of logits, statistics and feature maps.

s, t: the student's and the teacher's logits, (B, C). Entropies and divergences are in nats.
Functions that return a dictionary name their terms; the loss is the sum of the values, each with
its weight already in it.
"""

import math
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from akt_lab.attention import attention_divergences, check_maps
from akt_lab.errors import AktError, unknown

BatchNormStatistics = tuple[Tensor, Tensor, Tensor, Tensor]
Terms = dict[str, Tensor]
EPS = 1e-5  # keeps the root of a dead channel's variance differentiable
PARTS = ("both", "spatial", "channel")
LAMBDA = {"paper": 1.0, "code": 1000.0, "published": 0.0, "placebo": 1.0}
VARIANTS = tuple(LAMBDA)
SHARED = ("paper", "placebo")  # variants in which alpha shares the loss out


# ---- the student's ------------------------------------------------------------------------------


def kd_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 20.0) -> Tensor:
    """T^2 KL(softmax(t/T) || softmax(s/T)), mean over the batch (Hinton et al., 2015).

    GDFQ's released code divides by the number of classes as well.

    >>> kd_loss(torch.zeros(2, 3), torch.zeros(2, 3)).item()
    0.0
    """
    _check_logits(student_logits, teacher_logits)
    log_q = (student_logits / temperature).log_softmax(dim=1)
    log_p = (teacher_logits / temperature).log_softmax(dim=1)
    return temperature**2 * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


def difference_entropy(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float = 20.0
) -> Tensor:
    """-T^2 mean H(softmax((t - s)/T)): least where student and teacher agree (AdaDFQ, CVPR 2023).

    At agreement it is -T^2 ln C, not 0: only its gradient speaks.

    >>> round(difference_entropy(torch.zeros(2, 10), torch.zeros(2, 10)).item() / -400, 4)
    2.3026
    """
    _check_logits(student_logits, teacher_logits)
    difference = (teacher_logits - student_logits) / temperature
    return -(temperature**2) * _entropy(difference).mean()


def floor(term: str, classes: int, temperature: float = 20.0, weight: float = 1.0) -> float:
    """The least value that a term of a student's loss can take, given its weight in the loss.

    -T^2 ln C for `difference_entropy`, 0 for all others.
    """
    return -weight * temperature**2 * math.log(classes) if term == "difference_entropy" else 0.0


def akt_terms(
    logit_terms: Terms,
    student_maps: Sequence[Tensor],
    teacher_maps: Sequence[Tensor],
    variant: str = "paper",
    alpha: float = 0.5,
    lam: float | None = None,
    parts: str = "both",
) -> Terms:
    """A student's logit loss combined with refined feature distillation.

    `paper`:     alpha * lam * L_RFD + (1 - alpha) * L_logit
    `code`:      L_logit + lam * L_RFD   (alpha is never read)
    `published`: L_logit                 (L_RFD is exactly zero)
    `placebo`:   alpha * lam * L_MSE + (1 - alpha) * L_logit

    `placebo` is ours, to compare with: `paper` with `map_error` in place of refined features. What
    gains no more than that gains by distilling features at all, not by refining them.

    Args:
        logit_terms: the method's own terms.
        student_maps: feature maps (B, C_i, H_i, W_i).
        teacher_maps: the same layers of the teacher.
        variant: one of `VARIANTS`.
        alpha: share of the features, of `paper` and `placebo`.
        lam: weight of L_RFD; 1 for `paper` and 1000 for `code` where None.
        parts: which of L_RFD's, one of `PARTS`: an ablation where not both.

    Returns:
        The terms of `logit_terms`, weighted, and `spatial` and `channel`, or `placebo`.
    """
    if variant not in LAMBDA:
        raise unknown("variant", variant, LAMBDA)
    if parts not in PARTS:
        raise unknown("parts", parts, PARTS)
    if variant == "published":
        return logit_terms
    lam = LAMBDA[variant] if lam is None else lam
    feature_weight = alpha * lam if variant in SHARED else lam
    weighted = {name: logit_weight(variant, alpha) * term for name, term in logit_terms.items()}
    if variant == "placebo":
        return weighted | {"placebo": feature_weight * map_error(student_maps, teacher_maps)}
    spatial, channel = attention_divergences(student_maps, teacher_maps, variant)
    features = {"spatial": feature_weight * spatial, "channel": feature_weight * channel}
    return weighted | {name: term for name, term in features.items() if parts in ("both", name)}


def logit_weight(variant: str, alpha: float) -> float:
    """Of the method's own terms in a student's loss with AKT; see `akt_terms`."""
    return 1 - alpha if variant in SHARED else 1.0


def map_error(student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
    """Mean squared error of feature maps as they are, mean over the maps: FitNets' hints.

    Without its regressor, which maps of one shape do not need (Romero et al., ICLR 2015).

    Args:
        student_maps: feature maps (B, C_i, H_i, W_i).
        teacher_maps: the same layers of the teacher; detached here.

    Raises:
        AktError: if there are no maps, or they do not pair up.

    >>> map_error([torch.zeros(1, 2, 3, 3)], [2 * torch.ones(1, 2, 3, 3)]).item()
    4.0
    """
    check_maps(student_maps, teacher_maps)
    pairs = zip(student_maps, teacher_maps, strict=True)
    return torch.stack([F.mse_loss(s, t.detach()) for s, t in pairs]).mean()


def akt_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    student_maps: Sequence[Tensor],
    teacher_maps: Sequence[Tensor],
    variant: str = "paper",
    alpha: float = 0.5,
    lam: float | None = None,
    temperature: float = 20.0,
) -> Tensor:
    """L_AKT = alpha lam L_RFD + (1 - alpha) L_KL of the paper; see `akt_terms` for the variants."""
    kd = {"kd": kd_loss(student_logits, teacher_logits.detach(), temperature)}
    return total(akt_terms(kd, student_maps, teacher_maps, variant, alpha, lam))


def gdfq_student_terms(
    s: Tensor, t: Tensor, y: Tensor, temperature: float = 20.0, min_confidence: float = 0.0
) -> Terms:
    """GDFQ (arXiv 2003.03603): CE(s, y) + T^2 KL(t || s).

    With `min_confidence` CE is of the images whose class y the teacher gives at least that
    probability, over the size of the whole batch; of harder ones the student learns the teacher's
    soft labels alone (SynQ, ICLR 2025, eq. 6, whose threshold of difficulty is 1 less this).
    """
    kd = kd_loss(s, t, temperature)
    if not min_confidence:
        return {"ce": F.cross_entropy(s, y), "kd": kd}
    confidence = t.softmax(dim=1).gather(1, y[:, None])[:, 0]  # (B,)
    ce = F.cross_entropy(s, y, reduction="none")
    return {"ce": ce.masked_fill(confidence < min_confidence, 0).mean(), "kd": kd}


def adadfq_student_terms(s: Tensor, t: Tensor, y: Tensor, temperature: float = 20.0) -> Terms:
    """AdaDFQ (CVPR 2023): -T^2 mean H(softmax((t - s)/T)); the labels y are not used."""
    return {"difference_entropy": difference_entropy(s, t, temperature)}


def hast_student_terms(s: Tensor, t: Tensor, y: Tensor, temperature: float = 20.0) -> Terms:
    """HAST's logit part (CVPR 2023): 20 T^2 KL(t || s); the labels y are not used."""
    return {"kd": 20 * kd_loss(s, t, temperature)}


def channel_alignment(student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Terms:
    """HAST's feature part: 1000 sum MSE(a_s, a_t), a = mean_hw(x^2) at unit length over channels.

    Args:
        student_maps: feature maps (B, C_i, H_i, W_i).
        teacher_maps: the same layers of the teacher.

    Raises:
        AktError: if there are no maps, or they do not pair up.
    """
    check_maps(student_maps, teacher_maps)
    pairs = zip(student_maps, teacher_maps, strict=True)
    energies = [[F.normalize(x.square().mean(dim=(2, 3)), dim=1) for x in pair] for pair in pairs]
    return {"alignment": 1000 * torch.stack([F.mse_loss(s, t) for s, t in energies]).sum()}


# ---- the images' -------------------------------------------------------------------------------


def bns_loss(statistics: Iterable[BatchNormStatistics]) -> Tensor:
    """How far the images' batch-norm statistics are from the teacher's.

    1/L sum_l [ MSE(mu_l, running_mean_l) + MSE(var_l, running_var_l) ]

    Args:
        statistics: for each batch-norm layer its input's mean and (biased) variance over batch
            and positions, and its running mean and variance: four tensors (C_l,).

    Raises:
        AktError: if there is no layer.
    """
    losses = [  # under autocast the inputs' are bfloat16, which older releases would not mix
        F.mse_loss(mu.to(m.dtype), m) + F.mse_loss(var.to(v.dtype), v)
        for mu, var, m, v in statistics
    ]
    if not losses:
        raise AktError(
            "the teacher has no batch norm whose statistics the images could match: "
            "images made from a teacher need one"
        )
    return torch.stack(losses).mean()


def gdfq_generator_terms(
    t: Tensor, s: Tensor | None, y: Tensor, statistics: Iterable[BatchNormStatistics]
) -> Terms:
    """GDFQ (arXiv 2003.03603): CE(t, y) + 0.1 BNS; the student's logits s are not used."""
    return {"ce": F.cross_entropy(t, y), "bns": 0.1 * bns_loss(statistics)}


def adadfq_generator_terms(
    t: Tensor, s: Tensor, y: Tensor, statistics: Iterable[BatchNormStatistics]
) -> Terms:
    """AdaDFQ (CVPR 2023): images on which both differ, neither too much nor too little.

    h = H(softmax(t - s)) of each image, h' = (h - min h) / (ln C - min h), 0 where that is 0/0 to
    rounding;
    mean relu(0.1 - h') + mean relu(h' - 0.8) + 0.2 CE(t - s, y) + 0.1 CE(t + s, y) + BNS
    """
    h = _entropy(t - s)  # (B,)
    least = h.min()
    reach = math.log(t.shape[1]) - least
    rounding = 8 * torch.finfo(h.dtype).eps * math.log(max(2, t.shape[1]))  # of an entropy
    h = (h - least) / reach.masked_fill(reach <= rounding, 1)  # both agree on every image
    return {
        "disagreement": F.relu(0.1 - h).mean(),
        "agreement": F.relu(h - 0.8).mean(),
        "ce_difference": 0.2 * F.cross_entropy(t - s, y),
        "ce_sum": 0.1 * F.cross_entropy(t + s, y),
        "bns": bns_loss(statistics),
    }


def zeroq_image_terms(
    t: Tensor, s: Tensor | None, y: Tensor, statistics: Iterable[BatchNormStatistics]
) -> Terms:
    """ZeroQ (CVPR 2020): means and standard deviations before every batch norm; no classes."""
    roots = [(mu, (var + EPS).sqrt(), m, (v + EPS).sqrt()) for mu, var, m, v in statistics]
    return {"bns": bns_loss(roots)}


def hast_image_terms(
    t: Tensor, s: Tensor | None, y: Tensor, statistics: Iterable[BatchNormStatistics]
) -> Terms:
    """HAST (CVPR 2023): BNS + 10 mean[(1 - p_y)^2 CE(t, y)], which dwells on the hard images."""
    ce = F.cross_entropy(t, y, reduction="none")
    return {"bns": bns_loss(statistics), "hard_ce": 10 * ((1 - (-ce).exp()) ** 2 * ce).mean()}


# ---- common -------------------------------------------------------------------------------------


def total(terms: Terms) -> Tensor:
    """The loss: the sum of its terms."""
    return torch.stack(list(terms.values())).sum()


def _entropy(logits: Tensor) -> Tensor:
    """H(softmax(logits)) of each row, (B,)."""
    log_p = logits.log_softmax(dim=1)
    return -(log_p.exp() * log_p).sum(dim=1)


def _check_logits(student: Tensor, teacher: Tensor) -> None:
    if student.ndim != 2 or student.shape != teacher.shape:
        raise AktError(
            f"expected logits (B, C) of one shape, got {tuple(student.shape)} of the student "
            f"and {tuple(teacher.shape)} of the teacher"
        )
