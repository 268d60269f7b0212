from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from akt_lab import image_pool as pool
from akt_lab import methods
from akt_lab.errors import DamagedError
from akt_lab.files import save_tensors
from akt_lab.graph import capture_bn_inputs, trace
from akt_lab.image_pool import ImagePool, RealImages, crop_and_flip, load_pool
from akt_lab.losses import bns_loss, channel_alignment, hast_image_terms, zeroq_image_terms
from akt_lab.methods import get_method
from akt_lab.runs.networks import prepare
from akt_lab.runs.training import _draw_holdout, summary, train
from akt_lab.settings import Settings
from akt_lab.step import losses_and_gradients

FEW = {"pool": 64, "pool_steps": 40}


def statistics_of(teacher, images):
    with capture_bn_inputs(teacher) as statistics, torch.no_grad():
        t = teacher(images)
    return t, statistics


@pytest.mark.parametrize("terms", [hast_image_terms, zeroq_image_terms])
def test_optimised_images_come_closer_to_the_teacher(digits, tmp_path, terms):
    teacher = trace(digits.teacher).requires_grad_(False)
    labels = torch.arange(32) % 10
    made = load_pool(teacher, terms, labels, (1, 16, 16), 40, 0, tmp_path, progress=False)
    noise = torch.randn(32, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    before, after = statistics_of(teacher, noise), statistics_of(teacher, made)
    assert bns_loss(after[1]) < 0.5 * bns_loss(before[1])
    if terms is hast_image_terms:
        assert (after[0].argmax(1) == labels).float().mean() > 0.9
    assert not teacher.training
    assert all(w.grad is None for w in teacher.parameters())


def test_made_once_and_kept(digits, tmp_path, monkeypatch):
    teacher = trace(digits.teacher).requires_grad_(False)
    labels = torch.arange(8)
    arguments = (hast_image_terms, labels, (1, 16, 16), 2)
    first = load_pool(teacher, *arguments, 0, tmp_path, progress=False)
    other = load_pool(teacher, *arguments, 1, tmp_path, progress=False)
    assert not torch.equal(first, other)
    assert len(list(tmp_path.iterdir())) == 2
    monkeypatch.setattr("akt_lab.image_pool.optimise", None)  # a second making would fail
    assert torch.equal(first, load_pool(teacher, *arguments, 0, tmp_path, progress=False))


def test_what_was_stopped_goes_on_chunk_by_chunk(digits, tmp_path, monkeypatch):
    teacher = trace(digits.teacher).requires_grad_(False)
    arguments = (teacher, hast_image_terms, torch.arange(8), (1, 16, 16), 2, 0)
    monkeypatch.setattr(pool, "CHUNK", 3)
    whole = load_pool(*arguments, tmp_path / "whole", progress=False)
    optimise, calls = pool.optimise, []

    def stopped(*given):
        calls.append(given[3].tolist())
        if len(calls) == 2:
            raise KeyboardInterrupt
        return optimise(*given)

    monkeypatch.setattr(pool, "optimise", stopped)
    with pytest.raises(KeyboardInterrupt):
        load_pool(*arguments, tmp_path / "parts", progress=False)
    assert torch.equal(load_pool(*arguments, tmp_path / "parts", progress=False), whole)
    assert calls == [[0, 1, 2], [3, 4, 5], [3, 4, 5], [6, 7]]


def test_images_for_choosing_are_never_drawn(digits):
    run = prepare(digits, Settings(method="hast", pool=8, pool_steps=2, batch_size=64))
    source = run.generator
    assert len(source.images) == 8
    assert len(source.held_out) == 2
    assert _draw_holdout(run) is source.held_out
    x, _ = ImagePool(source.images, source.labels, augment=False).draw(64, run.rng)
    assert not any(torch.equal(a, b) for a in x for b in source.held_out)


class Decoded:
    """Images that are decoded when they are indexed by a list, as a large folder's."""

    def __init__(self, images):
        self.images = images

    def __getitem__(self, chosen):
        assert isinstance(chosen, list)
        return self.images[chosen]


@pytest.mark.parametrize("kept", [lambda images: images, Decoded])
def test_real_images_are_normalised_as_drawn_and_held_out_of_every_class(kept):
    """Although a folder's come class by class."""
    labels = torch.arange(10).repeat_interleave(20)
    images = torch.arange(200, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 4, 4)
    source = RealImages(kept(images), labels, False, 60, lambda x: x.float() / 2)
    held = {int(x) for x in 2 * source.held_out[:, 0, 0, 0]}
    assert len(held) == 60
    assert labels[sorted(held)].unique().tolist() == [*range(10)]
    x, y = source.draw(2000, torch.Generator().manual_seed(0))
    numbers = (2 * x[:, 0, 0, 0]).long()
    assert {*numbers.tolist()} == {*range(200)} - held
    assert torch.equal(labels[numbers], y)
    assert torch.equal(source(x, y), x)
    assert not source.state_dict()  # nothing that a checkpoint would have to hold
    again = RealImages(kept(images), labels, False, 60, lambda x: x.float() / 2)
    assert torch.equal(again.held_out, source.held_out)
    flipped = RealImages(kept(images), labels, True, 0, lambda x: torch.arange(4.0).expand(x.shape))
    slopes = flipped.draw(64, torch.Generator().manual_seed(0))[0].diff(dim=3)[:, 0, 1, 1]
    assert slopes.min() < 0 < slopes.max()
    assert len(flipped.held_out) == 0


def test_crops_are_parts_of_the_image():
    """On a ramp, every crop is a ramp of at most the slope, and of values of the ramp."""
    ramp = torch.linspace(0, 1, 32).expand(64, 1, 32, 32)
    crops = crop_and_flip(ramp, torch.Generator().manual_seed(0))
    assert crops.shape == ramp.shape
    assert crops.min() >= -1e-5
    assert crops.max() <= 1 + 1e-5
    slopes = crops[:, 0, 16, 20] - crops[:, 0, 16, 12]
    whole = ramp[0, 0, 16, 20] - ramp[0, 0, 16, 12]
    assert (slopes.abs() <= whole * 1.01).all()
    assert (slopes.abs() >= whole * 0.5).all()
    assert 16 < (slopes < 0).sum() < 48  # about half are flipped


def test_a_pool_stands_where_a_generator_stands():
    images, labels = torch.randn(10, 3, 8, 8), torch.arange(10)
    source = ImagePool(images, labels, augment=False)
    x, y = source.draw(16, torch.Generator().manual_seed(0))
    assert torch.equal(source(x, y), images[y])
    assert not list(source.parameters())


def test_channel_alignment_by_hand():
    s, t = torch.ones(1, 2, 1, 1), torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
    unit = F.normalize(torch.ones(1, 2), dim=1)
    expected = 1000 * ((unit - torch.tensor([[1.0, 0.0]])) ** 2).mean()
    assert channel_alignment([s, s], [t, t])["alignment"].item() == pytest.approx(
        2 * expected.item()
    )


def test_hast_learns_on_images_moved_uphill_too(digits, monkeypatch):
    run = prepare(digits, Settings(method="hast", batch_size=16, **FEW))
    run.student(run.generator.images)  # ranges
    run.epoch = run.settings.warmup_epochs
    x, y = run.generator.draw(16, torch.Generator().manual_seed(0))
    seen = []
    run.student.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    both, _, gradients = losses_and_gradients(run, x.clone(), y)
    moved = (seen[1] - x).abs()
    assert torch.equal(seen[0], x)
    assert ((moved - 0.01).abs() < 1e-6).float().mean() > 0.5  # none where the gradient is 0
    assert moved.max() < 0.01 + 1e-6
    alone = replace(get_method("hast"), perturbation=0.0)
    monkeypatch.setattr(methods, "METHODS", {**methods.METHODS, "hast": alone})
    once, _, _ = losses_and_gradients(run, x.clone(), y)
    assert len(seen) == 3
    assert all(both[name] > once[name] > 0 for name in once)  # the sum of two passes
    assert all(g is not None and g.abs().sum() > 0 for g in gradients)


@pytest.mark.parametrize("method", ["hast", "hast+akt"])
def test_a_pool_method_trains_beyond_its_floor(digits, method):
    values = {"weight_bits": 3, "act_bits": 3, "batch_size": 32, "steps": 30, **FEW}
    floor = train(digits, Settings(method="ptq", epochs=1, batch_size=32, steps=30,
                                   weight_bits=3, act_bits=3), progress=False)  # fmt: skip
    done = train(digits, Settings(method=method, epochs=4, **values), progress=False)
    assert summary(done)["last"] > summary(floor)["last"]


def test_zeroq_is_ranges_and_nothing_else(digits):
    done = train(digits, Settings(method="zeroq", steps=4, **FEW), progress=False)
    weights = dict(digits.teacher.named_parameters())
    for name, weight in done.student.named_parameters():
        assert torch.equal(weight, weights[name])
    assert summary(done)["last"] > 30


def test_a_damaged_pool_is_refused_by_name_and_made_again_where_it_is_deleted(digits, tmp_path):
    arguments = digits.teacher, zeroq_image_terms, torch.arange(4), (1, 16, 16), 1, 0, tmp_path
    images = load_pool(*arguments, progress=False)
    (path,) = tmp_path.glob("pool-*/0.safetensors")
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamagedError, match=r"0.safetensors is damaged .*: delete it, and it is"):
        load_pool(*arguments, progress=False)
    for other in ({"images": images[:2]}, {"x": images}):
        save_tensors(path, other, {})
        with pytest.raises(DamagedError, match="it holds no such images"):
            load_pool(*arguments, progress=False)
    path.unlink()
    assert torch.equal(load_pool(*arguments, progress=False), images)
