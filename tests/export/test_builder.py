import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from akt_lab.export.builder import Builder
from akt_lab.export.weights import STORAGES, Codes


def value_of(builder, name):
    """What a builder's constants come to, computed by onnx's own reference."""
    builder.unpack()
    graph = onnx.helper.make_graph(
        builder.nodes, "g", [],
        [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)],
        list(builder.tensors.values()),
    )  # fmt: skip
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)])
    model.ir_version = 10
    return ReferenceEvaluator(model).run(None, {})[0]


@pytest.mark.parametrize("storage", STORAGES)
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


def test_what_is_packed_takes_its_bits():
    """Layers of two bit-widths, each unpacked as it was."""
    torch.manual_seed(0)
    builder, made = Builder(), []
    for bits, shape in ((3, (5, 7)), (2, (3,)), (3, (2, 2, 3)), (3, (1,))):
        values = torch.randint(0, 2**bits, shape)
        made.append((values, builder.add("Cast", builder.unpacked(values, bits), to=1)))
    for values, name in made:
        assert value_of(builder, name).tolist() == values.tolist()
    kind = onnx.TensorProto.UINT8
    held = [t for t in builder.tensors.values() if t.data_type == kind]
    assert sorted(len(t.raw_data) for t in held) == [2 * 1, 3 * 6]  # of 3 values and of 48


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
