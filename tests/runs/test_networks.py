import copy
import shutil
from dataclasses import replace

import pytest
import torch

from akt_lab.errors import AktError, UsageError
from akt_lab.generator import LowPass
from akt_lab.graph import capture_maps, residual_bodies, trace
from akt_lab.image_pool import RealImages
from akt_lab.runs import training
from akt_lab.runs.checkpoint import save
from akt_lab.runs.folder import Run
from akt_lab.runs.networks import (
    HOLDOUT,
    found,
    load_generator,
    load_student,
    make_networks,
    prepare,
)
from akt_lab.runs.training import train
from akt_lab.settings import Settings
from tests.conftest import SMALL


def test_a_loaded_student_keeps_the_maps_of_a_network_without_sums(digits, tmp_path):
    torch.manual_seed(0)
    plain = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 10),
    ).eval()  # fmt: skip
    bench, run = replace(digits, teacher=plain), Run.create(tmp_path / "run")
    train(bench, Settings(method="adadfq", **SMALL), run, progress=False)
    student, _ = load_student(run, bench)
    with torch.inference_mode(), capture_maps(student, residual_bodies(student)) as maps:
        student(digits.normalise(digits.images[:4]))
    assert min(x.min().item() for x in maps.values()) < 0  # before the ReLU, not after it


def test_networks_are_loaded_beside_the_run_s_own_teacher_alone(digits, tmp_path):
    run, other = Run.create(tmp_path / "run"), copy.deepcopy(digits.teacher)
    train(digits, Settings(method="ptq", **SMALL), run, progress=False)
    fewer = replace(digits, images=digits.images[:9], labels=digits.labels[:9])
    load_student(run, fewer)  # to be judged on other images
    with torch.no_grad():
        next(other.parameters()).add_(1)
    for load in (load_student, load_generator):
        with pytest.raises(AktError, match=r"the teacher's weights are not those that .*run was"):
            load(run, replace(digits, teacher=other))
    with pytest.raises(AktError, match="the evaluation images are not those"):
        train(fewer, Settings(method="ptq", **SMALL), run, progress=False)
    older = {name: value for name, value in run.record.items() if name != "fingerprints"}
    (run / "record.json").unlink()
    run.update_record(**older)
    load_student(run, replace(digits, teacher=other))  # nobody knows


