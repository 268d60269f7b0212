"""The ONNX form of each operation, by its word: `relu` of nn.ReLU, F.relu and x.relu.

A form reads a node's settings, writes ONNX operations, and gives the name of what they make. What
is not in `FORMS` is refused by name, and so is a setting that ONNX computes in another way.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from akt_lab.export.network import NORMS, Network
from akt_lab.export.sums import affine, scale_and_shift
from akt_lab.quantizer import ActivationQuantizer

Form = Callable[[Network, fx.Node], Any]
FORMS: dict[str, Form] = {}


def form(*words: str) -> Callable[[Form], Form]:
    """Enter a form for these words."""

    def enter(written: Form) -> Form:
        FORMS.update(dict.fromkeys(words, written))
        return written

    return enter


def _each(value: Any, count: int) -> list[int]:
    """One number for each axis, from one for all or from several."""
    return [int(v) for v in value] if isinstance(value, tuple | list) else [int(value)] * count


# ---- rounding -----------------------------------------------------------------------------------


@form("activationquantizer", "sumquantizer")
def _quantizer(net: Network, node: fx.Node) -> str:
    """Clamp to the grid's ends, round to a byte, and back: clamp(round(x / scale) + zero_point)."""
    quantizer = net.module(node)
    assert isinstance(quantizer, ActivationQuantizer)
    scale, zero_point = (p.detach().cpu() for p in quantizer.grid())
    levels, x = 2**quantizer.bits - 1, net.value(net.source(node), node)
    low, high = -zero_point.float(), (levels - zero_point).float()
    if net.storage == "float":  # a runtime that sees bytes would round the weights to bytes, too
        whole = net.add("Round", node, net.add("Mul", node, x, 1 / scale))
        return net.add("Mul", node, net.add("Clip", node, whole, low, high), scale)
    if quantizer.bits < 8:  # whose grid ends before the byte
        x = net.add("Clip", node, x, low * scale, high * scale)
    grid = net.builder.constant(scale), net.builder.constant(zero_point, np.uint8)
    return net.add("DequantizeLinear", node, net.add("QuantizeLinear", node, x, *grid), *grid)


# ---- layers with weights ------------------------------------------------------------------------


@form("conv1d", "conv2d", "conv3d", "quantizedconv1d", "quantizedconv2d")
def _convolution(net: Network, node: fx.Node) -> str:
    conv = net.module(node)
    if not isinstance(conv, nn.modules.conv._ConvNd):
        net.refuse(node, "a weight applied by a function call")
    x, axes = net.value(net.source(node), node), len(conv.kernel_size)
    reversed_pads = conv._reversed_padding_repeated_twice  # last axis first: begin, end
    begin, end = reversed_pads[::2][::-1], reversed_pads[1::2][::-1]
    if conv.padding_mode != "zeros" and any(reversed_pads):
        x = _pad(net, node, x, begin, end, conv.padding_mode)
        begin = end = [0] * axes
    about: dict[str, Any] = {
        "strides": list(conv.stride), "dilations": list(conv.dilation), "pads": [*begin, *end],
        "group": conv.groups,
    }  # fmt: skip
    ones, none = [1] * axes, [0] * 2 * axes  # what ONNX takes where nothing is said
    usual = {"strides": ones, "dilations": ones, "pads": none, "group": 1}
    return net.weighted(node, "Conv", x, **{k: v for k, v in about.items() if v != usual[k]})


@form("linear", "quantizedlinear")
def _linear(net: Network, node: fx.Node) -> str:
    if not isinstance(net.module(node), nn.Linear):
        net.refuse(node, "a weight applied by a function call")
    x = net.value(net.source(node), node)
    if len(net.shape(node)) == 2:
        return net.weighted(node, "Gemm", x, transB=1)
    return net.weighted(node, "MatMul", x, axis=1)


@form(*NORMS)
def _norm(net: Network, node: fx.Node) -> str:
    """One that goes into no layer: x * scale + shift."""
    made = scale_and_shift(net.module(node))
    if made is None:
        net.refuse(node, "it has no statistics of its own")
    return _scaled(net, node, *made)


@form("batchnorm")
def _norm_by_call(net: Network, node: fx.Node) -> str:
    mean, variance, weight, bias, training, _, eps = net.given(
        node, running_mean=None, running_var=None, weight=None, bias=None, training=False,
        momentum=0.1, eps=1e-5,
    )  # fmt: skip
    if training or not isinstance(mean, Tensor) or not isinstance(variance, Tensor):
        net.refuse(node, "it has no statistics of its own")
    return _scaled(net, node, *affine(mean, variance, weight, bias, eps))


