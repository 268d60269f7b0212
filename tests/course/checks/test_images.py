from contextlib import ExitStack, suppress
from functools import partial

import torch
import torch.nn.functional as F

from tests.course.checks import accepted, mutants, refused


def mean_square(a, b):
    return (a - b).square().mean()


def bns(
    captured,
    over=(0, 2, 3),
    correction=0,
    by=mean_square,
    of_variance=lambda variance: variance,
    of_running_var=lambda variance: variance,
    over_layers=torch.mean,
):
    layers = []
    for norm, x in captured:
        mean, variance = x.mean(over), of_variance(x.var(over, correction=correction))
        of_mean = by(mean, norm.running_mean)
        layers.append(of_mean + by(variance, of_running_var(norm.running_var)))
    return over_layers(torch.stack(layers))


wrong = mutants("bns_loss")
wrong("None", forgets_to_return=lambda captured: print(bns(captured)))
wrong("biased", unbiased_variance=partial(bns, correction=1))
wrong("sum over the layers", sum_over_layers=partial(bns, over_layers=torch.sum))
wrong("over the channels", sum_over_channels=partial(bns, by=lambda a, b: (a - b).square().sum()))
wrong("batch as well", statistics_of_each_image=partial(bns, over=(2, 3)))
wrong(
    "compare the variances",
    standard_deviations=partial(bns, of_variance=torch.sqrt, of_running_var=torch.sqrt),
)
wrong(
    "is a variance already",
    root_of_the_running_variance_only=partial(bns, of_running_var=torch.sqrt),
)
wrong("without their square", absolute_differences=partial(bns, by=F.l1_loss))
wrong(
    "is the return inside the loop",
    returns_in_the_loop=partial(bns, over_layers=lambda layers: layers[0]),
)
wrong(
    "only the last layer", keeps_only_the_last=partial(bns, over_layers=lambda layers: layers[-1])
)
wrong("no gradient comes through", a_plain_number=lambda captured: bns(captured).item())
wrong("cut off from the images", detaches_the_variance=partial(bns, of_variance=torch.detach))


@wrong("an input is changed in place")
def centres_in_place(captured):
    found = bns(captured)
    for _, x in captured:
        x.sub_(1)
    return found


wrong("begins a graph of its own", a_new_tensor=lambda captured: torch.tensor(
    bns(captured).item(), requires_grad=True
))  # fmt: skip


@wrong("only the means")
def forgets_the_variance(captured):
    layers = [mean_square(x.mean((0, 2, 3)), norm.running_mean) for norm, x in captured]
    return torch.stack(layers).mean()


@wrong("do not run the layers")
def runs_the_layers(captured):
    found = bns(captured)
    for norm, x in captured:
        norm.train()(x)
    return found


def norms(network):
    return [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]


def hook(network, found, keep=lambda norm, inputs: (norm, inputs[0]), kind="forward_pre"):
    return [
        getattr(norm, f"register_{kind}_hook")(lambda *seen: found.append(keep(*seen)))
        for norm in norms(network)
    ]


def capture(network, images, found=None, **hooks):
    found = [] if found is None else found
    handles = hook(network, found, **hooks)
    try:
        network(images)
    finally:
        for handle in handles:
            handle.remove()
    return found


wrong = mutants("capture_inputs")


@wrong("a hook is still there")
def never_removes(network, images):
    found = []
    hook(network, found)
    network(images)
    return found


@wrong("remove them in `finally`")
def removes_only_if_all_goes_well(network, images):
    found = []
    handles = hook(network, found)
    network(images)
    for handle in handles:
        handle.remove()
    return found


@wrong("looks the loop's variable up when it runs")
def late_binding(network, images):
    found, handles = [], []
    for norm in norms(network):
        keep = lambda _, inputs: found.append((norm, inputs[0]))  # noqa: B023, E731 - the mistake
        handles.append(norm.register_forward_pre_hook(keep))
    try:
        network(images)
    finally:
        for handle in handles:
            handle.remove()
    return found


@wrong("someone else had registered")
def clears_everyones(network, images):
    found = []
    hook(network, found)
    try:
        network(images)
    finally:
        for norm in norms(network):
            norm._forward_pre_hooks.clear()
    return found


@wrong("another layer's batch norm")
def pairs_by_definition(network, images):
    return list(zip(norms(network), (x for _, x in capture(network, images)), strict=True))


@wrong("order in which the layers were defined")
def a_dictionary_filled_before(network, images):
    return list((dict.fromkeys(norms(network)) | dict(capture(network, images))).items())


@wrong("hides it")
def swallows_the_exception(network, images):
    found = []
    with suppress(RuntimeError):
        capture(network, images, found)
    return found


