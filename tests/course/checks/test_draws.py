import random

import numpy as np
import torch
from torch import nn

from akt_course.checks.draws import Draws, global_generators_kept


def test_nobody_else_moves_them():
    first, again = Draws(3), Draws(3)
    for draw in (lambda d: d.normal(2, 3), lambda d: d.uniform(4), lambda d: d.order(9)):
        torch.manual_seed(random.randrange(10**6))
        assert torch.equal(draw(first), draw(again))
    assert first.whole(3, 1000).unique().tolist() == [0, 1, 2]
    networks = [d.fill(nn.Linear(3, 2)) for d in (first, Draws(3), Draws(3))]
    assert torch.equal(networks[1].weight, networks[2].weight)
    assert not torch.equal(networks[0].weight, networks[1].weight)


def drawn():
    return random.random(), np.random.random(), torch.rand(1).item()  # noqa: NPY002


def test_global_generators_are_seeded_and_given_back():
    with global_generators_kept():
        inside = drawn()
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    with global_generators_kept():
        assert drawn() == inside
    assert random.getstate() == states[0]
    assert np.array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[2])
