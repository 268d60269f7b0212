import torch
import torch.nn.functional as F

from tests.course.checks import mutant, refused


def parts(captured, correction=0, over=(0, 2, 3)):
    for norm, x in captured:
        mean, variance = x.mean(over), x.var(over, correction=correction)
        yield mean, variance, norm.running_mean, norm.running_var


def loss(mean, variance, running_mean, running_var, compare=F.mse_loss):
    return compare(mean, running_mean) + compare(variance, running_var)


@mutant("bns_loss", says="None")
def forgets_to_return(captured):
    torch.stack([loss(*p) for p in parts(captured)]).mean()


@mutant("bns_loss", says="biased")
def unbiased_variance(captured):
    return torch.stack([loss(*p) for p in parts(captured, correction=1)]).mean()


@mutant("bns_loss", says="sum over the layers")
def sum_over_layers(captured):
    return torch.stack([loss(*p) for p in parts(captured)]).sum()


@mutant("bns_loss", says="over the channels")
def sum_over_channels(captured):
    def compare(a, b):
        return (a - b).square().sum()

    return torch.stack([loss(*p, compare=compare) for p in parts(captured)]).mean()


@mutant("bns_loss", says="batch as well")
def statistics_of_each_image(captured):
    found = []
    for norm, x in captured:
        found.append((x.mean((2, 3)) - norm.running_mean).square().mean())
        found[-1] = found[-1] + ((x.var((2, 3), correction=0) - norm.running_var).square().mean())
    return torch.stack(found).mean()


@mutant("bns_loss", says="compare the variances")
def standard_deviations(captured):
    found = [loss(m, v.sqrt(), rm, rv.sqrt()) for m, v, rm, rv in parts(captured)]
    return torch.stack(found).mean()


@mutant("bns_loss", says="is a variance already")
def root_of_the_running_variance_only(captured):
    return torch.stack([loss(m, v, rm, rv.sqrt()) for m, v, rm, rv in parts(captured)]).mean()


@mutant("bns_loss", says="without their square")
def absolute_differences(captured):
    return torch.stack([loss(*p, compare=F.l1_loss) for p in parts(captured)]).mean()


@mutant("bns_loss", says="only the means")
def forgets_the_variance(captured):
    return torch.stack([F.mse_loss(m, rm) for m, _, rm, _ in parts(captured)]).mean()


@mutant("bns_loss", says="is the return inside the loop")
def returns_in_the_loop(captured):
    for p in parts(captured):
        return loss(*p)


@mutant("bns_loss", says="only the last layer")
def keeps_only_the_last(captured):
    for p in parts(captured):
        found = loss(*p)
    return found


@mutant("bns_loss", says="no gradient comes through")
def a_plain_number(captured):
    return torch.stack([loss(*p) for p in parts(captured)]).mean().item()


@mutant("bns_loss", says="cut off from the images")
def detaches_the_variance(captured):
    found = [loss(m, v.detach(), rm, rv) for m, v, rm, rv in parts(captured)]
    return torch.stack(found).mean()


@mutant("bns_loss", says="do not run the layers")
def runs_the_layers(captured):
    found = torch.stack([loss(*p) for p in parts(captured)]).mean()
    for norm, x in captured:
        norm.train()(x)
    return found


def capture(network, images, hooked, keep, cleanly=True):
    handles = [keep(m) for m in hooked]
    if not cleanly:
        network(images)
        for handle in handles:
            handle.remove()
        return
    try:
        network(images)
    finally:
        for handle in handles:
            handle.remove()


def norms(network):
    return [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]


@mutant("capture_inputs", says="a hook is still there")
def never_removes(network, images):
    found = []
    for norm in norms(network):
        norm.register_forward_pre_hook(lambda m, inputs: found.append((m, inputs[0])))
    network(images)
    return found


@mutant("capture_inputs", says="remove them in `finally`")
def removes_only_if_all_goes_well(network, images):
    found = []

    def hook(norm):
        return norm.register_forward_pre_hook(lambda m, inputs: found.append((m, inputs[0])))

    capture(network, images, norms(network), hook, cleanly=False)
    return found


@mutant("capture_inputs", says="batch norm's output")
def keeps_the_output(network, images):
    found = []

    def hook(norm):
        return norm.register_forward_hook(lambda m, inputs, output: found.append((m, output)))

    capture(network, images, norms(network), hook)
    return found


@mutant("capture_inputs", says="take inputs[0]")
def keeps_the_tuple(network, images):
    found = []

    def hook(norm):
        return norm.register_forward_pre_hook(lambda m, inputs: found.append((m, inputs)))

    capture(network, images, norms(network), hook)
    return found


@mutant("capture_inputs", says="cut off from the images")
def detaches(network, images):
    found = []

    def hook(norm):
        return norm.register_forward_pre_hook(
            lambda m, inputs: found.append((m, inputs[0].detach()))
        )

    capture(network, images, norms(network), hook)
    return found


@mutant("capture_inputs", says="another layer's batch norm")
def pairs_by_definition(network, images):
    found = []

    def hook(norm):
        return norm.register_forward_pre_hook(lambda m, inputs: found.append(inputs[0]))

    capture(network, images, norms(network), hook)
    return list(zip(norms(network), found, strict=True))


@mutant("capture_inputs", says="order in which the layers were defined")
def a_dictionary_filled_before(network, images):
    found = dict.fromkeys(norms(network))

    def hook(norm):
        return norm.register_forward_pre_hook(lambda m, inputs: found.update({m: inputs[0]}))

    capture(network, images, norms(network), hook)
    return list(found.items())


@mutant("capture_inputs", says="hides it")
def swallows_the_exception(network, images):
    found = []

    def hook(norm):
        return norm.register_forward_pre_hook(lambda m, inputs: found.append((m, inputs[0])))

    try:
        capture(network, images, norms(network), hook)
    except RuntimeError:
        pass
    return found


@mutant("capture_inputs", says="leave the network in eval mode")
def switches_to_training(network, images):
    found = []

    def hook(norm):
        return norm.register_forward_pre_hook(lambda m, inputs: found.append((m, inputs[0])))

    network.train()
    capture(network, images, norms(network), hook)
    network.eval()
    return found


@mutant("capture_inputs", says="start with an empty list")
def keeps_across_calls(network, images, found=[]):  # noqa: B006
    def hook(norm):
        return norm.register_forward_pre_hook(lambda m, inputs: found.append((m, inputs[0])))

    capture(network, images, norms(network), hook)
    return found


test_mutants = refused(__name__)
