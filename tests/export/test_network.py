import onnx
import pytest
import torch
from torch import nn

from akt_lab.errors import AktError
from akt_lab.export import here, to_onnx
from akt_lab.export.sums import affine


class Twice(nn.Module):
    """A layer that runs twice, a norm that two read, and sizes that hang on the batch's."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3)
        self.wide = nn.Conv2d(3, 4, 1)
        self.after = nn.BatchNorm2d(4)
        self.head = nn.Linear(4 * 25, 6)
        self.register_buffer("grid", torch.rand(5, 5))

    def forward(self, x):
        x = self.norm(self.conv(x)).relu()
        x = self.norm(self.conv(x)).relu()
        y = self.wide(x)
        x = (self.after(y) + y * self.grid[None, None]).relu()
        return self.head(x.reshape(x.shape[0], -1))


def made():
    torch.manual_seed(0)
    network, images = Twice(), torch.randn(16, 3, 5, 5)
    with torch.no_grad():
        network.after.weight.copy_(torch.tensor([1.0, -1, 0, 0.5]))
        network.train()(images)
    return network.eval(), images


def test_layers_that_run_twice_and_norms_that_stand_alone(student_of, agrees):
    network, images = made()
    agrees(network, images)
    agrees(student_of(network, images, 3), images)
    graph = onnx.load_from_string(to_onnx(student_of(network, images, 3), (3, 5, 5))).graph
    held = [t for t in graph.initializer if t.data_type == onnx.TensorProto.INT8]
    assert sorted(tuple(t.dims) for t in held) == [(3, 3, 3, 3), (4, 3, 1, 1), (6, 100)]


def test_a_network_that_gives_something_else_than_logits():
    with pytest.raises(AktError, match="gives 4 axes and not logits"):
        to_onnx(nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU()).eval(), (3, 4, 4))


def test_what_hangs_on_how_many_images_there_are():
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(12, 3)

        def forward(self, x):
            return self.head(x.flatten(1)) * x.shape[0]

    with pytest.raises(AktError, match="hangs on how many images there are"):
        to_onnx(Counts().eval(), (3, 2, 2))


def test_a_norm_is_a_scale_and_a_shift():
    norm = made()[0].after
    scale, shift = affine(norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.eps)
    x = torch.randn(2, 4, 5, 5)
    expected = norm(x)
    got = x * scale.view(-1, 1, 1) + shift.view(-1, 1, 1)
    assert torch.allclose(got, expected, atol=1e-6)
    bare = nn.BatchNorm2d(4, affine=False).eval()
    scale, shift = affine(bare.running_mean, bare.running_var, None, None, bare.eps)
    assert torch.allclose(scale, torch.ones(4))
    assert torch.equal(shift, torch.zeros(4))


def test_a_map_is_not_lost_in_the_layer_behind_it(student_of):
    network, images = made()
    student = student_of(network, images, 3)
    seen = []
    student.get_submodule("wide").register_forward_hook(lambda m, x, y: seen.append(y))
    student(images)
    for runtime in here():
        got = runtime(to_onnx(student, (3, 5, 5), maps=["wide"])).run(images.numpy())
        assert torch.allclose(torch.from_numpy(got["map/wide"]), seen[0], atol=1e-4)
