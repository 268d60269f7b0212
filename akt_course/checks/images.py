"""Checks of notebook 3, images from nothing."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from akt_course.checks.answers import (
    close,
    exercise,
    expect,
    expect_number,
    expect_unchanged,
    first_that_fits,
)
from akt_course.checks.draws import Draws
from akt_lab.losses import bns_loss as ours

Captured = list[tuple[nn.BatchNorm2d, Tensor]]


# ---- the loss -----------------------------------------------------------------------------------


@exercise
def bns_loss(answer: Callable[..., Any], draws: Draws) -> None:
    """Zero where statistics match, biased variance, mean over layers, and it moves the pixels."""
    _zero_at_home(answer, draws)
    for (batch, height, width), channels in (((3, 4, 4), (6, 3)), ((5, 2, 3), (4, 8, 5))):
        images = draws.normal(batch, 2, height, width).requires_grad_()
        captured = _layers(images, channels, draws)
        before = [norm.running_mean.clone() for norm, _ in captured]  # type: ignore[union-attr]
        inputs = [x.detach().clone() for _, x in captured]
        got = answer(captured)
        expect_number(got, "the loss")
        expect_unchanged("an input", [x.detach() for _, x in captured], inputs)
        expect(
            all(close(norm.running_mean, m) for (norm, _), m in zip(captured, before, strict=True)),
            "the layers' running statistics have changed: read them, and do not run the layers",
        )
        _which_mistake(got, captured)
        _moves(got, captured, images)


def _layers(images: Tensor, channels: tuple[int, ...], draws: Draws) -> Captured:
    """Batch norms with statistics of their own, and inputs that depend on the images."""
    captured = []
    for width in channels:
        norm = nn.BatchNorm2d(width).eval()
        norm.running_mean, norm.running_var = draws.normal(width), draws.uniform(width) + 0.5
        weight = draws.normal(width, images.shape[1])
        captured.append((norm, torch.einsum("oc,bchw->bohw", weight, images) + images.mean()))
    return captured


def _zero_at_home(answer: Callable[..., Any], draws: Draws) -> None:
    x = draws.normal(4, 5, 3, 3)
    norm = nn.BatchNorm2d(5).eval()
    norm.running_mean = x.mean(dim=(0, 2, 3))
    norm.running_var = x.var(dim=(0, 2, 3), correction=0)
    got = expect_number(answer([(norm, x)]), "the loss")
    expect(
        got > -1e-6,
        "the loss is {:.4f}: it adds up squared differences, so it cannot be negative",
        got,
    )
    norm.running_var = x.var(dim=(0, 2, 3))
    unbiased = expect_number(answer([(norm, x)]), "the loss")
    expect(
        got < 1e-8 or unbiased > 1e-8,
        "zero only for the variance that divides by N - 1: take the biased one, correction=0",
    )


def _which_mistake(got: Any, captured: Captured) -> None:
    """Name the mistake whose value `got` is, where it is not the right one."""
    wanted = _value(captured)
    if close(got, wanted, 1e-4):
        return
    parts = [_value([pair]) for pair in captured]
    first_that_fits(got, (
        (_value(captured, correction=1), "the variance divides by N - 1: take the biased one"),
        (torch.stack(parts).sum(), "this is the sum over the layers: take their mean"),
        (_value(captured, per_channel=True), "a layer's squared differences are added up over the "
         "channels: take their mean, so that wide layers do not count more"),
        (_value(captured, over=(2, 3)), "each image has statistics of its own here: average over "
         "the batch as well, dim=(0, 2, 3)"),
        (_value(captured, over=(0,)), "each position has statistics of its own here: average over "
         "height and width as well, dim=(0, 2, 3)"),
        (_value(captured, root=True), "these are standard deviations: compare the variances"),
        (_value(captured, mixed=True), "the variance is compared with a standard deviation: "
         "running_var is a variance already"),
        (_value(captured, absolute=True), "differences are taken without their square"),
        (_value(captured, variances=False), "only the means are compared: add the variances"),
        (_value(captured, means=False), "only the variances are compared: add the means"),
        (parts[-1], "only the last layer counts: keep every layer's loss in a list"),
        (parts[0], "only the first layer counts: is the return inside the loop?"),
        (wanted / 2, "half of what it should be: the two mean squared errors are added, not "
         "averaged"),
    ), 1e-4)  # fmt: skip
    expect(False, "the loss is {:.4f}, expected {:.4f}", float(got), float(wanted))


def _value(
    captured: Captured,
    *,
    correction: int = 0,
    over: tuple[int, ...] = (0, 2, 3),
    per_channel: bool = False,
    root: bool = False,
    mixed: bool = False,
    absolute: bool = False,
    means: bool = True,
    variances: bool = True,
) -> Tensor:
    """The loss, or what a mistake makes of it."""
    losses = []
    for norm, x in captured:
        running_mean, running_var = norm.running_mean, norm.running_var
        assert running_mean is not None
        assert running_var is not None
        mean, variance = (
            x.mean(over, keepdim=True),
            x.var(over, correction=correction, keepdim=True),
        )
        wanted_mean, wanted_var = (v.view(1, -1, 1, 1) for v in (running_mean, running_var))
        if root or mixed:
            wanted_var = wanted_var.sqrt()
        if root:
            variance = variance.sqrt()
        parts = []
        for difference in [mean - wanted_mean] * means + [variance - wanted_var] * variances:
            size = difference.abs() if absolute else difference.square()
            parts.append(size.sum() if per_channel else size.mean())
        losses.append(torch.stack(parts).sum())
    return torch.stack(losses).mean().detach()


def _moves(got: Any, captured: Captured, images: Tensor) -> None:
    expect(
        isinstance(got, Tensor) and got.requires_grad,
        "right, but no gradient comes through: keep tensors (no float, .item, .detach or no_grad)",
    )
    (moved,) = torch.autograd.grad(got, images, retain_graph=True, allow_unused=True)
    expect(
        moved is not None,
        "right, but its gradient does not come from the images: a new tensor, as torch.tensor "
        "makes it, begins a graph of its own",
    )
    statistics = [
        (x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0), norm.running_mean, norm.running_var)
        for norm, x in captured
    ]
    (wanted,) = torch.autograd.grad(ours(statistics), images)  # type: ignore[arg-type]
    expect(
        close(moved, wanted, 1e-3),
        "right, but the pixels' gradient is not: part of the loss is cut off from the images "
        "(.detach, .data or torch.no_grad somewhere?)",
    )


# ---- the hooks ----------------------------------------------------------------------------------


class _Crossing(nn.Module):
    """Two branches whose batch norms run in another order than they were defined in."""

    def __init__(self, draws: Draws, breaks: bool = False) -> None:
        super().__init__()
        self.second, self.first = nn.BatchNorm2d(4), nn.BatchNorm2d(3)
        self.conv = nn.Conv2d(3, 4, 3)
        self.breaks = breaks
        for norm in (self.first, self.second):
            norm.running_mean = draws.normal(norm.num_features)
        draws.fill(self).eval()

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.first(x).relu())
        x = self.second(x)
        if self.breaks:
            raise RuntimeError("out of memory")
        return x.mean(dim=(2, 3))


@exercise
def capture_inputs(answer: Callable[..., Any], draws: Draws) -> None:
    """Every batch norm with its input, in the order they run; no hook stays, whatever happens."""
    network, images = _Crossing(draws), draws.normal(5, 3, 6, 6).requires_grad_()
    state = {name: value.clone() for name, value in network.state_dict().items()}
    others = _hooks_of_others(network)
    got = answer(network, images)
    expect(
        all(close(value, state[name]) for name, value in network.state_dict().items()),
        "the running statistics have changed: leave the network in eval mode",
    )
    _pairs(got, network, images)
    left = _hooks(network)
    expect(
        others <= left,
        "the hooks that someone else had registered are gone: remove() your own, by the handles "
        "that register_... gave you, and leave the others",
    )
    expect(left <= others, "a hook is still there afterwards: keep what register_... returns, and "
           "remove() it")  # fmt: skip
    expect(not network.training, "the network is left in training mode")
    expect(len(answer(network, images)) == 2, "a second call returns the first one's inputs too: "
           "start with an empty list each time")  # fmt: skip
    _after_an_exception(answer, images, draws)


Hooks = set[tuple[nn.Module, int]]


def _hooks(network: nn.Module) -> Hooks:
    """Each hook, by its module and number."""
    kinds = ("_forward_pre_hooks", "_forward_hooks")
    return {(m, number) for m in network.modules() for kind in kinds for number in getattr(m, kind)}


def _hooks_of_others(network: nn.Module) -> Hooks:
    """Hang a hook of each kind on every module, as a profiler may."""
    for module in network.modules():
        module.register_forward_pre_hook(lambda *_: None)
        module.register_forward_hook(lambda *_: None)
    return _hooks(network)


def _pairs(got: Any, network: _Crossing, images: Tensor) -> None:
    expect(got is not None, "the answer is None: does the function end in a return?")
    expect(isinstance(got, list), "the answer is a {}, not a list of pairs", type(got).__name__)
    expect(
        not got or not all(isinstance(pair, list) and len(pair) == 2 for pair in got),
        "each pair is a list, [norm, input]: two things that belong together are a tuple, "
        "(norm, input)",
    )
    expect(
        len(got) == 2 and all(isinstance(pair, tuple) and len(pair) == 2 for pair in got),
        "the network has two batch norms, so two pairs (norm, input) are expected; got {} items",
        len(got),
    )
    norms = [norm for norm, _ in got]
    expect(all(isinstance(n, nn.BatchNorm2d) for n in norms), "a pair begins with the BatchNorm2d")
    expect(all(isinstance(x, Tensor) for _, x in got), "a pair ends with a tensor: a hook gets its "
           "inputs as a tuple, so take inputs[0]")  # fmt: skip
    late = norms[0] is norms[1] and not torch.equal(got[0][1], got[1][1])
    expect(
        not late,
        "both inputs are paired with the same batch norm: a lambda looks the loop's variable up "
        "when it runs, and by then the loop is over. The hook is told its module: take that",
    )
    with torch.no_grad():
        conv_out = network.conv(network.first(images).relu())
    wanted = {network.first: images, network.second: conv_out}
    outputs = {network.first: network.first(images), network.second: network.second(conv_out)}
    for norm, x in got:
        expect(
            x.shape != outputs[norm].shape or not close(x, outputs[norm]),
            "this is a batch norm's output: its input is what register_forward_pre_hook shows",
        )
        expect(
            x.shape == wanted[norm].shape and close(x, wanted[norm]),
            "an input is paired with another layer's batch norm: the hook is told which module "
            "it belongs to, so pair them there",
        )
    expect(
        norms == [network.first, network.second],
        "the pairs are in the order in which the layers were defined, not that in which they run: "
        "append to the list inside the hook",
    )
    expect(
        got[1][1].requires_grad,
        "the inputs are cut off from the images (detach or no_grad): no loss could move a pixel",
    )


def _after_an_exception(answer: Callable[..., Any], images: Tensor, draws: Draws) -> None:
    broken, raised = _Crossing(draws, breaks=True), False
    try:
        answer(broken, images)
    except RuntimeError:
        raised = True
    expect(raised, "the network raised an exception and the answer hides it: let it pass")
    expect(not _hooks(broken), "the network raised an exception, and the hooks are still there: "
           "remove them in `finally`")  # fmt: skip
