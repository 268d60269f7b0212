"""The networks of a run: before its first step, and as it left them."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, fx, nn
from tqdm.auto import tqdm

from akt_lab.benches.bench import cache_folder
from akt_lab.errors import AktError
from akt_lab.files import load_tensors
from akt_lab.generator import Generator
from akt_lab.graph import map_layers, residual_bodies, trace
from akt_lab.image_pool import ImagePool, load_pool
from akt_lab.losses import LAMBDA
from akt_lab.methods import get_method
from akt_lab.quantizer import ActivationQuantizer, quantize_model
from akt_lab.runs.checkpoint import load_epoch, under
from akt_lab.runs.folder import CHECKPOINT, STUDENT, Run
from akt_lab.settings import Settings
from akt_lab.speed import speed_up
from akt_lab.step import Training

HOLDOUT = 256  # synthetic images, set aside at the end of the warm-up, that choose without labels


def prepare(
    bench: Any, settings: Settings, progress: bool = False, make_bar: Callable[..., Any] = tqdm
) -> Training:
    """The networks and optimisers of a new run, before its first step.

    Where the method's images are optimised once, they are made here, or found in the cache.
    """
    teacher, student = make_networks(bench, settings)
    reads_maps = settings.uses_features or get_method(settings.method).map_terms
    layers: list[str] = []
    if reads_maps:  # the same in both
        where = settings.maps, settings.last_maps
        _, layers = map_layers(student, *where), map_layers(teacher, *where)
    for graph in (teacher, student):
        speed_up(graph, keep=layers)
        graph.to(device=bench.device, memory_format=torch.channels_last)  # type: ignore
    generator = _image_source(teacher, bench, settings, progress, make_bar)
    generator.to(device=bench.device, memory_format=torch.channels_last)  # type: ignore
    adam = None
    if weights := list(generator.parameters()):
        adam = torch.optim.Adam(weights, settings.generator_lr, betas=(0.5, 0.999), fused=True)
    sgd = torch.optim.SGD(
        student.parameters(),
        settings.student_lr,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        nesterov=settings.momentum > 0,
        fused=True,
    )
    rng = torch.Generator().manual_seed(settings.seed)
    lam = _given_lambda(settings)
    return Training(settings, teacher, student, generator, layers, adam, sgd, rng, lam=lam)


def make_networks(bench: Any, settings: Settings) -> tuple[fx.GraphModule, fx.GraphModule]:
    """The bench's teacher as a frozen graph, and an untrained student of it."""
    student = quantize_model(
        bench.teacher,
        settings.weight_bits,
        settings.act_bits,
        first_bits=settings.first_bits,
        last_bits=settings.last_bits,
        ranges=settings.ranges,
        gradient=settings.gradient,
    )
    return trace(bench.teacher).requires_grad_(False), student.requires_grad_()


def _image_source(
    teacher: nn.Module,
    bench: Any,
    settings: Settings,
    progress: bool,
    make_bar: Callable[..., Any],
) -> Generator | ImagePool:
    """What the steps' images come from."""
    method = get_method(settings.method)
    if not method.pool:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            return Generator(bench.num_classes, bench.image_size, bench.channels)
    shape = (bench.channels, bench.image_size, bench.image_size)
    held_out = min(HOLDOUT, settings.pool // 4) if method.student_terms else 0
    labels = (torch.arange(settings.pool + held_out) % bench.num_classes).to(bench.device)
    cache, steps, seed = cache_folder() / "pools", settings.pool_steps, settings.seed
    images = load_pool(
        teacher, method.image_terms, labels, shape, steps, seed, cache, progress, make_bar
    )
    return ImagePool(images, labels, method.augment, held_out)


def _given_lambda(settings: Settings) -> float | None:
    """None where there is none, and for `paper` until its first step finds it."""
    if not settings.uses_features or settings.variant == "paper":
        return settings.lam if settings.uses_features else None
    return LAMBDA[settings.variant] if settings.lam is None else settings.lam


# ---- what a run left ----------------------------------------------------------------------------


def load_student(run: Run, bench: Any, epoch: int | None = None) -> tuple[nn.Module, str]:
    """A run's student, and where it comes from: its end, or its last checkpoint.

    Args:
        run: its folder.
        bench: the run's.
        epoch: of a watched run, the student after that many epochs.

    Raises:
        AktError: if the run has not reached its first checkpoint, or did not keep that epoch.
    """
    _, student = make_networks(bench, Settings.from_dict(run.record["settings"]))
    keep: list[str] = []
    with suppress(AktError):  # a network without convolutions has no maps to look at
        keep = residual_bodies(student)
    speed_up(student, keep=keep)  # it then rounds as it did when it was trained
    student.to(device=bench.device, memory_format=torch.channels_last)  # type: ignore
    if epoch is not None:
        tensors, source = under(load_epoch(run, epoch), "student."), f"epoch {epoch}"
    elif (run / STUDENT).exists():
        tensors, _ = load_tensors(run / STUDENT)
        source = "the end of the run"
    else:
        tensors, state = _checkpoint(run)
        tensors, source = under(tensors, "student."), f"the checkpoint of epoch {state['epoch']}"
    student.load_state_dict(tensors)
    for module in student.modules():
        if isinstance(module, ActivationQuantizer):
            module.observing = False
    return student.requires_grad_(False), source


def load_generator(run: Run, bench: Any, epoch: int | None = None) -> Generator | ImagePool:
    """A run's generator at its last checkpoint, or after an `epoch` that it kept; in eval mode.

    Raises:
        AktError: if there is none.
    """
    settings = Settings.from_dict(run.record["settings"])
    ready = get_method(settings.method).pool
    generator = (
        prepare(bench, settings).generator
        if ready
        else _image_source(bench.teacher, bench, settings, False, tqdm).to(bench.device)
    )
    tensors = _checkpoint(run)[0] if epoch is None else load_epoch(run, epoch)
    generator.load_state_dict(under(tensors, "generator."))
    return generator.eval().requires_grad_(False)


def _checkpoint(run: Run) -> tuple[dict[str, Tensor], dict[str, Any]]:
    if not (run / CHECKPOINT).exists():
        raise AktError(
            f"{run.folder} has no checkpoint yet: its first comes at the end of the first epoch"
        )
    return load_tensors(run / CHECKPOINT)
