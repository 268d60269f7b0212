from contextlib import suppress
from functools import partial

import torch
import torch.nn.functional as F

from tests.course.checks import mutants, refused


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
wrong("start with an empty list", keeps_across_calls=partial(capture, found=[]))

test_mutants = refused("bns_loss", "capture_inputs")
