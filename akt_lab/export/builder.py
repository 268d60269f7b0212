"""An ONNX graph while it is written: its operations, its constants, its outputs."""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from akt_lab.errors import AktError
from akt_lab.export.weights import Codes, bit_planes, packed

OPSET, IR = 21, 10  # the first with 4-bit whole numbers
IMAGES, LOGITS = "images", "logits"


def needed(package: str) -> Any:
    """A package of the `export` extra.

    Raises:
        AktError: if it is not installed: says how it is.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise AktError(f"{package} is not installed: pip install -e '.[export]'") from error


class Builder:
    """Collects what an ONNX file holds. Values have the shortest names: a small file is all names.

    Attributes:
        onnx: the package.
        nodes: the operations; those of a layer with a weight have the layer's name.
        tensors: the constants, by name.
        packed: by their bits, whole numbers that lie in the file packed, and their names.
    """

    def __init__(self) -> None:
        """Raises AktError where onnx is not installed."""
        self.onnx = needed("onnx")
        self.nodes: list[Any] = []
        self.tensors: dict[str, Any] = {}
        self.held: dict[Any, str] = {}
        self.labels: dict[str, int] = {}
        self.packed: dict[int, list[tuple[str, torch.Tensor]]] = {}
        self.count = 0

    def name(self) -> str:
        """A new one."""
        self.count += 1
        return np.base_repr(self.count, 36).lower()

    def add(
        self, kind: str, *inputs: str, label: str = "", output: str = "", **attributes: Any
    ) -> str:
        """An operation; the name of what it gives. A `label` that is taken gets a number."""
        output = output or self.name()
        if label:
            self.labels[label] = self.labels.get(label, 0) + 1
            label += f":{self.labels[label]}" if self.labels[label] > 1 else ""
        make = self.onnx.helper.make_node
        self.nodes.append(make(kind, list(inputs), [output], name=label or None, **attributes))
        return output

    def rename(self, name: str, wanted: str) -> bool:
        """Give what has a name another one, if it is no input, nor a constant: those are copied."""
        if name in (IMAGES, LOGITS) or name in self.tensors:
            self.add("Identity", name, output=wanted)
            return False
        for node in self.nodes:
            for names in (node.input, node.output):
                names[:] = [wanted if n == name else n for n in names]
        return True

    def split(self, x: str, sizes: Sequence[int], axis: int) -> list[str]:
        """Parts of `x` along an axis; their names."""
        outputs = [self.name() for _ in sizes]
        held = self.constant(sizes, np.int64)
        make = self.onnx.helper.make_node
        self.nodes.append(make("Split", [x, held], outputs, axis=axis))
        return outputs

    def constant(self, values: Any, dtype: Any = np.float32) -> str:
        """A constant from numbers, an array or a tensor; the same one twice is held once."""
        if isinstance(values, torch.Tensor):
            values = values.detach().cpu().contiguous().numpy()
        array = np.ascontiguousarray(np.asarray(values, dtype)).reshape(np.shape(values))
        key = array.tobytes(), array.dtype, array.shape
        if key not in self.held:
            self.held[key] = name = self.name()
            self.tensors[name] = self.onnx.numpy_helper.from_array(array, name)
        return self.held[key]

    def nibbles(self, values: torch.Tensor, signed: bool) -> str:
        """A constant of 4-bit whole numbers."""
        kind = self.onnx.TensorProto.INT4 if signed else self.onnx.TensorProto.UINT4
        name, make = self.name(), self.onnx.helper.make_tensor
        self.tensors[name] = make(name, kind, list(values.shape), packed(values), raw=True)
        return name

    def unpacked(self, values: torch.Tensor, bits: int) -> str:
        """Whole numbers from 0 to 2^bits - 1, each in its bits in the file; int32 where read."""
        name = self.name()
        self.packed.setdefault(bits, []).append((name, values))
        return self.add("Reshape", name, self.constant(values.shape, np.int64))

    def unpack(self) -> None:
        """Write, before all else, what unpacks them: those of as many bits at once.

        By arithmetic: of shifts of bytes OpenVINO (2026.4) makes other numbers.
        """
        after, self.nodes = self.nodes, []
        while self.packed:
            bits, held = self.packed.popitem()
            names, values = [name for name, _ in held], [v.flatten() for _, v in held]
            sizes = [len(v) for v in values]
            if spare := -sum(sizes) % 8:
                names, sizes = [*names, self.name()], [*sizes, spare]
            planes = self.constant(bit_planes(torch.cat(values), bits).unsqueeze(2), np.uint8)
            eight, two, places = (
                self.constant(c, np.int32)
                for c in (2 ** torch.arange(8), 2, 2 ** torch.arange(bits).view(-1, 1, 1))
            )
            x = self.add("Cast", planes, to=self.onnx.TensorProto.INT32)
            x = self.add("Mod", self.add("Div", x, eight), two)  # (bits, M, 8): each bit
            x = self.add("Mul", x, places)
            x = self.add("ReduceSum", x, self.constant([0], np.int64), keepdims=0)
            x = self.add("Reshape", x, self.constant([-1], np.int64))
            split = self.constant(sizes, np.int64)
            self.nodes.append(self.onnx.helper.make_node("Split", [x, split], names, axis=0))
        self.nodes += after

    def weight(self, weight: Codes, storage: str, axis: int = 0) -> str:
        """A layer's rounded weight, from whole numbers, a scale for each index of `axis`.

        With `packed`, weights of at most 7 bits take their bits, with `int4` those of at most 4
        half a byte, and become int8 when the file is loaded; `float` keeps none. With axis 1 the
        weight is (C_in, C_out).
        """
        codes, zero = weight.codes, weight.zero_point.view(-1, *(1,) * (weight.codes.ndim - 1))
        if axis:
            codes, zero = codes.t(), zero.t()
        if storage == "float":
            return self.constant(weight.weight().t() if axis else weight.weight())
        int8, int32 = self.onnx.TensorProto.INT8, self.onnx.TensorProto.INT32
        scale, own_zero = self.constant(weight.scale), []
        if storage == "packed" and weight.bits < 8:
            q, z = (self.unpacked(values, weight.bits) for values in (codes + zero, zero))
            held = self.add("Cast", self.add("Sub", q, z), to=int8)
        elif storage == "int4" and weight.fits(4):
            held = self.add("Cast", self.nibbles(codes, signed=True), to=int8)
        elif storage == "int4" and weight.bits <= 4:  # q and zero points, all from 0 to 15
            parts = (self.nibbles(values, signed=False) for values in (codes + zero, zero))
            q, z = (self.add("Cast", part, to=int32) for part in parts)
            held = self.add("Cast", self.add("Sub", q, z), to=int8)
        elif weight.fits(8):
            held = self.constant(codes, np.int8)
        else:  # of 8 bits, on a grid whose zero is not near its middle
            held = self.constant(codes + zero, np.uint8)
            own_zero = [self.constant(weight.zero_point, np.uint8)]
        return self.add("DequantizeLinear", held, scale, *own_zero, axis=axis)

    def model(
        self,
        shape: Sequence[int],
        classes: int,
        also: Mapping[str, Sequence[int]],
        metadata: Mapping[str, str],
    ) -> Any:
        """The whole, checked by onnx.

        Args:
            shape: (channels, H, W) of an image.
            classes: how many logits there are.
            also: further outputs, and their shapes without the batch's.
            metadata: names and texts.
        """
        self.unpack()
        info = self.onnx.helper.make_tensor_value_info
        kind, helper = self.onnx.TensorProto.FLOAT, self.onnx.helper
        given = [info(IMAGES, kind, ["batch", *shape])]
        outputs = {LOGITS: [classes], **also}
        made = [info(name, kind, ["batch", *sizes]) for name, sizes in outputs.items()]
        graph = helper.make_graph(self.nodes, "network", given, made, list(self.tensors.values()))
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR,
            producer_name="akt-lab",
        )  # fmt: skip
        helper.set_model_props(model, dict(metadata))
        self.onnx.checker.check_model(model)
        return model
