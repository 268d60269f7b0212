import gc
import weakref

import pytest
import torch
from torch import nn

from akt_lab.shared_graph import SharedGraph


def a_network(seed):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 1))
    return net.double()


def own(net):
    return {**dict(net.named_parameters()), **dict(net.named_buffers())}


def step_of(net):
    def step(x):
        loss = (2 * net(x)).square().mean()
        return loss, torch.autograd.grad(loss, list(net.parameters()))

    return step


@pytest.fixture
def as_traced(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda graph, **_: graph)


def test_a_graph_computes_with_the_tensors_that_it_is_given(as_traced):
    first, second, alike = a_network(0), a_network(1), a_network(1)
    x = torch.randn(8, 3, dtype=torch.float64)
    graph = SharedGraph(step_of(first), own(first), x)
    assert set(graph.names) == set(own(first))
    shared = graph.of(own(second))
    for _ in range(3):  # the batch norm's averages move from step to step
        x = torch.randn(8, 3, dtype=torch.float64)
        (loss, gradients), (expected, theirs) = shared(x), step_of(alike)(x)
        torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
        for gradient, other in zip(gradients, theirs, strict=True):
            torch.testing.assert_close(gradient, other, rtol=1e-9, atol=1e-12)
        for a, b in zip(second.buffers(), alike.buffers(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=0)
        with torch.no_grad():
            for network in (second, alike):
                network[0].weight.mul_(1.5)  # a later step sees the weights as they are then


def test_tracing_changes_nothing_nor_does_a_neighbour(as_traced):
    first, second = a_network(0), a_network(1)
    before = {name: tensor.clone() for name, tensor in own(first).items()}
    x = torch.randn(8, 3, dtype=torch.float64)
    graph = SharedGraph(step_of(first), own(first), x)
    graph.of(own(second))(x)
    assert all(torch.equal(tensor, before[name]) for name, tensor in own(first).items())


def test_a_graph_keeps_no_run_s_tensors(as_traced):
    net, x = a_network(0), torch.randn(8, 3, dtype=torch.float64)
    graph = SharedGraph(step_of(net), own(net), x)
    weight = weakref.ref(net[0].weight)
    del net
    gc.collect()
    assert weight() is None
    graph.of(own(a_network(1)))(x)


def test_what_is_not_named_is_fixed(as_traced):
    net, factor = a_network(0), torch.tensor(2.0, dtype=torch.float64)
    x = torch.randn(8, 3, dtype=torch.float64)
    graph = SharedGraph(lambda x: net(x) * factor, own(net), x)
    with_factor = SharedGraph(lambda x: net(x) * factor, {**own(net), "factor": factor}, x)
    other = {**own(net), "factor": torch.tensor(4.0, dtype=torch.float64)}
    net.eval()  # too late: it was traced in training mode
    torch.testing.assert_close(2 * graph.of(other)(x), with_factor.of(other)(x))
