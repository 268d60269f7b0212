"""The random numbers of the checks, which no answer can disturb."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


class Draws:
    """A generator of a check's own: an answer that draws, or seeds, changes nothing of it.

    >>> first = Draws().normal(3)
    >>> _ = torch.manual_seed(7)
    >>> torch.equal(first, Draws().normal(3))
    True
    """

    def __init__(self, seed: int = 0) -> None:
        """The same numbers for the same seed."""
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers."""
        return torch.randn(shape, generator=self.generator)

    def uniform(self, *shape: int) -> Tensor:
        """Numbers from 0 to 1."""
        return torch.rand(shape, generator=self.generator)

    def whole(self, below: int, *shape: int) -> Tensor:
        """Whole numbers from 0, all less than `below`."""
        return torch.randint(below, shape, generator=self.generator)

    def order(self, count: int) -> Tensor:
        """The numbers from 0 to `count` - 1, shuffled."""
        return torch.randperm(count, generator=self.generator)

    def fill(self, network: Network) -> Network:
        """The same network, with normal numbers for its parameters."""
        for parameter in network.parameters():
            parameter.data.copy_(0.5 * self.normal(*parameter.shape))
        return network


@contextmanager
def global_generators_kept() -> Iterator[None]:
    """Within, those of Python, NumPy and PyTorch are seeded; afterwards they are as before."""
    of_python, of_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - the global one
    try:
        with torch.random.fork_rng(devices=[]):
            random.seed(0)
            np.random.seed(0)  # noqa: NPY002 - an answer may draw from it
            torch.manual_seed(0)
            yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)  # noqa: NPY002 - the global one
