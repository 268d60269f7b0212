from functools import partial

import torch
import torch.nn.functional as F
from torch.nn.functional import normalize

from tests.course.checks import accepted, mutants, refused


def energy(x):
    return x.square().mean(1).flatten(1)


def spatial(x):
    return normalize(energy(x), dim=1)


def channel(x):
    return x.square().mean((2, 3)).softmax(1)


def maps(spatial=spatial, channel=channel):
    return lambda x: (spatial(x), channel(x))


wrong = mutants("attention_maps")
wrong("None", forgets_to_return=lambda x: print(spatial(x), channel(x)))
wrong("swapped", swapped=maps(channel, spatial))
wrong("flatten it", not_flat=maps(lambda x: spatial(x).view(len(x), *x.shape[2:])))
wrong("spatial map is not normalised", energies_only=maps(energy))
wrong(
    "spatial rows sum to one", spatial_of_unit_sum=maps(lambda x: normalize(energy(x), p=1, dim=1))
)
wrong("whole batch has length 1", batch_of_unit_length=maps(lambda x: energy(x) / energy(x).norm()))
wrong(
    "square of the mean over channels",
    square_of_means=maps(lambda x: normalize(x.mean(1).square().flatten(1), dim=1)),
)
wrong(
    "square of the mean over positions",
    square_of_means_by_channel=maps(channel=lambda x: x.mean((2, 3)).square().softmax(1)),
)
wrong(
    "softmax runs over the batch",
    softmax_over_batch=maps(channel=lambda x: x.square().mean((2, 3)).softmax(0)),
)
wrong("end with a softmax", no_softmax=maps(channel=lambda x: x.square().mean((2, 3))))
wrong(
    "sum over positions", sums_positions=maps(channel=lambda x: x.square().sum((2, 3)).softmax(1))
)
wrong("forgets the square", forgets_the_square=maps(channel=lambda x: x.mean((2, 3)).softmax(1)))
wrong("two softmaxes", softmax_twice=maps(channel=lambda x: channel(x).softmax(1)))
wrong(
    "0 is divided by 0",
    dies_on_a_dead_map=maps(lambda x: energy(x) / energy(x).norm(dim=1, keepdim=True)),
)


@wrong("x is changed in place")
def squares_in_place(x):
    found = maps()(x)
    x.square_()
    return found


def kl(p, q, tiny=1e-12):
    return (p * ((p + tiny).log() - (q + tiny).log())).sum(dim=1)


def divided(compare):
    """An answer that makes distributions of the maps, then compares them in its own way."""
    return lambda *maps: compare(*(m / m.sum(dim=1, keepdim=True) for m in maps))


wrong = mutants("divergence")
wrong("None", forgets_to_return_it=divided(lambda p, q: print(kl(p, q))))
wrong("KL(student || teacher)", other_direction=divided(lambda p, q: kl(q, p)))
wrong("no distributions yet", forgets_to_divide=kl)
wrong("softmax is not the division", softmax_first=lambda t, s: kl(t.softmax(1), s.softmax(1)))
wrong("one sum over the batch", one_number=divided(lambda p, q: kl(p, q).sum()))
wrong("one for each row", mean_over_the_batch=divided(lambda p, q: kl(p, q).mean()))
wrong("KL is their sum", mean_over_positions=divided(lambda p, q: kl(p, q) / p.shape[1]))
wrong("sign is wrong", negative=divided(lambda p, q: -kl(p, q)))
wrong("cross-entropy", cross_entropy=divided(lambda p, q: -(p * (q + 1e-12).log()).sum(1)))
wrong("symmetric", both_directions=divided(lambda p, q: (kl(p, q) + kl(q, p)) / 2))
wrong("squared differences", squared_differences=divided(lambda p, q: (p - q).square().sum(1)))
wrong("keep the logarithms finite", infinite_at_zero=divided(partial(kl, tiny=0)))


@wrong("skip the student's zeros")
def skips_the_students_zeros(*maps):
    p, q = (m / m.sum(dim=1, keepdim=True) for m in maps)
    seen = (p > 0) & (q > 0)
    return torch.where(seen, p * (p / q.where(seen, 1)).where(seen, 1).log(), 0).sum(dim=1)


@wrong("changed in place")
def divides_in_place(*maps):
    for m in maps:
        m /= m.sum(dim=1, keepdim=True)
    return kl(*maps)


test_mutants = refused("attention_maps", "divergence")


# ---- right, in other ways


def by_hand(x):
    b, c, h, w = x.shape
    where = (x**2).sum(1).reshape(b, h * w)
    which = (x**2).reshape(b, c, -1).mean(-1).exp()
    length = (where**2).sum(1, keepdim=True).sqrt().clamp(min=1e-12)
    return where / length, which / which.sum(1, keepdim=True)


def image_by_image(x):
    pairs = [maps()(image.unsqueeze(0)) for image in x]
    return torch.cat([s for s, _ in pairs]), torch.cat([c for _, c in pairs])


def masked_kl(t, s):
    p, q = (m / m.sum(dim=1, keepdim=True) for m in (t, s))
    terms = p * (p.clamp(min=1e-12) / q.clamp(min=1e-12)).log()
    return torch.where(p > 0, terms, torch.zeros_like(terms)).sum(1)


def row_by_row(t, s):
    found = []
    for p, q in zip(t, s, strict=True):
        p, q = p / p.sum(), q / q.sum()
        found.append(F.kl_div((q + 1e-12).log(), p, reduction="sum"))
    return torch.stack(found)


test_right = accepted(
    attention_maps=[
        maps(), by_hand, image_by_image,
        lambda x: [spatial(x), channel(x)],
        maps(lambda x: energy(x) / energy(x).norm(dim=1, keepdim=True).clamp(min=1e-12)),
        maps(lambda x: energy(x) / (energy(x).norm(dim=1, keepdim=True) + 1e-12)),
        maps(lambda x: normalize(x.pow(2).sum(1).flatten(1), p=2, dim=-1)),
        maps(channel=lambda x: F.softmax(F.adaptive_avg_pool2d(x**2, 1).flatten(1), dim=1)),
        maps(channel=lambda x: x.square().mean((2, 3)).log_softmax(1).exp()),
        lambda x: tuple(m.float() for m in maps()(x.double())),
        maps(lambda x: normalize(torch.einsum("bchw,bchw->bhw", x, x).flatten(1))),
    ],
    divergence=[
        divided(kl), masked_kl, row_by_row,
        divided(lambda p, q: kl(p, q, 1e-10)),
        divided(lambda p, q: (p * ((p + 1e-12) / (q + 1e-12)).log()).sum(-1)),
        divided(lambda p, q: F.kl_div((q + 1e-12).log(), p, reduction="none").sum(dim=1)),
        divided(lambda p, q: (torch.xlogy(p, p) - p * (q + 1e-12).log()).sum(1)),
        divided(lambda p, q: -(p * (q + 1e-12).log()).sum(1) + (p * (p + 1e-12).log()).sum(1)),
        divided(lambda p, q: torch.einsum("bk,bk->b", p, (p + 1e-9).log() - (q + 1e-9).log())),
        lambda t, s: divided(kl)(t.double(), s.double()).float(),
    ],
)  # fmt: skip
