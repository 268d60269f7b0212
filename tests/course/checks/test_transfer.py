from functools import partial

import torch
import torch.nn.functional as F

from akt_lab.attention import (
    channel_attention,
    refined_feature_distillation,
    spatial_attention,
)
from akt_lab.losses import kd_loss
from tests.course.checks import accepted, mutants, refused


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
wrong("told its temperature", temperature_is_fixed=lambda *given: loss(*given[:-1], 5.0))
wrong(
    "spatial map is not divided by its sum",
    unit_length_as_it_is=partial(loss, attention=(spatial_attention, channel_attention)),
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


def alive(term, weights, felt=any, moves=torch.any, **options):
    if not term.requires_grad:
        return False
    found = gradients(term, weights, **options)
    return felt(g is not None and bool(moves(g)) for g in found)


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


wrong("'balanced' is alive", adds_up=listed(
    lambda term, w: not alive(term, w, moves=lambda g: g.sum() != 0)
))  # fmt: skip
wrong("'downwards' is alive", asks_for_a_maximum=listed(
    lambda term, w: not alive(term, w, moves=lambda g: g.max() > 0)
))  # fmt: skip


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


# ---- right, in other ways


def with_kl_div(a, b, s, t, alpha, lam, temperature):
    features = 0
    for mine, of_teacher in zip(a, b, strict=True):
        for of in (spatial, channel_attention):
            p, q = of(of_teacher.detach()), of(mine)
            features += F.kl_div((q + 1e-12).log(), p, reduction="batchmean") / len(a)
    log_q, log_p = (F.log_softmax(x / temperature, dim=1) for x in (s, t.detach()))
    logits = F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
    return lam * alpha * features + temperature**2 * (1 - alpha) * logits


def without_a_teachers_graph(a, b, s, t, *rest):
    with torch.no_grad():
        b, t = [m.clone() for m in b], t.clone()
    return loss(a, b, s, t, *rest, detach=False)


def ours(a, b, s, t, alpha, lam, temperature):
    features = refined_feature_distillation(a, b)
    return alpha * lam * features + (1 - alpha) * kd_loss(s, t.detach(), temperature)


def divided_by_its_sum(x):
    a = x.square().mean(1).flatten(1)
    return a / a.sum(1, keepdim=True)


def backward_and_clean(terms, weights):
    found = []
    for name, term in terms.items():
        if term.requires_grad:
            term.backward(retain_graph=True)
        felt = any(w.grad is not None and w.grad.any() for w in weights)
        for w in weights:
            w.grad = None
        if not felt:
            found.append(name)
    return found


def one_weight_at_a_time(terms, weights):
    def feels(term, w):
        (g,) = gradients(term, [w])
        return g is not None and g.count_nonzero() > 0

    return {
        n for n, t in terms.items() if not (t.requires_grad and any(feels(t, w) for w in weights))
    }


def zeros_for_none(terms, weights):
    found = []
    for name, term in terms.items():
        total = 0.0
        if term.grad_fn is not None:
            total = sum(g.abs().sum() for g in gradients(term, weights, materialize_grads=True))
        found += [name] if total == 0 else []
    return tuple(found)


test_right = accepted(
    akt_loss=[
        loss, with_kl_div, without_a_teachers_graph, ours,
        partial(loss, attention=(divided_by_its_sum, channel_attention)),
        partial(loss, over_maps=lambda found: found.sum() / 3),
        partial(loss, kl_maps=lambda p, q: (p * ((p + 1e-12) / (q + 1e-12)).log()).sum(1)),
        partial(loss, kl_logits=lambda p, q: F.kl_div(q.log(), p, reduction="none").sum(1)),
        partial(loss, over_batch=lambda rows: rows.sum() / len(rows)),
        lambda a, b, *rest: loss(a[::-1], b[::-1], *rest),
    ],
    dead_terms=[
        dead, backward_and_clean, one_weight_at_a_time, zeros_for_none,
        listed(lambda term, w: not alive(term, w, moves=lambda g: g.abs().max() > 0)),
        listed(lambda term, w: not alive(term, w, moves=lambda g: g.norm() > 0)),
        listed(lambda term, w: not alive(term, w, moves=lambda g: (g != 0).any())),
        lambda *given: reversed(dead(*given)),
        lambda *given: dict.fromkeys(dead(*given)),
    ],
)  # fmt: skip
