from functools import partial

import torch
import torch.nn.functional as F

from akt_lab.attention import channel_attention, spatial_attention
from tests.course.checks import mutants, refused


def kl(p, q):
    return (p * ((p + 1e-12).log() - (q + 1e-12).log())).sum(dim=1)


def spatial(x):
    a = spatial_attention(x)
    return a / a.sum(dim=1, keepdim=True)


def loss(
    maps,
    of_teacher,
    s,
    t,
    alpha,
    lam,
    temperature,
    detach=True,
    attention=(spatial, channel_attention),
    kl_maps=kl,
    kl_logits=kl,
    over_batch=torch.mean,
    over_maps=torch.mean,
    weights=lambda alpha, lam: (alpha * lam, 1 - alpha),
    power=2,
):
    if detach:
        of_teacher, t = [b.detach() for b in of_teacher], t.detach()
    found = [
        sum(over_batch(kl_maps(of(b), of(a))) for of in attention)
        for a, b in zip(maps, of_teacher, strict=False)
    ]
    features = over_maps(torch.stack(found)) if found else torch.zeros(())
    p, q = ((x / temperature).softmax(1) for x in (t, s))
    of_features, of_logits = weights(alpha, lam)
    return of_features * features + of_logits * temperature**power * kl_logits(p, q).mean()


def backwards(p, q):
    return kl(q, p)


wrong = mutants("akt_loss")
wrong("None", forgets_to_return=lambda *given: print(loss(*given)))
wrong("no gradient", a_plain_number=lambda *given: loss(*given).item())
wrong("detach its maps", teacher_learns=partial(loss, detach=False))
wrong(
    "cross-entropy leaves in",
    cross_entropy=partial(loss, kl_logits=lambda p, q: -(p * q.log()).sum(dim=1)),
)
wrong("features' term is dead", cleared_too_early=lambda a, b, *rest: loss(a, [], *rest))
wrong("map 2 of 3", first_map_only=lambda a, b, *rest: loss(a[:1], b[:1], *rest))
wrong("spatial term is dead", channels_only=partial(loss, attention=[channel_attention]))
wrong("channel term is dead", places_only=partial(loss, attention=[spatial]))
wrong("mean over the maps", sum_over_maps=partial(loss, over_maps=torch.sum))
wrong("grows with the batch", sum_over_batch=partial(loss, over_batch=torch.sum))
wrong("temperature squared", no_temperature_squared=partial(loss, power=0))
wrong("logits' KL points the wrong way", logits_backwards=partial(loss, kl_logits=backwards))
wrong("features' KL points the wrong way", maps_backwards=partial(loss, kl_maps=backwards))
wrong(
    "divided by the classes",
    mean_over_classes=partial(loss, kl_logits=lambda p, q: kl(p, q) / p.shape[1]),
)
wrong(
    "divided by its sum",
    unit_length_in_a_kl=partial(
        loss, attention=(lambda x: spatial_attention(x).softmax(1), channel_attention)
    ),
)
wrong(
    "no softmax beyond",
    one_softmax_too_many=partial(
        loss, attention=(spatial, lambda x: (channel_attention(x) / 8).softmax(1))
    ),
)
wrong("swapped", alpha_swapped=partial(loss, weights=lambda alpha, lam: ((1 - alpha) * lam, alpha)))
wrong("weight is 1 - alpha", alpha_is_never_read=partial(loss, weights=lambda alpha, lam: (lam, 1)))
wrong("not 3 times", forgets_lambda=partial(loss, weights=lambda alpha, lam: (alpha, 1 - alpha)))


@wrong("something other")
def pulled_by_a_norm(maps, *rest):
    pull = sum(m.sum() for m in maps)
    return loss(maps, *rest) + pull - pull.detach()


def gradients(term, weights, **options):
    options = {"retain_graph": True, "allow_unused": True} | options
    return torch.autograd.grad(term, weights, **options)


def alive(term, weights, felt=any, **options):
    if not term.requires_grad:
        return False
    found = gradients(term, weights, **options)
    return felt(g is not None and bool(g.abs().max() > 0) for g in found)


def listed(suspect):
    """An answer that lists the terms of which `suspect(term, weights)` holds."""
    return lambda terms, weights: [n for n, term in terms.items() if suspect(term, weights)]


def dead(terms, weights, **options):
    return [n for n, term in terms.items() if not alive(term, weights, **options)]


wrong = mutants("dead_terms")
wrong("None", finds_and_forgets=lambda terms, weights: print(dead(terms, weights)))
wrong("'detached' is dead", value_of_zero=listed(lambda term, _: term == 0))
wrong("'saturated' is dead", has_no_graph=listed(lambda term, _: not term.requires_grad))
wrong("below 0", negative_counts_as_dead=listed(lambda term, w: term < 0 or not alive(term, w)))
wrong("retain_graph=True", frees_the_graph=partial(dead, retain_graph=False))
wrong("allow_unused=True", all_must_be_used=partial(dead, allow_unused=False))
wrong(
    "ask requires_grad first",
    never_asks_for_a_graph=listed(lambda term, weights: gradients(term, weights)[0] is None),
)


@wrong("gradient, not the value")
def value_of_zero_too(terms, weights):  # a set does as well as a list
    return {n for n, term in terms.items() if term == 0 or not alive(term, weights)}


@wrong("'of others' is dead")
def asks_for_a_graph_of_gradients(terms, weights):
    return [n for n in dead(terms, weights) if n != "of others"]


@wrong("one is enough")
def every_weight_must_feel(terms, weights):
    found = dead(terms, weights, felt=all)
    return [n for n in found if n in ("last weight", *dead(terms, weights))]


@wrong("place of backward")
def leaves_gradients_behind(terms, weights):
    F.mse_loss(weights[0], torch.zeros_like(weights[0])).backward()
    return dead(terms, weights)


test_mutants = refused("akt_loss", "dead_terms")