@wrong("leave the network in eval mode")
def switches_to_training(network, images):
    found = capture(network.train(), images)
    network.eval()
    return found


wrong(
    "batch norm's output",
    keeps_the_output=partial(capture, kind="forward", keep=lambda norm, _, output: (norm, output)),
)
wrong("take inputs[0]", keeps_the_tuple=partial(capture, keep=lambda norm, inputs: (norm, inputs)))
wrong(
    "cut off from the images",
    detaches=partial(capture, keep=lambda norm, inputs: (norm, inputs[0].detach())),
)
wrong("are a tuple", lists_for_tuples=partial(capture, keep=lambda norm, inputs: [norm, *inputs]))
wrong("start with an empty list", keeps_across_calls=partial(capture, found=[]))

test_mutants = refused("bns_loss", "capture_inputs")


# ---- right, in other ways


def keeps_a_total(captured):
    total = 0.0
    for norm, x in captured:
        channels = x.transpose(0, 1).flatten(1)
        mean = channels.mean(1, keepdim=True)
        variance = ((channels - mean) ** 2).mean(1)
        total = total + ((mean.squeeze(1) - norm.running_mean) ** 2).mean()
        total = total + torch.mean((variance - norm.running_var) ** 2)
    return total / len(captured)


def var_mean(captured):
    layers = []
    for norm, x in captured:
        variance, mean = torch.var_mean(x, dim=(0, 2, 3), unbiased=False)
        stored = torch.stack([norm.running_mean, norm.running_var])
        layers.append(2 * F.mse_loss(torch.stack([mean, variance]), stored))
    return sum(layers) / len(layers)


def mean_of_squares(captured):
    found = []
    for norm, x in captured:
        mean = x.mean((0, 2, 3))
        variance = (x * x).mean((0, 2, 3)) - mean**2
        found += [mean_square(mean, norm.running_mean) + mean_square(variance, norm.running_var)]
    return torch.stack(found).mean()


class Catch:
    """A hook with a memory."""

    def __init__(self):
        self.found = []

    def __call__(self, norm, inputs):
        self.found.append((norm, inputs[0]))


def with_an_object(network, images):
    catch = Catch()
    handles = [norm.register_forward_pre_hook(catch) for norm in norms(network)]
    try:
        network(images)
    finally:
        [handle.remove() for handle in handles]
    return catch.found


def with_a_stack(network, images):
    found = []
    with ExitStack() as stack:
        for norm in norms(network):
            handle = norm.register_forward_pre_hook(lambda m, i: found.append((m, *i)))
            stack.callback(handle.remove)
        network(images)
    return found


def handles_as_contexts(network, images):
    found = []
    with ExitStack() as stack:
        for handle in hook(network, found):
            stack.enter_context(handle)
        network(images)
    return found


def bound_as_a_default(network, images):
    found, handles = [], []
    for norm in norms(network):
        keep = lambda _, inputs, norm=norm: found.append((norm, inputs[0]))  # noqa: E731
        handles.append(norm.register_forward_pre_hook(keep))
    try:
        network(images)
    finally:
        for handle in handles:
            handle.remove()
    return found


def on_every_module(network, images):
    found = []

    def keep(module, inputs):
        if isinstance(module, torch.nn.BatchNorm2d):
            found.append((module, inputs[0]))

    handles = [m.register_forward_pre_hook(keep) for m in network.modules()]
    try:
        network(images)
    finally:
        for handle in handles:
            handle.remove()
    return found


def removed_then_raised(network, images):
    found = []
    handles = hook(network, found)
    try:
        network(images)
    except Exception:
        for handle in handles:
            handle.remove()
        raise
    for handle in handles:
        handle.remove()
    return found


test_right = accepted(
    bns_loss=[
        bns, keeps_a_total, var_mean, mean_of_squares,
        partial(bns, by=F.mse_loss),
        partial(bns, over=(3, 0, 2)),
        partial(bns, over_layers=lambda layers: layers.sum() / len(layers)),
        partial(bns, by=lambda a, b: torch.dist(a, b) ** 2 / len(a)),
        partial(bns, by=lambda a, b: torch.linalg.vector_norm(a - b).pow(2) / a.numel()),
        lambda captured: bns([(norm, x.double()) for norm, x in captured]),
    ],
    capture_inputs=[
        capture, with_an_object, with_a_stack, handles_as_contexts, bound_as_a_default,
        on_every_module, removed_then_raised,
        partial(capture, kind="forward", keep=lambda norm, inputs, _: (norm, inputs[0])),
        partial(capture, keep=lambda norm, inputs: (norm, *inputs)),
    ],
)  # fmt: skip
