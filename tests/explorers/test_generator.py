"""The generator explorer's numbers, against the teacher itself."""

import pytest
import torch

from akt_lab.errors import AktError
from akt_lab.explorers import generator, generator_explorer
from akt_lab.graph import capture_bn_inputs
from akt_lab.losses import bns_loss
from akt_lab.runs.networks import load_generator


def test_generator_by_numbers(digits, runs):
    network = load_generator(runs[0], digits)
    real = generator.real_mismatch(digits, 3)
    view = generator.look(digits, network, 3, 5, real)
    z = torch.randn(10, network.latent, generator=torch.Generator().manual_seed(5))
    with torch.no_grad(), capture_bn_inputs(digits.teacher) as statistics:
        t = digits.teacher(network(z, torch.full((10,), 3)))
    assert view.confidence == pytest.approx(t.softmax(1)[:, 3].numpy(), abs=1e-5)
    assert view.mismatch.mean() == pytest.approx(bns_loss(statistics).item(), rel=1e-4)
    assert real.mean() < view.mismatch.mean()  # after nine steps nothing is learned yet
    assert view.images.shape == (10, 16, 16)


def test_generator_needs_a_run(digits):
    with pytest.raises(AktError, match="akt-lab demo"):
        generator_explorer([], digits)
