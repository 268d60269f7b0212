"""A traced network as an ONNX graph, node by node: the walk, and what each node's form may ask."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, fx, nn

from akt_lab.errors import AktError
from akt_lab.export.builder import IMAGES, LOGITS, Builder
from akt_lab.export.sums import SumQuantizer, norm_behind, reads, scale_and_shift, step_of
from akt_lab.export.weights import Codes, codes_of
from akt_lab.graph import from_images, operation
from akt_lab.graph.operations import layer
from akt_lab.quantizer.layers import ActivationQuantizer, QuantizedWeight

BATCHES = (2, 3)  # what differs between them hangs on the size of the batch
NORMS = ("batchnorm1d", "batchnorm2d", "batchnorm3d", "evalbatchnorm2d", "syncbatchnorm")


class _Watched(fx.Interpreter):
    """Runs a network and keeps, of each node, what it needs: shapes, numbers, constants."""

    def __init__(self, network: fx.GraphModule) -> None:
        super().__init__(network)
        self.images = from_images(network)
        self.seen: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)

        def keep(value: Any) -> Any:
            if isinstance(value, tuple | list) and not isinstance(value, torch.Size):
                return [keep(v) for v in value]
            if isinstance(value, Tensor) and n in self.images:
                return value.shape
            return value.detach().clone() if isinstance(value, Tensor) else value

        self.seen[n] = keep(result)
        return result


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and bool(((a == b) | (a != a)).all())
    return type(a) is type(b) and bool(a == b)


class Network:
    """What the forms of operations write with: the network, its shapes, the graph so far.

    Attributes:
        network: from `trace` or `quantize_model`.
        builder: what has been written.
        storage: how quantized weights are held, one of `STORAGES`.
        keep: nodes whose own values must be in the file.
        values: the ONNX name of each node's value, or of several.
        folded: names of the batch norms that went into the layer before them.
    """

    def __init__(
        self, network: fx.GraphModule, shape: Sequence[int], storage: str, keep: set[fx.Node]
    ) -> None:
        """`shape` is (channels, H, W) of an image."""
        self.network, self.storage, self.keep = network, storage, keep
        self.builder = Builder()
        self.images = from_images(network)
        self.values: dict[fx.Node, Any] = {}
        self.folded: dict[fx.Node, fx.Node] = {}  # a layer, and the norm that goes into it
        self.weights: dict[Any, tuple[str, Tensor | None]] = {}
        device = next(iter(network.parameters())).device
        self.seen = []
        with torch.no_grad():
            for batch in BATCHES:
                watched = _Watched(network)
                watched.run(torch.zeros(batch, *shape, device=device))
                self.seen.append(watched.seen)

    # ---- what a form asks ------------------------------------------------------------------------

    def refuse(self, node: fx.Node, why: str = "") -> NoReturn:
        """Say that an operation has no ONNX form here."""
        name, where = operation(self.network, node), str(node.target)
        where = where if node.op == "call_module" else node.name
        raise AktError(f"{where}: {name or node.op} has no ONNX form here" + (why and f" ({why})"))

    def word(self, node: fx.Node) -> str:
        """What a node does, in one word."""
        return operation(self.network, node)

    def module(self, node: fx.Node) -> nn.Module | None:
        """The layer that a node calls, if it calls one."""
        return layer(self.network, node)

    def shape(self, node: fx.Node) -> list[int]:
        """Of what a node gives, -1 in the batch's place.

        Raises:
            AktError: where more than one of its sizes hangs on the batch's.
        """
        return self._shape(node, *(seen[node] for seen in self.seen))

    def shapes(self, node: fx.Node) -> list[list[int]]:
        """The same of a node that gives several tensors."""
        return [
            self._shape(node, *pair) for pair in zip(*(s[node] for s in self.seen), strict=True)
        ]

    def _shape(self, node: fx.Node, one: torch.Size, two: torch.Size) -> list[int]:
        if not isinstance(one, torch.Size):
            self.refuse(node, "it gives no tensor")
        sizes = [a if a == b else -1 for a, b in zip(one, two, strict=True)]
        if sizes.count(-1) > 1:
            self.refuse(node, "several of its sizes hang on how many images there are")
        return sizes

    def plain(self, value: Any, node: fx.Node) -> Any:
        """An argument, the numbers in it that are computed from shapes put in their place."""
        if isinstance(value, tuple | list):
            return tuple(self.plain(v, node) for v in value)
        if isinstance(value, slice):
            return slice(*(self.plain(v, node) for v in (value.start, value.stop, value.step)))
        if not isinstance(value, fx.Node) or value in self.images:
            return value
        one, two = (seen[value] for seen in self.seen)
        if not _same(one, two):
            self.refuse(node, "it hangs on how many images there are")
        return one

    def given(self, node: fx.Node, **usual: Any) -> list[Any]:
        """An operation's settings: a layer's attributes, or what follows the call's first argument.

        `usual` names them in the order of the function's arguments, with their defaults.
        """
        module = self.module(node)
        if module is not None:
            return [getattr(module, name, default) for name, default in usual.items()]
        rest = dict(zip(usual, node.args[1:], strict=False))
        found = {**usual, **rest, **{k: v for k, v in node.kwargs.items() if k in usual}}
        return [self.plain(found[name], node) for name in usual]

    def source(self, node: fx.Node) -> fx.Node:
        """The tensor that an operation of one tensor reads."""
        first = node.args[0] if node.args else next(iter(node.kwargs.values()))
        if not isinstance(first, fx.Node):
            self.refuse(node)
        return first

    def value(self, given: Any, node: fx.Node) -> str:
        """The ONNX name of an argument: of what a node gives, or of a constant."""
        if isinstance(given, fx.Node) and given in self.values:
            return self.values[given]
        given = self.plain(given, node)
        if isinstance(given, bool | int | float):
            return self.builder.constant(float(given))
        if not isinstance(given, Tensor):
            self.refuse(node)
        return self.builder.constant(given)

    def add(
        self, kind: str, node: fx.Node, *inputs: Any, label: str = "", **attributes: Any
    ) -> str:
        """Write an operation on nodes, names, numbers and tensors; the name of what it gives."""
        names = [i if isinstance(i, str) else self.value(i, node) for i in inputs]
        return self.builder.add(kind, *names, label=label, **attributes)

    def numbers(self, values: Any) -> str:
        """A constant of whole numbers: axes, sizes, pads."""
        return self.builder.constant(values, np.int64)

    # ---- batch norms -----------------------------------------------------------------------------

    def norm_behind(self, node: fx.Node) -> fx.Node | None:
        """The batch norm that can go into a layer: all that reads what the layer gives."""
        conv = isinstance(self.module(node), nn.modules.conv._ConvNd)
        channels_second = conv or len(self.shape(node)) == 2
        return (
            norm_behind(self.network, node) if channels_second and node not in self.keep else None
        )

    def whole_step(self, node: fx.Node, norm: fx.Node | None) -> Tensor | None:
        """The step of a layer's sums, (C_out,), if what it reads and what it gives are rounded."""
        quantizer, users = reads(self.network, node), list((norm or node).users)
        if (
            quantizer is None
            or self.storage == "float"
            or not isinstance(self.module(users[0]), SumQuantizer)
        ):
            return None
        return step_of(self.module(node), quantizer, norm and self.module(norm))  # type: ignore

    def weighted(
        self, node: fx.Node, kind: str, x: str, *, axis: int = 0, **attributes: Any
    ) -> str:
        """A layer's sum of products, and behind it the shift: its bias, and the norm's.

        The norm's scale goes into that of the weight's grid, which is exact. The shift stays an
        addition: as the layer's own bias, ONNX Runtime would round it to whole numbers. Where the
        sum is rounded, it is one.
        """
        module: Any = self.module(node)
        norm = self.norm_behind(node)
        if norm is not None:
            self.folded[node] = norm
        key = (module.weight, norm and norm.target, axis)
        if key not in self.weights:
            self.weights[key] = self._weight_and_shift(module, norm, axis)
        weight, shift = self.weights[key]
        label = str(node.target)
        if shift is None:
            return self.add(kind, node, x, weight, label=label, **attributes)
        if not isinstance(module, QuantizedWeight) and kind != "MatMul":
            return self.add(kind, node, x, weight, shift, label=label, **attributes)
        step = self.whole_step(node, norm)
        if step is not None and kind != "MatMul":
            codes = self.builder.constant((shift / step).round().long(), np.int32)
            scale = self.builder.constant(step)
            bias = self.builder.add("DequantizeLinear", codes, scale, axis=0)
            return self.add(kind, node, x, weight, bias, label=label, **attributes)
        shape = (-1, *(1,) * (len(self.shape(node)) - 2)) if axis == 0 else (-1,)
        product = self.add(kind, node, x, weight, label=label, **attributes)
        return self.add("Add", node, product, shift.reshape(shape))

    def _weight_and_shift(
        self, module: Any, norm: fx.Node | None, axis: int
    ) -> tuple[str, Tensor | None]:
        bias = None if module.bias is None else module.bias.detach().cpu()
        weight: Codes | Tensor = module.weight.detach().cpu()
        if isinstance(module, QuantizedWeight):
            weight = codes_of(module)
        if norm is not None:
            scale, shift = scale_and_shift(self.module(norm)) or (torch.ones(()), torch.zeros(()))
            bias = shift if bias is None else shift + bias * scale
            if isinstance(weight, Codes):
                weight = weight.times(scale)
            else:
                weight = weight * scale.view(-1, *(1,) * (weight.ndim - 1))
        if isinstance(weight, Codes):
            return self.builder.weight(weight, self.storage, axis), bias
        return self.builder.constant(weight.t() if axis else weight), bias


