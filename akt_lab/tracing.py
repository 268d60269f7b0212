"""A network as a graph: nothing is changed in place where it is captured, nor slow elsewhere."""

import copy
import operator
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, fx, nn

from akt_lab.errors import AktError

OUT_OF_PLACE: dict[Any, Any] = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
    torch.relu_: torch.relu,
    "relu_": "relu",
    "add_": "add",
    "mul_": "mul",
}


def trace(network: nn.Module) -> fx.GraphModule:
    """A copy of `network` in eval mode as a graph in which nothing is changed in place.

    A feature map that is captured then keeps its value: torchvision's ResNet adds the skip to its
    body's output in place. Names of layers and weights stay.

    Raises:
        AktError: if torch.fx cannot trace it (a branch on a tensor's value, say).
    """
    network = copy.deepcopy(network).eval()
    try:
        graph = fx.symbolic_trace(network)
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise AktError(
            f"torch.fx cannot trace {type(network).__name__} ({reason}): its forward must not "
            "branch or loop on the values of tensors"
        ) from error
    for module in graph.modules():
        if hasattr(module, "inplace"):
            module.inplace = False  # type: ignore[assignment]
    for node in graph.graph.nodes:
        if node.op in ("call_function", "call_method"):
            node.target = OUT_OF_PLACE.get(node.target, node.target)
        if node.kwargs.get("inplace"):
            node.kwargs = {**node.kwargs, "inplace": False}
    graph.recompile()
    return graph.eval()


class EvalBatchNorm2d(nn.BatchNorm2d):
    """A batch norm in eval mode as what it is then: a scale and a shift of each channel.

    Its gradient at the input is one pass over memory; PyTorch's kernel takes eight times as long.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        mean, variance = self.running_mean, self.running_var
        if self.training or mean is None or variance is None or x.dtype != variance.dtype:
            return super().forward(x)
        scale = self.weight * (variance + self.eps).rsqrt()
        shift = self.bias - mean * scale
        return torch.addcmul(shift.view(-1, 1, 1), x, scale.view(-1, 1, 1))


def speed_up(network: fx.GraphModule, keep: Collection[str] = ()) -> None:
    """The same values and gradients to rounding, with fewer passes over memory.

    Frozen batch norms become `EvalBatchNorm2d` (where the weights learn, PyTorch's kernel is the
    faster one), and ReLUs overwrite their input where nothing else reads it.

    Args:
        network: from `trace` or `quantize_model`; changed in place.
        keep: layers whose outputs must survive, because they will be captured.
    """
    for module in network.modules():
        if type(module) is nn.BatchNorm2d and module.affine and not module.weight.requires_grad:
            module.__class__ = EvalBatchNorm2d
    _relu_in_place(network, keep)


def _relu_in_place(network: fx.GraphModule, keep: Collection[str]) -> None:
    safe: dict[str, bool] = {}
    for node in network.graph.nodes:
        if node.op == "call_module" and type(network.get_submodule(node.target)) is nn.ReLU:
            safe[node.target] = safe.get(node.target, True) and _may_overwrite(network, node, keep)
    for name, is_safe in safe.items():
        network.get_submodule(name).inplace = is_safe  # type: ignore[assignment]


def _may_overwrite(network: fx.GraphModule, node: fx.Node, keep: Collection[str]) -> bool:
    """Its input is a sum or a batch norm's output, which no backward pass and no one else reads."""
    source = node.all_input_nodes[0]
    if len(source.users) > 1 or source.target in keep:
        return False
    if source.op == "call_module":
        return isinstance(network.get_submodule(str(source.target)), nn.BatchNorm2d)
    return source.op == "call_function" and source.target is operator.add