def _scaled(net: Network, node: fx.Node, scale: Tensor, shift: Tensor) -> str:
    x = net.source(node)
    shape = (-1, *(1,) * (len(net.shape(x)) - 2))
    factor, term = (p.reshape(shape) for p in (scale, shift))
    product = net.add("Mul", node, x, net.builder.constant(factor))
    return net.add("Add", node, product, net.builder.constant(term))


# ---- what passes its input on -------------------------------------------------------------------


@form(
    *"identity dropout dropout1d dropout2d dropout3d alphadropout featurealphadropout contiguous "
    "clone detach positive stochasticdepth dropblock2d batchnorminput".split()
)
def _nothing(net: Network, node: fx.Node) -> str:
    place = {"stochasticdepth": 3, "dropblock2d": 5}.get(net.word(node), 2)  # of `training`
    if "drop" in net.word(node) and net.module(node) is None:
        given = node.args[place] if len(node.args) > place else True
        if node.kwargs.get("training", given):
            net.refuse(node, "it draws at random")
    return net.value(net.source(node), node)


@form("float", "to", "type", "typeas")
def _type(net: Network, node: fx.Node) -> str:
    with_type = {a for a in (*node.args[1:], *node.kwargs.values()) if isinstance(a, torch.dtype)}
    if with_type - {torch.float32}:
        net.refuse(node, "another type than float32")
    return net.value(net.source(node), node)


@form(
    *"flatten view viewas reshape reshapeas ravel unflatten squeeze unsqueeze".split()
)  # the numbers stay in their order
def _reshape(net: Network, node: fx.Node) -> str:
    shape = net.shape(node)
    if shape == net.shape(net.source(node)):
        return net.value(net.source(node), node)
    return net.add("Reshape", node, net.source(node), net.numbers(shape))


@form("transpose", "swapaxes", "swapdims", "permute", "t", "movedim", "moveaxis")
def _transpose(net: Network, node: fx.Node) -> str:
    x = net.source(node)
    order = torch.arange(len(net.shape(x)))
    like = torch.empty([1] * len(order)).expand(*[i + 2 for i in range(len(order))])
    args = [net.plain(a, node) for a in node.args[1:]]
    kwargs = {k: net.plain(v, node) for k, v in node.kwargs.items()}
    moved = getattr(like, str(getattr(node.target, "__name__", node.target)))(*args, **kwargs)
    return net.add("Transpose", node, x, perm=[size - 2 for size in moved.shape])