def write(
    network: fx.GraphModule,
    shape: Sequence[int],
    forms: Mapping[str, Callable[[Network, fx.Node], Any]],
    *,
    storage: str = "int8",
    maps: Sequence[str] = (),
    rounded: bool = False,
    metadata: Mapping[str, str] | None = None,
) -> Any:
    """An ONNX model of a traced network.

    Args:
        network: from `trace` or `quantize_model`, its ranges frozen, in eval mode.
        shape: (channels, H, W) of an image.
        forms: what writes each operation, by its word.
        storage: how quantized weights are held, one of `STORAGES`.
        maps: layers whose outputs the file gives, too.
        rounded: whether it gives every rounded activation, too.
        metadata: names and texts to go with it.

    Raises:
        AktError: an operation that has no form, by its name.
    """
    layers = {str(n.target): n for n in network.graph.nodes if n.op == "call_module"}
    shown = {name: layers[name] for name in maps}
    if rounded:
        modules = dict(network.named_modules())
        named = (n for n in layers if isinstance(modules[n], ActivationQuantizer))
        shown |= {name: layers[name] for name in named}
    net = Network(network, shape, storage, set(shown.values()))
    builder = net.builder
    (output,) = (n for n in network.graph.nodes if n.op == "output")
    norms = set()
    for node in network.graph.nodes:
        if node.op == "placeholder":
            net.values[node] = IMAGES
        elif node.op == "output":
            made = net.value(node.args[0], node)
            if builder.rename(made, LOGITS):
                net.values = {n: LOGITS if v == made else v for n, v in net.values.items()}
        elif node not in net.images:
            continue  # a constant, written where it is read
        elif node in norms:
            net.values[node] = net.values[net.source(node)]
        else:
            word = operation(network, node)
            if word not in forms:
                net.refuse(node)
            net.values[node] = forms[word](net, node)
            norms = set(net.folded.values())
    also = {}
    for name, node in shown.items():
        wanted = f"rounded/{name}" if rounded else f"map/{name}"
        builder.add("Identity", net.values[node], output=wanted)
        also[wanted] = net.shape(node)[1:]
    classes = net.shape(output.args[0])
    if len(classes) != 2:
        raise AktError(f"the network gives {len(classes)} axes and not logits (B, classes)")
    return builder.model(shape, classes[1], also, metadata or {})
