"""A training step as one graph that many runs share: each is given to it with its own tensors.

A traced step would hold the weights and buffers that it read as its constants. Here they become its
arguments, so that runs that differ in nothing but those (their seed, their rates, the weight of a
loss) need one graph, traced and compiled once. Delete it, and all still works.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx


class SharedGraph:
    """What a step does with its arguments, its backward passes included, compiled once.

    The same values up to rounding. Tracing takes seconds and compiling up to three minutes on two
    cores, so it pays for runs of some thousand steps, or for many runs.
    """

    def __init__(
        self, step: Callable[..., Any], tensors: Mapping[str, Tensor], *example: Tensor
    ) -> None:
        """Trace and compile it; no number changes, in `tensors` or elsewhere.

        Args:
            step: of tensors; whatever it reads that is not one of `tensors` is fixed now.
            tensors: weights, buffers and the like that it reads or writes, by names that they have
                in every run.
            example: its arguments, of the shapes that all later ones have.
        """
        with _unchanged(tensors):
            traced = make_fx(step, tracing_mode="fake", _allow_non_fake_inputs=True)(*example)
        self.names = _lift(traced, tensors)
        self._fast = torch.compile(traced, dynamic=False)

    def of(self, tensors: Mapping[str, Tensor]) -> Callable[..., Any]:
        """The step of the run to which `tensors` belong: read, and written, where they lie."""
        own = [tensors[name].detach() for name in self.names]

        def step(*args: Tensor) -> Any:
            with torch.no_grad():  # the backward passes are in the graph
                return self._fast(*own, *args)

        return step


def _lift(traced: fx.GraphModule, tensors: Mapping[str, Tensor]) -> list[str]:
    """Make arguments of the constants that are among `tensors`: their names, in that order."""
    names = {id(tensor): name for name, tensor in tensors.items()}
    graph, arguments = traced.graph, dict[str, fx.Node]()
    first, lifted = next(iter(graph.nodes)), set()
    for node in graph.find_nodes(op="get_attr"):
        name = names.get(id(getattr(traced, node.target)))
        if name is None:  # a number of the method's own, the same in every run
            continue
        if name not in arguments:
            with graph.inserting_before(first):
                arguments[name] = graph.placeholder(f"own_{len(arguments)}")
        node.replace_all_uses_with(arguments[name])
        graph.erase_node(node)
        lifted.add(node.target)
    for target in lifted:  # or the graph would keep the tensors of the run that it was traced for
        delattr(traced, target)
    traced.recompile()
    return list(arguments)


@contextmanager
def _unchanged(tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """What a batch norm counts inside the block, a tracing's mock batch, does not count."""
    before = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, tensor in tensors.items():
                if not torch.equal(tensor, before[name]):
                    tensor.copy_(before[name])
