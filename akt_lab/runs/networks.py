"""The networks of a run: before its first step, and as it left them."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from tqdm.auto import tqdm

from akt_lab.benches import Bench
from akt_lab.benches.bench import cache_folder
from akt_lab.equalize import equalize
from akt_lab.errors import AktError
from akt_lab.files import fill, load_tensors
from akt_lab.generator import Generator, LowPass
from akt_lab.graph import batch_norms, map_layers, residual_bodies, trace
from akt_lab.image_pool import ImagePool, RealImages, load_pool
from akt_lab.losses import LAMBDA, SHARED
from akt_lab.methods import get_method
from akt_lab.quantizer import (
    ActivationQuantizer,
    activations_in_float,
    learned_scales,
    quantize_model,
    quantized_activations,
    quantized_layers,
    settle_scales,
    stays_in_float,
)
from akt_lab.runs.checkpoint import AVERAGED, check_own, last_whole, load_epoch, under
from akt_lab.runs.folder import STUDENT, Run, check_made_with
from akt_lab.settings import Settings
from akt_lab.speed import speed_up
from akt_lab.step import Training

HOLDOUT = 256  # images, synthetic or real as the student's, set aside to choose without labels


def prepare(
    bench: Bench, settings: Settings, progress: bool = False, make_bar: Callable[..., Any] = tqdm
) -> Training:
    """The networks and optimisers of a new run, before its first step.

    Where the method's images are optimised once, they are made here, or found in the cache.
    """
    teacher, student = make_networks(bench, settings)
    layers = _maps(teacher, student, settings)
    for graph in (teacher, student):
        speed_up(graph, keep=layers)
        graph.to(device=bench.device, memory_format=torch.channels_last)  # type: ignore
    source = teacher
    if settings.equalize and get_method(settings.method).pool:  # the pool of those without it
        source = trace(bench.teacher).requires_grad_(False)
        speed_up(source)
        source.to(device=bench.device, memory_format=torch.channels_last)  # type: ignore
    generator = _image_source(source, bench, settings, progress, make_bar)
    generator.to(device=bench.device, memory_format=torch.channels_last)  # type: ignore
    adam = None
    if of_generator := list(generator.parameters()):
        adam = torch.optim.Adam(of_generator, settings.generator_lr, betas=(0.5, 0.999), fused=True)
    scales = learned_scales(student)
    weights = [w for w in student.parameters() if all(w is not scale for scale in scales)]
    groups: list[dict[str, Any]] = [{"params": weights}]
    if scales:
        groups += [{"params": scales, "lr": settings.range_lr, "weight_decay": 0.0}]
    sgd = torch.optim.SGD(
        groups,
        settings.student_lr,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        nesterov=settings.momentum > 0,
        fused=True,
    )
    rng = torch.Generator().manual_seed(settings.seed)
    lam = settings.lam if settings.uses_features else None
    if settings.uses_features and lam is None and settings.variant not in SHARED:
        lam = LAMBDA[settings.variant]  # the others have none: their first step finds it
    return Training(settings, teacher, student, generator, layers, adam, sgd, rng, lam=lam)


@dataclass(frozen=True)
class Found:
    """What a run found in its networks, to be said before its first step.

    Attributes:
        layers: quantized layers, by name.
        activations: uses of an activation that are quantized, by their names in the graph.
        float_weights: parameters of more than one axis that stay in floating point.
        float_activations: new values that reach a quantized layer unrounded, `mul into conv2`.
        maps: layers whose outputs are distilled; none where the method distils none.
        batch_norms: how many the images' statistics match, and how many there are.
        equalized: streams of channels that were brought to one scale.
    """

    layers: list[str]
    activations: list[str]
    float_weights: list[str]
    float_activations: list[str]
    maps: list[str]
    batch_norms: tuple[int, int]
    equalized: int


def _maps(teacher: fx.GraphModule, student: fx.GraphModule, settings: Settings) -> list[str]:
    """Layers whose outputs are distilled, the same in both; none where the method distils none."""
    if not (settings.uses_features or get_method(settings.method).map_terms):
        return []
    where = settings.maps, settings.last_maps
    _, layers = map_layers(student, *where), map_layers(teacher, *where)
    return layers


def look(bench: Bench, settings: Settings) -> Found:
    """What `prepare` will find in the networks of a run, but for making its images."""
    teacher, student = make_networks(bench, settings)
    return _found(teacher, student, _maps(teacher, student, settings))


def found(training: Training) -> Found:
    """What `prepare` found in the networks of a run."""
    teacher: Any = training.teacher
    return _found(teacher, training.student, training.layers)


def _found(teacher: fx.GraphModule, student: Any, maps: list[str]) -> Found:
    return Found(
        quantized_layers(student),
        quantized_activations(student),
        stays_in_float(student),
        activations_in_float(student),
        maps,
        batch_norms(teacher),
        teacher.meta.get("equalized", 0),
    )


def teacher_graph(bench: Bench, equalized: bool) -> fx.GraphModule:
    """The bench's teacher, in which a student's maps have their partners: equalized as it was."""
    return equalize(bench.teacher) if equalized else trace(bench.teacher)


def make_networks(bench: Bench, settings: Settings) -> tuple[fx.GraphModule, fx.GraphModule]:
    """The bench's teacher as a frozen graph, and an untrained student of it.

    With `settings.equalize` both have the channels of `equalize.equalize`.
    """
    teacher = teacher_graph(bench, settings.equalize)
    student = quantize_model(
        teacher if settings.equalize else bench.teacher,
        settings.weight_bits,
        settings.act_bits,
        first_bits=settings.first_bits,
        last_bits=settings.last_bits,
        ranges=settings.ranges,
        weight_ranges=settings.weight_ranges,
        gradient=settings.gradient,
    )
    _check_traced(teacher, bench)
    return teacher.requires_grad_(False), student.requires_grad_()


@torch.inference_mode()
def _check_traced(graph: nn.Module, bench: Bench) -> None:
    """Run an image through the teacher and its graph: what torch.fx overlooked shows.

    Raises:
        AktError: if they differ by more than rounding does.
    """
    images = -bench.normalise(bench.images[:1]).to(bench.device)  # which nobody has run before
    expected, again, logits = bench.teacher(images), bench.teacher(images), graph(images)

    def agree(a: Tensor, b: Tensor) -> bool:
        near = 1e-2 * b.abs().max().nan_to_num(0, 0).item()  # more than rounding, and no mistake
        return a.shape == b.shape and torch.allclose(a.float(), b.float(), 0, near, equal_nan=True)

    if not agree(again, expected):
        raise AktError(
            f"{bench.name} gives other logits for the same image each time: its forward draws "
            "random numbers or counts, F.dropout without training=self.training say"
        )
    if not agree(logits, expected):
        raise AktError(
            f"{bench.name} computes something else than its graph by torch.fx: its forward reads "
            "what an earlier pass or a hook left in Python; pass it on as a tensor"
        )


def _image_source(
    teacher: nn.Module,
    bench: Bench,
    settings: Settings,
    progress: bool,
    make_bar: Callable[..., Any],
) -> Generator | ImagePool:
    """What the steps' images come from."""
    method = get_method(settings.method)
    if method.real:
        images, labels = bench.training
        held_out = min(HOLDOUT, len(labels) // 4)
        return RealImages(images, labels, method.augment, held_out, bench.normalise)
    if method.generates:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            about = bench.num_classes, bench.image_size, bench.channels
            return Generator(*about, low_pass=settings.low_pass)
    shape = (bench.channels, bench.image_size, bench.image_size)
    held_out = min(HOLDOUT, settings.pool // 4) if method.trains else 0
    labels = (torch.arange(settings.pool + held_out) % bench.num_classes).to(bench.device)
    cache, steps, seed = cache_folder() / "pools", settings.pool_steps, settings.seed
    terms: Any = method.image_terms
    images = load_pool(teacher, terms, labels, shape, steps, seed, cache, progress, make_bar)
    if settings.low_pass:  # once, not at every draw: what is cropped is filtered already
        images = LowPass(bench.image_size, settings.low_pass).to(images.device)(images)
    return ImagePool(images, labels, method.augment, held_out)


# ---- what a run left ----------------------------------------------------------------------------


def load_student(run: Run, bench: Bench, epoch: int | None = None) -> tuple[nn.Module, str]:
    """A run's student, and where it comes from: its end, or its last whole checkpoint.

    Args:
        run: its folder.
        bench: the run's; its images may be others.
        epoch: of a watched run, the student after that many epochs.

    Raises:
        AktError: if the run has not reached its first checkpoint, did not keep that epoch, or was
            made with another teacher.
        DamagedError: if the student is not what was written.
    """
    _, student = make_networks(bench, _settings(run, bench))
    keep: list[str] = []
    with suppress(AktError):  # a network without convolutions has no maps to look at
        keep = residual_bodies(student)
    speed_up(student, keep=keep)  # it then rounds as it did when it was trained
    student.to(device=bench.device, memory_format=torch.channels_last)  # type: ignore
    then = f"{run.resume_command} makes it again"
    if epoch is None and (path := run / STUDENT).exists():
        (tensors, state), source = load_tensors(path, then), "the end of the run"
        check_own(run, state, path, then)
    else:
        tensors, source, path = _left("student", run, epoch)
    fill(student, tensors, path, then)
    for module in student.modules():
        if isinstance(module, ActivationQuantizer):
            module.observing = False
    settle_scales(student)
    return student.requires_grad_(False), source


def load_generator(run: Run, bench: Bench, epoch: int | None = None) -> Generator | ImagePool:
    """A run's generator, in eval mode: at its last whole checkpoint, or after a kept `epoch`.

    A pool's images lie in the cache; where they are gone they are made again, with a bar.

    Raises:
        AktError: if there is none, or the run was made with another teacher.
    """
    settings = _settings(run, bench)
    if not get_method(settings.method).generates:
        generator = prepare(bench, settings, progress=True).generator
    else:
        generator = _image_source(bench.teacher, bench, settings, False, tqdm).to(bench.device)
    tensors, _, path = _left("generator", run, epoch)
    fill(generator, tensors, path, f"{run.resume_command} makes it again")
    return generator.eval().requires_grad_(False)


def _settings(run: Run, bench: Bench) -> Settings:
    known = run.get("fingerprints", {}).items()
    check_made_with(bench, run.folder, {k: v for k, v in known if k == "teacher"})
    return run.settings


def _left(kind: str, run: Run, epoch: int | None) -> tuple[dict[str, Tensor], str, Path]:
    """The weights of one of `NETWORKS`, at an epoch or the last checkpoint; which, and its file."""
    if epoch is not None:
        return under(load_epoch(run, epoch), f"{kind}."), f"epoch {epoch}", run.epoch(epoch)
    tensors, state, path = last_whole(run)
    check_own(run, state, path, "put this run's own back, or begin another run")
    kept = under(tensors, f"{AVERAGED}.") if kind == "student" else {}
    kept = kept or under(tensors, f"{kind}.")
    return kept, f"the checkpoint of epoch {state['epoch']}", path
