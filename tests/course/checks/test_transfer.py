import torch
import torch.nn.functional as F

from akt_lab.attention import channel_attention, spatial_attention
from tests.course.checks import mutant, refused


def kl(p, q):
    return (p * ((p + 1e-12).log() - (q + 1e-12).log())).sum(dim=1)


def to_sum_one(a):
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
    over_maps=torch.mean,
    over_batch=torch.mean,
    norm=to_sum_one,
    features=("spatial", "channel"),
    kl_maps=kl,
    kl_logits=kl,
    power=2,
    channel=channel_attention,
):
    if detach:
        of_teacher, t = [b.detach() for b in of_teacher], t.detach()
    found = []
    for a, b in zip(maps, of_teacher, strict=False):
        each = torch.zeros(())
        if "spatial" in features:
            where = kl_maps(norm(spatial_attention(b)), norm(spatial_attention(a)))
            each = each + over_batch(where)
        if "channel" in features:
            each = each + over_batch(kl_maps(channel(b), channel(a)))
        found.append(each)
    whole = over_maps(torch.stack(found)) if found else torch.zeros(())
    p, q = ((x / temperature).softmax(1) for x in (t, s))
    return alpha * lam * whole + (1 - alpha) * temperature**power * kl_logits(p, q).mean()


def backwards(p, q):
    return kl(q, p)


@mutant("akt_loss", says="None")
def forgets_to_return(*given):
    loss(*given)


@mutant("akt_loss", says="no gradient")
def a_plain_number(*given):
    return loss(*given).item()


@mutant("akt_loss", says="detach its maps")
def teacher_learns(*given):
    return loss(*given, detach=False)


@mutant("akt_loss", says="cross-entropy leaves in")
def cross_entropy(*given):
    return loss(*given, kl_logits=lambda p, q: -(p * q.log()).sum(dim=1))


@mutant("akt_loss", says="features' term is dead")
def cleared_too_early(maps, of_teacher, *rest):
    return loss(maps, [], *rest)


@mutant("akt_loss", says="map 2 of 3")
def first_map_only(maps, of_teacher, *rest):
    return loss(maps[:1], of_teacher[:1], *rest)


@mutant("akt_loss", says="spatial term is dead")
def channels_only(*given):
    return loss(*given, features=("channel",))


@mutant("akt_loss", says="channel term is dead")
def places_only(*given):
    return loss(*given, features=("spatial",))


@mutant("akt_loss", says="mean over the maps")
def sum_over_maps(*given):
    return loss(*given, over_maps=torch.sum)


@mutant("akt_loss", says="grows with the batch")
def sum_over_batch(*given):
    return loss(*given, over_batch=torch.sum)


@mutant("akt_loss", says="temperature squared")
def no_temperature_squared(*given):
    return loss(*given, power=0)


@mutant("akt_loss", says="logits' KL points the wrong way")
def logits_backwards(*given):
    return loss(*given, kl_logits=backwards)


@mutant("akt_loss", says="features' KL points the wrong way")
def maps_backwards(*given):
    return loss(*given, kl_maps=backwards)


@mutant("akt_loss", says="divided by the classes")
def mean_over_classes(*given):
    return loss(*given, kl_logits=lambda p, q: kl(p, q) / p.shape[1])


@mutant("akt_loss", says="divided by its sum")
def unit_length_in_a_kl(*given):
    return loss(*given, norm=lambda a: a.softmax(dim=1))


@mutant("akt_loss", says="no softmax beyond")
def one_softmax_too_many(*given):
    return loss(*given, channel=lambda x: (channel_attention(x) / 8).softmax(dim=1))


@mutant("akt_loss", says="swapped")
def alpha_swapped(maps, of_teacher, s, t, alpha, lam, temperature):
    return loss(maps, of_teacher, s, t, 1 - alpha, lam, temperature)


@mutant("akt_loss", says="weight is 1 - alpha")
def alpha_is_never_read(maps, of_teacher, s, t, alpha, lam, temperature):
    whole = loss(maps, of_teacher, s, t, 1.0, lam, temperature)
    return whole + loss(maps, of_teacher, s, t, 0.0, lam, temperature)


@mutant("akt_loss", says="not 3 times")
def forgets_lambda(maps, of_teacher, s, t, alpha, lam, temperature):
    return loss(maps, of_teacher, s, t, alpha, 1.0, temperature)


@mutant("akt_loss", says="something other")
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


def dead(terms, weights, **options):
    return [name for name, term in terms.items() if not alive(term, weights, **options)]


@mutant("dead_terms", says="None")
def finds_and_forgets(terms, weights):
    dead(terms, weights)


@mutant("dead_terms", says="'detached' is dead")
def value_of_zero(terms, weights):
    return [name for name, term in terms.items() if term == 0]


@mutant("dead_terms", says="gradient, not the value")
def value_of_zero_too(terms, weights):
    return {*dead(terms, weights), *value_of_zero(terms, weights)}


@mutant("dead_terms", says="'saturated' is dead")
def has_no_graph(terms, weights):
    return [name for name, term in terms.items() if not term.requires_grad]


@mutant("dead_terms", says="'of others' is dead")
def asks_for_a_graph_of_gradients(terms, weights):
    return [n for n in dead(terms, weights) if n != "of others"]


@mutant("dead_terms", says="one is enough")
def every_weight_must_feel(terms, weights):
    listed = dead(terms, weights, felt=all)
    return [n for n in listed if n in ("last weight", *dead(terms, weights))]


@mutant("dead_terms", says="below 0")
def negative_counts_as_dead(terms, weights):
    return [n for n, term in terms.items() if term < 0 or n in dead(terms, weights)]


@mutant("dead_terms", says="retain_graph=True")
def frees_the_graph(terms, weights):
    return dead(terms, weights, retain_graph=False)


@mutant("dead_terms", says="allow_unused=True")
def all_must_be_used(terms, weights):
    return dead(terms, weights, allow_unused=False)


@mutant("dead_terms", says="ask requires_grad first")
def never_asks_for_a_graph(terms, weights):
    return [n for n, term in terms.items() if gradients(term, weights)[0] is None]


@mutant("dead_terms", says="place of backward")
def leaves_gradients_behind(terms, weights):
    F.mse_loss(weights[0], torch.zeros_like(weights[0])).backward()
    return dead(terms, weights)


test_mutants = refused(__name__)