@form("channelshuffle")
def _channel_shuffle(net: Network, node: fx.Node) -> str:
    x, (groups,) = net.source(node), net.given(node, groups=1)
    _, channels, *places = net.shape(x)
    apart = net.numbers([0, groups, channels // groups, *places])
    apart = net.add("Reshape", node, x, apart)
    order = [0, 2, 1, *range(3, 3 + len(places))]
    turned = net.add("Transpose", node, apart, perm=order)
    return net.add("Reshape", node, turned, net.numbers([0, channels, *places]))


@form("getitem")
def _item(net: Network, node: fx.Node) -> str:
    """One of several tensors; or slices of one, with a reshape for single indices."""
    source, index = net.source(node), node.args[1]
    if isinstance(held := net.values.get(source), list):
        return held[net.plain(index, node)]
    index = net.plain(index, node)
    wanted = list(index) if isinstance(index, tuple) else [index]
    sizes = net.shape(source)
    real = sum(i is not None and i is not Ellipsis for i in wanted)
    if Ellipsis in wanted:
        at = wanted.index(Ellipsis)
        wanted[at : at + 1] = [slice(None)] * (len(sizes) - real)
    starts, ends, axes, steps, single = [], [], [], [], False
    axis = 0
    for each in wanted:
        if each is None:
            single = True
            continue
        if isinstance(each, bool) or not isinstance(each, int | slice):
            net.refuse(node, "an index that is neither a number nor a slice")
        if isinstance(each, int):
            single, each = True, slice(each, each + 1 if each != -1 else None)
        if each != slice(None):
            starts.append(each.start or 0)
            ends.append(np.iinfo(np.int64).max if each.stop is None else each.stop)
            axes.append(axis)
            steps.append(each.step or 1)
        axis += 1
    if 0 in axes or min(steps, default=1) < 1:
        net.refuse(node, "it chooses among the images, or walks backwards")
    x = net.value(source, node)
    if axes:
        x = net.add("Slice", node, x, *map(net.numbers, (starts, ends, axes, steps)))
    return net.add("Reshape", node, x, net.numbers(net.shape(node))) if single else x


@form("chunk", "split", "tensorsplit", "splitwithsizes")
def _split(net: Network, node: fx.Node) -> list[str]:
    whole, parts = net.shape(net.source(node)), net.shapes(node)
    first, second = (seen[node] for seen in net.seen)
    (axis,) = net.given(node, number=0, dim=0)[1:]
    axis = axis % len(whole)
    if len(first) != len(second) or axis == 0:
        net.refuse(node, "it parts the images")
    x = net.value(net.source(node), node)
    return net.builder.split(x, [part[axis] for part in parts], axis)


@form("cat", "concat", "concatenate")
def _concatenation(net: Network, node: fx.Node) -> str:
    terms = node.args[0] if node.args else node.kwargs.get("tensors")
    axis = (
        node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", node.kwargs.get("axis", 0))
    )
    if not isinstance(terms, tuple | list) or axis in (0, -len(net.shape(node))):
        net.refuse(node, "it joins the images")
    return net.add("Concat", node, *terms, axis=axis)


# ---- sums and products --------------------------------------------------------------------------


def _pair(kind: str, *, turned: bool = False) -> Form:
    def written(net: Network, node: fx.Node) -> str:
        a, b = _terms(net, node)
        return net.add(kind, node, *((b, a) if turned else (a, b)))

    return written


def _terms(net: Network, node: fx.Node) -> list[Any]:
    terms = [*node.args, *(v for k, v in node.kwargs.items() if k in ("other", "exponent"))]
    if len(terms) != 2 or node.kwargs.get("rounding_mode") is not None:
        net.refuse(node)
    alpha = net.plain(node.kwargs.get("alpha", 1), node)
    if alpha != 1:
        terms[1] = net.add("Mul", node, terms[1], alpha)
    return terms


for kind, words in {
    "Add": "add radd iadd", "Sub": "sub subtract isub", "Mul": "mul rmul imul multiply",
    "Div": "div itruediv truediv truedivide divide", "Pow": "pow ipow",
    "Max": "maximum fmax", "Min": "minimum fmin",
}.items():  # fmt: skip
    form(*words.split())(_pair(kind))
form("rsub")(_pair("Sub", turned=True))


def _comparison(kind: str) -> Form:
    """1 where it holds, and 0 elsewhere: what a mask is multiplied as."""

    def written(net: Network, node: fx.Node) -> str:
        true = net.add(kind, node, *_terms(net, node))
        return net.add("Cast", node, true, to=net.builder.onnx.TensorProto.FLOAT)

    return written


for kind, words in {
    "Greater": "gt greater", "GreaterOrEqual": "ge greaterequal",
    "Less": "lt less", "LessOrEqual": "le lessequal",
}.items():  # fmt: skip
    form(*words.split())(_comparison(kind))


@form("sum", "mean", "amax", "amin")
def _reduction(net: Network, node: fx.Node) -> str:
    kind = {"sum": "Sum", "mean": "Mean", "amax": "Max", "amin": "Min"}[net.word(node)]
    dims, keep = net.given(node, dim=None, keepdim=False)
    axes = _each(dims, 1) if dims is not None else []
    if not axes or 0 in axes or -len(net.shape(net.source(node))) in axes:
        net.refuse(node, "it goes over the images")
    x, axes_held = net.source(node), net.numbers(axes)
    return net.add(f"Reduce{kind}", node, x, axes_held, keepdims=int(keep))


# ---- activations --------------------------------------------------------------------------------


def _unary(kind: str, **attributes: Any) -> Form:
    return lambda net, node: net.add(kind, node, net.source(node), **attributes)


for word, kind in {
    "relu": "Relu", "sigmoid": "Sigmoid", "expit": "Sigmoid", "tanh": "Tanh", "exp": "Exp",
    "log": "Log", "sqrt": "Sqrt", "abs": "Abs", "absolute": "Abs", "neg": "Neg", "negative": "Neg",
    "erf": "Erf", "sign": "Sign", "round": "Round", "floor": "Floor", "ceil": "Ceil",
    "reciprocal": "Reciprocal", "softsign": "Softsign", "mish": "Mish", "hardswish": "HardSwish",
}.items():  # fmt: skip
    form(word)(_unary(kind))
form("hardsigmoid")(_unary("HardSigmoid", alpha=1 / 6, beta=0.5))
form("selu")(_unary("Selu"))


@form("square")
def _square(net: Network, node: fx.Node) -> str:
    return net.add("Mul", node, net.source(node), net.source(node))


@form("relu6")
def _relu6(net: Network, node: fx.Node) -> str:
    return net.add("Clip", node, net.source(node), 0.0, 6.0)


@form("hardtanh")
def _hardtanh(net: Network, node: fx.Node) -> str:
    return net.add("Clip", node, net.source(node), *net.given(node, min_val=-1.0, max_val=1.0))


@form("clamp", "clip", "clampmin", "clampmax")
def _clamp(net: Network, node: fx.Node) -> str:
    one = {"clampmin": "min", "clampmax": "max"}.get(net.word(node))
    names: dict[str, Any] = dict.fromkeys([one] if one else ["min", "max"])
    ends = dict(zip(names, net.given(node, **names), strict=True))
    x = net.value(net.source(node), node)
    for name, kind in (("min", "Max"), ("max", "Min")):
        if ends.get(name) is not None:
            x = net.add(kind, node, x, ends[name])
    return x


@form("leakyrelu")
def _leaky_relu(net: Network, node: fx.Node) -> str:
    (slope,) = net.given(node, negative_slope=0.01)
    return net.add("LeakyRelu", node, net.source(node), alpha=float(slope))


@form("prelu")
def _prelu(net: Network, node: fx.Node) -> str:
    (weight,), x = net.given(node, weight=None), net.source(node)
    if not isinstance(weight, Tensor):
        net.refuse(node)
    shape = (-1, *(1,) * (len(net.shape(x)) - 2)) if weight.numel() > 1 else (1,)
    slope = net.builder.constant(weight.detach().reshape(shape))
    return net.add("PRelu", node, x, slope)


@form("elu", "celu")
def _elu(net: Network, node: fx.Node) -> str:
    (alpha,) = net.given(node, alpha=1.0)
    return net.add(net.word(node).capitalize(), node, net.source(node), alpha=float(alpha))


@form("silu")
def _silu(net: Network, node: fx.Node) -> str:
    gate = net.add("Sigmoid", node, net.source(node))
    return net.add("Mul", node, net.source(node), gate)


@form("gelu")
def _gelu(net: Network, node: fx.Node) -> str:
    (how,) = net.given(node, approximate="none")
    return net.add("Gelu", node, net.source(node), approximate=how)


@form("softplus")
def _softplus(net: Network, node: fx.Node) -> str:
    beta, threshold = net.given(node, beta=1.0, threshold=20.0)
    if beta != 1 or threshold < 20:
        net.refuse(node, "another beta than 1")
    return net.add("Softplus", node, net.source(node))


@form("softmax", "logsoftmax")
def _softmax(net: Network, node: fx.Node) -> str:
    (axis,) = net.given(node, dim=None)
    if axis is None:
        net.refuse(node, "it does not say over which axis")
    kind = "LogSoftmax" if net.word(node) == "logsoftmax" else "Softmax"
    return net.add(kind, node, net.source(node), axis=axis)


# ---- pools and pads -----------------------------------------------------------------------------


def _pad(
    net: Network, node: fx.Node, x: str, begin: list[int], end: list[int], mode: str, value: Any = 0
) -> str:
    """Pad the last axes of x."""
    axes = len(net.shape(net.source(node))) - len(begin)
    pads = net.numbers([*[0] * axes, *begin, *[0] * axes, *end])
    known = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}
    if mode not in known or min(*begin, *end) < 0:
        net.refuse(node, f"padding of mode {mode}")
    fill = [net.builder.constant(float(value))] if mode == "constant" else []
    return net.add("Pad", node, x, pads, *fill, mode=known[mode])


@form(
    "pad", "zeropad1d", "zeropad2d", "constantpad1d", "constantpad2d", "reflectionpad1d",
    "reflectionpad2d", "replicationpad1d", "replicationpad2d",
)  # fmt: skip
def _padding(net: Network, node: fx.Node) -> str:
    module: Any = net.module(node)
    if module is None:
        pads, mode, value = net.given(node, pad=(), mode="constant", value=0)
    else:
        words = ("Reflection", "reflect"), ("Replication", "replicate")
        kind = type(module).__name__
        mode = next((mode for word, mode in words if word in kind), "constant")
        pads, value = module.padding, getattr(module, "value", 0)
    pads = [int(p) for p in pads]
    x = net.value(net.source(node), node)
    return _pad(net, node, x, pads[::2][::-1], pads[1::2][::-1], mode, value or 0)


def _pool(net: Network, node: fx.Node, **usual: Any) -> dict[str, Any]:
    """A pool's settings by ONNX's names, beside its own; padded where it rounds up."""
    usual = {"kernel_size": 1, "stride": None, "padding": 0, **usual}
    own = dict(zip(usual, net.given(node, **usual), strict=True))
    sizes, made = net.shape(net.source(node))[2:], net.shape(node)[2:]
    kernel, begin, dilation = (
        _each(v, len(sizes)) for v in (own["kernel_size"], own["padding"], own.get("dilation", 1))
    )
    stride = _each(own["stride"], len(sizes)) if own["stride"] not in (None, (), []) else kernel
    end = []
    for i, (size, count) in enumerate(zip(sizes, made, strict=True)):
        reach = (count - 1) * stride[i] + dilation[i] * (kernel[i] - 1) + 1
        end.append(max(begin[i], reach - size - begin[i]))
    about: dict[str, Any] = {"kernel_shape": kernel, "strides": stride, "pads": [*begin, *end]}
    if "dilation" in own:
        about["dilations"] = dilation
    elif end != begin:
        net.refuse(node, "its last windows reach beyond the map: ceil_mode")
    return own | {"about": about}


@form("maxpool1d", "maxpool2d", "maxpool3d")
def _max_pool(net: Network, node: fx.Node) -> str:
    pool = _pool(net, node, dilation=1, ceil_mode=False, return_indices=False)
    if pool["return_indices"]:
        net.refuse(node, "it gives indices")
    return net.add("MaxPool", node, net.source(node), **pool["about"])


def _means(net: Network, node: fx.Node, window: list[int]) -> str:
    """Means over windows that part a map. As a pool, OpenVINO would round them to a byte."""
    x, made = net.source(node), net.shape(node)[2:]
    if set(made) == {1}:
        axes = net.numbers(list(range(2, 2 + len(made))))
        return net.add("ReduceMean", node, x, axes, keepdims=1)
    parted = [0, net.shape(x)[1], *(n for pair in zip(made, window, strict=True) for n in pair)]
    apart = net.add("Reshape", node, x, net.numbers(parted))
    axes = net.numbers([3 + 2 * i for i in range(len(made))])
    return net.add("ReduceMean", node, apart, axes, keepdims=0)


@form("avgpool1d", "avgpool2d", "avgpool3d")
def _average_pool(net: Network, node: fx.Node) -> str:
    pool = _pool(net, node, ceil_mode=False, count_include_pad=True, divisor_override=None)
    if pool["divisor_override"] is not None:
        net.refuse(node, "a divisor of its own")
    about, made = pool["about"], net.shape(node)[2:]
    window = about["kernel_shape"]
    parts = [n * size for n, size in zip(made, window, strict=True)]
    apart = window == about["strides"] or set(made) == {1}
    if parts == net.shape(net.source(node))[2:] and apart and not any(about["pads"]):
        return _means(net, node, window)
    # Windows that overlap: where OpenVINO rounds what they give, the check refuses the file.
    counts = int(pool["count_include_pad"])
    return net.add("AveragePool", node, net.source(node), count_include_pad=counts, **about)


@form(*(f"adaptive{kind}pool{n}d" for kind in ("avg", "max") for n in (1, 2, 3)))
def _adaptive_pool(net: Network, node: fx.Node) -> str:
    kind = "Average" if "avg" in net.word(node) else "Max"
    if not isinstance(net.seen[0][node], torch.Size):
        net.refuse(node, "it gives indices")
    sizes, made = net.shape(net.source(node))[2:], net.shape(node)[2:]
    if any(size % out for size, out in zip(sizes, made, strict=True)):
        net.refuse(node, f"{sizes} places do not part into {made}")
    step = [size // out for size, out in zip(sizes, made, strict=True)]
    if kind == "Average":
        return _means(net, node, step)
    return net.add("MaxPool", node, net.source(node), kernel_shape=step, strides=step)