def test_images_that_are_gone_are_made_again_and_it_shows(digits, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("AKT_LAB_CACHE", str(tmp_path))
    run = Run.create(tmp_path / "run")
    made = train(digits, Settings(method="hast", pool=8, pool_steps=2, **SMALL), run, False)
    load_generator(run, digits)
    assert "images" not in capsys.readouterr().err
    shutil.rmtree(tmp_path / "pools")
    assert torch.equal(load_generator(run, digits).images, made.generator.images)
    assert "images: 100%" in capsys.readouterr().err


# ---- real images: the ceiling ----


@pytest.mark.parametrize("method", ["real", "real+akt"])
def test_a_student_of_real_images_goes_on_to_the_same_bits(digits, tmp_path, monkeypatch, method):
    def stop(training, run):
        save(training, run)
        if training.epoch == 2:
            raise AktError("stopped")

    settings = Settings(method=method, **SMALL)
    whole = train(digits, settings, Run.create(tmp_path / "whole"), progress=False)
    assert isinstance(whole.generator, RealImages)
    assert whole.generator_optimizer is None
    assert torch.equal(whole.holdout, whole.generator.held_out)
    assert len(whole.holdout) == HOLDOUT
    run = Run.create(tmp_path / "stopped")
    with monkeypatch.context() as patch:
        patch.setattr("akt_lab.runs.training.save", stop)
        with pytest.raises(AktError, match="stopped"):
            train(digits, settings, run, progress=False)
    images, labels = digits.training
    others = replace(digits, read_training=lambda: (images.flip(0), labels.flip(0)))
    with pytest.raises(AktError, match=r"^the training images are not those that .*stopped was"):
        train(others, settings, run, progress=False)
    again = train(digits, settings, run, progress=False)
    for name, value in whole.student.state_dict().items():
        assert torch.equal(again.student.state_dict()[name], value), name
    assert again.evaluations == whole.evaluations
    assert set(run.entry("fingerprints")) == {"teacher", "images", "training"}
    student, _ = load_student(run, replace(digits, read_training=None))  # it has seen enough
    for name, value in student.state_dict().items():
        assert torch.equal(again.student.state_dict()[name], value), name


def test_the_other_methods_never_look_at_training_images(digits, tmp_path):
    def look():
        raise AssertionError

    bench = replace(digits, read_training=look)
    for method in ("ptq", "adadfq+akt", "hast"):
        few = {"pool": 8, "pool_steps": 2} if method == "hast" else {}
        run = Run.create(tmp_path / method)
        train(bench, Settings(method=method, **few, **SMALL), run, progress=False)
        assert set(run.entry("fingerprints")) == {"teacher", "images"}
    with pytest.raises(UsageError, match="method real trains on real images: give --train-data"):
        prepare(replace(digits, read_training=None), Settings(method="real", **SMALL))


# ---- what people bring ----


class Brought(torch.nn.Module):
    """A small residual network of two weights that are one."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.BatchNorm2d(4)
        self.one, self.two = torch.nn.Conv2d(4, 4, 1), torch.nn.Conv2d(4, 4, 1)
        self.two.weight = self.one.weight
        self.relu, self.head = torch.nn.ReLU(inplace=True), torch.nn.Linear(4 * 16 * 16, 10)
        self.register_buffer("wide", torch.ones(1).expand(4))

    def forward(self, x, features=False):
        x = self.relu(self.norm(self.conv(x)))
        x = x + self.relu(self.two(self.relu(self.one(x)))) * self.wide[:, None, None]
        return self.head(x.view(x.size(0), -1))


def brought(digits, network):
    torch.manual_seed(0)
    return replace(digits, teacher=network().eval())


@pytest.mark.parametrize("method", ["adadfq+akt", "hast"])
def test_tied_weights_stay_tied_and_go_on_to_the_same_bits(digits, tmp_path, monkeypatch, method):
    def stop(training, run):
        save(training, run)
        if training.epoch == 2:
            raise AktError("stopped")

    monkeypatch.setenv("AKT_LAB_CACHE", str(tmp_path))
    bench = brought(digits, Brought)
    bench = replace(bench, teacher=trace(bench.teacher))  # as `load_bench` does: it asks for NCHW
    settings = Settings(method=method, pool=8, pool_steps=2, **SMALL)
    whole = train(bench, settings, Run.create(tmp_path / "whole"), progress=False)
    run = Run.create(tmp_path / "stopped")
    with monkeypatch.context() as patch:
        patch.setattr("akt_lab.runs.training.save", stop)
        with pytest.raises(AktError, match="stopped"):
            train(bench, settings, run, progress=False)
    again = train(bench, settings, run, progress=False)
    assert again.student.one.weight is again.student.two.weight
    for name, value in whole.student.state_dict().items():
        assert torch.equal(again.student.state_dict()[name], value), name
    student, _ = load_student(run, bench)
    assert torch.equal(student.two.weight, whole.student.one.weight)


def test_what_a_run_finds_in_its_networks(digits):
    bench = brought(digits, Brought)
    bench = replace(bench, teacher=trace(bench.teacher))
    training = prepare(bench, Settings(method="adadfq+akt", **SMALL))
    seen = found(training)
    assert seen.layers == ["conv", "one", "two", "head"]
    assert seen.activations == ["relu", "relu_1", "relu_2"]
    assert (seen.float_weights, seen.float_activations) == ([], [])
    assert seen.maps == ["body_0"]
    assert seen.batch_norms == (1, 1)
    assert found(prepare(bench, Settings(method="adadfq", **SMALL))).maps == []


def test_an_equalized_teacher_and_its_student(digits, tmp_path, monkeypatch):
    def stop(training, run):
        save(training, run)
        if training.epoch == 2:
            raise AktError("stopped")

    settings = Settings(method="adadfq+akt", equalize=True, **SMALL)
    teacher, student = make_networks(digits, settings)
    images = digits.normalise(digits.images[:4])
    layers = residual_bodies(student)
    _, rounded = make_networks(digits, replace(settings, act_bits=8, weight_bits=8))
    with torch.no_grad():
        assert torch.allclose(teacher(images), digits.teacher(images), 1e-4, 1e-4)
        with capture_maps(teacher, layers) as maps, capture_maps(rounded, layers) as partners:
            teacher(images), rounded(images)
        with capture_maps(digits.teacher, layers) as unlike:
            digits.teacher(images)
    for name, x in maps.items():  # in one scale, and not in the given teacher's
        assert 2 * (partners[name] - x).norm() < (unlike[name] - x).norm()
    assert found(prepare(digits, settings)).equalized == teacher.meta["equalized"] == 6

    whole = train(digits, settings, Run.create(tmp_path / "whole"), progress=False)
    run = Run.create(tmp_path / "stopped")
    with monkeypatch.context() as patch:
        patch.setattr("akt_lab.runs.training.save", stop)
        with pytest.raises(AktError, match="stopped"):
            train(digits, settings, run, progress=False)
    train(digits, settings, run, progress=False)
    loaded, _ = load_student(Run.open(run.folder), digits)
    for name, value in whole.student.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    with torch.no_grad():
        assert torch.equal(loaded(images), whole.student(images))


class Random(torch.nn.Sequential):
    def forward(self, x):
        return super().forward(torch.nn.functional.dropout(x, 0.5))


class Remembering(torch.nn.Sequential):
    """Adds the logits of the images before."""

    kept = 0

    def forward(self, x):
        now, kept = super().forward(x), self.kept
        self.kept = now.detach()
        return now + kept


class Hooked(torch.nn.Sequential):
    """Reads what a hook has kept of a layer: torch.fx runs no layer."""

    def __init__(self, *layers):
        super().__init__(*layers)
        self[0].register_forward_hook(self.keep)

    def keep(self, layer, inputs, output):
        self.kept = output

    def forward(self, x):
        return super().forward(x) + self.kept.mean((2, 3)).sum(1, keepdim=True)


class Stale(Hooked):
    def forward(self, x):
        torch.nn.Sequential.forward(self, x)
        return self[3](self.kept.flatten(1))


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (Random, "other logits for the same image each time"),
        (Remembering, "other logits for the same image each time"),
        (Hooked, "something else than its graph"),
        (Stale, "not from the images"),
    ],
)
def test_a_teacher_that_its_graph_does_not_compute_is_refused(digits, network, words):
    layers = torch.nn.Conv2d(1, 4, 16), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(4, 10)
    bench = replace(digits, teacher=network(*layers).eval())
    with torch.no_grad():
        bench.teacher(bench.normalise(bench.images[:1]))
    with pytest.raises(AktError, match=words):
        make_networks(bench, Settings())


def test_every_image_of_a_filtered_run_is_filtered(digits, tmp_path):
    """Those of a pool, held out or not, and those of a generator that is loaded."""
    few = {"pool": 8, "pool_steps": 2, **SMALL}
    plain, filtered = (
        prepare(digits, Settings(method="hast", low_pass=cutoff, **few)).generator
        for cutoff in (0.0, 2.0)
    )
    low_pass = LowPass(digits.image_size, 2.0)
    for name in ("images", "held_out"):
        both = getattr(plain, name), getattr(filtered, name)
        assert len(both[0])
        torch.testing.assert_close(low_pass(both[0]), both[1], rtol=0, atol=1e-6)
    run = Run.create(tmp_path / "run")
    train(digits, Settings(method="ptq", low_pass=2.0, **SMALL), run, progress=False)
    source = load_generator(run, digits)
    noise = source.draw(4, torch.Generator().manual_seed(0))
    images, unfiltered = source(*noise), source.body[:-1]
    assert isinstance(source.body[-1], LowPass)
    h = source.linear(source.embedding(noise[1]) * noise[0]).view(4, 128, source.start, -1)
    torch.testing.assert_close(images, low_pass(unfiltered(h)), rtol=0, atol=1e-5)


def test_the_student_that_is_loaded_is_the_averaged_one(digits, tmp_path, monkeypatch):
    """From the end of a run, from a checkpoint, and from a kept epoch."""
    run = Run.create(tmp_path / "run")
    settings = Settings(method="adadfq", average=0.5, **SMALL)
    learnt = []
    monkeypatch.setattr(
        training, "save", lambda t, r: (save(t, r), learnt.append(copy.deepcopy(t.student)))
    )
    done = training.train(digits, settings, run, progress=False, watch=True)
    ended = load_student(run, digits)[0].state_dict()
    (run / "student.safetensors").unlink()
    ways = ended, *(load_student(run, digits, epoch)[0].state_dict() for epoch in (None, 3))
    for name, weight in done.student.named_parameters():
        assert all(torch.equal(way[name], weight) for way in ways)
    assert done.evaluations[-1]["accuracy"] == training.evaluate(done.student, digits)
    pairs = zip(done.student.parameters(), learnt[-1].parameters(), strict=True)
    assert not any(torch.equal(*pair) for pair in pairs)
    early = load_student(run, digits, 1)[0]  # the warm-up's end: there is no average yet
    pairs = zip(early.parameters(), learnt[0].parameters(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)
