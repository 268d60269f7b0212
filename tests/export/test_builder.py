import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from akt_lab.export.builder import Builder
from akt_lab.export.weights import Codes


def value_of(builder, name):
    """What a builder's constants come to, computed by onnx's own reference."""
    graph = onnx.helper.make_graph(
        builder.nodes, "g", [],
        [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)],
        list(builder.tensors.values()),
    )  # fmt: skip
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)])
    model.ir_version = 10
    return ReferenceEvaluator(model).run(None, {})[0]


@pytest.mark.parametrize("storage", ["int4", "int8", "float"])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(
    ("bits", "zero"), [(2, 0), (3, 7), (4, 0), (4, 8), (5, 31), (8, 3), (8, 128)]
)
def test_every_way_to_hold_a_weight(bits, zero, axis, storage):
    torch.manual_seed(0)
    zero_point = torch.tensor([zero, zero, 0, 2**bits - 1], dtype=torch.int32)
    if zero == 128:
        zero_point[2:] = 128
    q = torch.randint(0, 2**bits, (4, 3), dtype=torch.int32)
    weight = Codes(q - zero_point[:, None], torch.rand(4) + 0.1, zero_point, bits)
    builder = Builder()
    got = value_of(builder, builder.weight(weight, storage, axis))
    expected = weight.weight().t() if axis else weight.weight()
    assert np.allclose(got, expected.numpy(), rtol=1e-6)
    kinds = {each.data_type for each in builder.tensors.values()}
    halves = {onnx.TensorProto.INT4, onnx.TensorProto.UINT4}
    assert bool(kinds & halves) == (storage == "int4" and bits <= 4)


def test_a_constant_is_held_once():
    builder = Builder()
    assert builder.constant([1.0, 2.0]) == builder.constant(torch.tensor([1.0, 2.0]))
    assert builder.constant([1.0, 2.0]) != builder.constant([[1.0, 2.0]])
    assert builder.constant(1) != builder.constant(1, np.int64)
    assert builder.tensors[builder.constant(torch.tensor(3.0))].dims == []


def test_new_names():
    builder = Builder()
    x = builder.add("Relu", "images")
    y = builder.add("Relu", x, label="layer")
    builder.rename(y, "logits")
    assert [n.output[0] for n in builder.nodes] == [x, "logits"]
    assert [n.name for n in builder.nodes] == ["", "layer"]
    builder.rename("images", "copy")  # which has its name from outside
    assert builder.nodes[-1].op_type == "Identity"
