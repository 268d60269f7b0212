"""What figures show, measured on runs and their bench.

What takes minutes is made once, and kept as CSV in `studies/` beside the runs, with the synthetic
images that it is of; see `kept.beside` for when it is made anew.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial, wraps
from itertools import groupby, product
from operator import attrgetter
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from akt_lab import losses
from akt_lab.analysis import curvature as second_order
from akt_lab.analysis import gradients as gradient_study
from akt_lab.analysis.error_cost import cost_of_error, map_hessian, rounding_error
from akt_lab.analysis.gradients import Batch, Case, grid, make_student, observe, synthetic_batches
from akt_lab.analysis.kept import bench_of, beside, kept, on_every_core
from akt_lab.analysis.smooth import smooth_student
from akt_lab.attention import (
    attention_by_image,
    attention_divergences,
    channel_attention,
    spatial_attention,
)
from akt_lab.benches import Bench
from akt_lab.errors import AktError
from akt_lab.files import MADE_AGAIN, damaged, load_tensors, save_tensors
from akt_lab.generator import Generator
from akt_lab.graph import capture_maps, residual_bodies
from akt_lab.graph import trace as graph_of
from akt_lab.image_pool import ImagePool
from akt_lab.methods import get_method
from akt_lab.quantizer import quantize_model
from akt_lab.runs import results
from akt_lab.runs.folder import Run
from akt_lab.runs.networks import load_generator, load_student, teacher_graph

Row = dict[str, Any]
SMALL_IMAGES = 16  # pixels: up to here a study can afford more of them
STEPS, SEEDS = 40, (0, 1, 2)  # of the gradient study
SHOWN = 200  # real images for attention
ROUNDING = (
    "weight_bits", "act_bits", "first_bits", "last_bits", "ranges", "weight_ranges", "gradient",
)  # fmt: skip
COST_BITS, COST_IMAGES, COST_SEEDS = (2, 3, 4, 5, 8), 8, (0, 1, 2)
CURVED_BITS, SHARPNESS, PROBES = (8, 4, 3, 2), (0.0, 0.5), 16
SURFACE_BITS, POINTS = 3, 15
PAIRS = 32  # of directions, for the asymmetry
SHOWN_BITS = 3  # the bit-width whose student and images are shown, where it is among the runs


def synthetic(runs: Sequence[Run], bench: Bench, seed: int = 0) -> list[Batch]:
    """The batches that studies see: made once, and kept beside the runs."""
    path = beside(runs, f"images-{seed}.safetensors", **_constants())
    if not path.exists():
        made = synthetic_batches(bench, effort(bench)[0], batch_size(bench), seed, progress=True)
        x, y = (torch.stack(part) for part in zip(*made, strict=True))
        save_tensors(path, {"x": x, "y": y}, {})
    found, _ = load_tensors(path, MADE_AGAIN)
    if not {"x", "y"} <= found.keys():
        raise damaged(path, "it holds no images", MADE_AGAIN)
    # Laid out as a generator draws them: the same kernels, and the same bits.
    layout = torch.channels_last if found["x"].shape[2] > 1 else torch.contiguous_format
    images = (x.clone(memory_format=layout) for x in found["x"])
    return [*zip(images, found["y"], strict=True)]


def _constants() -> dict[str, Any]:
    """All that is fixed here and decides what comes out: a change makes everything anew."""
    here = {name: value for name, value in globals().items() if name.isupper()}
    cases = [asdict(case) for case in grid()]
    return {**here, "drawn_after": gradient_study.DRAWN_AFTER, "cases": cases}


def batch_size(bench: Bench) -> int:
    """Of a study: more of small images."""
    return 64 if bench.image_size <= SMALL_IMAGES else 16


def effort(bench: Bench) -> tuple[int, Sequence[int]]:
    """Steps and seeds of the gradient study: fewer for large images, so that it takes minutes."""
    return (STEPS, SEEDS) if bench.image_size <= SMALL_IMAGES else (STEPS // 2, SEEDS[:1])


def _kept(
    make: Callable[[Sequence[Run], bool], pd.DataFrame],
    entering: Callable[[Sequence[Run]], Iterable[Run]] = lambda runs: (),
) -> Callable[..., pd.DataFrame]:
    """A study, made once; `entering`: the runs whose students it is of, see `kept.beside`."""

    @wraps(make)
    def study(runs: Sequence[Run], progress: bool = True) -> pd.DataFrame:
        of = [*entering(runs)]
        return kept(runs, make.__name__, lambda: make(runs, progress), of, **_constants())

    return study


# ---- gradients ----------------------------------------------------------------------------------


@_kept
def gradients(runs: Sequence[Run], progress: bool = True) -> pd.DataFrame:
    """`gradients.study` over every case of `gradients.grid`: a task a seed and bit-width."""
    bench, of_bits = bench_of(runs), attrgetter("bits")
    study, tasks = partial(gradient_study.study, _light(bench), progress=False), {}
    for seed in effort(bench)[1]:
        images = synthetic(runs, bench, seed)
        for bits, cases in groupby(sorted(grid(), key=of_bits), key=of_bits):
            task = partial(study, [*cases], images, seed=seed)
            tasks[f"gradients, seed {seed}, {_name(bits)}"] = task
    return pd.concat(on_every_core(tasks, progress), ignore_index=True)


def _light(bench: Bench) -> Bench:
    """For another process: without the images, which it does not need."""
    nothing = torch.empty(0, *bench.images.shape[1:], dtype=torch.uint8)
    return replace(bench, images=nothing, labels=bench.labels[:0])


def _name(bits: int) -> str:
    return f"{bits} bits" if bits else "full precision"


# ---- attention ----------------------------------------------------------------------------------


def _ended(runs: Sequence[Run]) -> Sequence[Run]:
    """Those that ended, if there is one among them that trained a student."""
    ended = [run for run in runs if run.done]
    if not any(get_method(run.entry("settings")["method"]).trains for run in ended):
        raise AktError("attention_by_bits needs a run that trained a student to its end")
    return ended


@partial(_kept, entering=_ended)
def attention(runs: Sequence[Run], progress: bool = True) -> pd.DataFrame:
    """How far teacher's and student's attention lie apart, before and after training, by layer.

    Returns:
        A row for each run that ended, layer and time: method (as figures call it), bits, seed,
        layer, trained (False: rounded as the run does, with ranges observed on synthetic images),
        and the mean KL from the teacher's maps in nats, `spatial` and `channel`, on 200 evaluation
        images.

    Raises:
        AktError: if no student was trained to its end.
    """
    bench = bench_of(runs)
    of_ranges, images = synthetic(runs, bench)[:10], bench.normalise(bench.images[:SHOWN])
    layers = residual_bodies(graph_of(bench.teacher))

    @cache
    def seen(equalized: bool) -> dict[str, Tensor]:
        return _maps(teacher_graph(bench, equalized), layers, images)

    @cache
    def rounded(equalized: bool, *how: tuple[str, Any]) -> dict[str, Tensor]:
        teacher = teacher_graph(bench, equalized)
        student = observe(quantize_model(teacher, **dict(how)), of_ranges)
        return _maps(student, layers, images)

    rows: list[Row] = []
    for run in tqdm(_ended(runs), "attention", unit="run", disable=not progress):
        settings = run.settings
        about = {"method": settings.label, "bits": settings.weight_bits, "seed": settings.seed}
        how = ((name, getattr(settings, name)) for name in ROUNDING)
        before = rounded(settings.equalize, *how)
        after, t = _maps(load_student(run, bench)[0], layers, images), seen(settings.equalize)
        for trained, maps in ((False, before), (True, after)):
            for layer, s in maps.items():
                spatial, channel = (kl.item() for kl in attention_divergences([s], [t[layer]]))
                rows.append({**about, "layer": layer, "trained": trained,
                             "spatial": spatial, "channel": channel})  # fmt: skip
    return pd.DataFrame(rows)


@torch.inference_mode()
def _maps(network: nn.Module, layers: Sequence[str], images: Tensor) -> dict[str, Tensor]:
    with capture_maps(network, layers) as maps:
        network(images)
    return maps


# ---- second order -------------------------------------------------------------------------------


@_kept
def error_cost(runs: Sequence[Run], progress: bool = True) -> pd.DataFrame:
    """`error_cost.cost_of_error` of every map's own rounding, by bits, on synthetic images.

    Adds seed (of the batch's generator), layer, bits, and `random`: the cost per square of an error
    of random direction.
    """
    bench = bench_of(runs)
    teacher = graph_of(bench.teacher)
    batches = {s: synthetic_batches(bench, 1, COST_IMAGES, s)[0][0] for s in COST_SEEDS}
    tables = []
    places = list(product(batches, residual_bodies(teacher)))
    bar = tqdm(places, "cost of errors", unit="layer", disable=not progress)
    for seed, layer in bar:
        images = batches[seed]
        operator, x = map_hessian(teacher, layer, images)
        random = len(x) * second_order.trace(operator, PROBES).value / (2 * operator.shape[0])
        for bits in COST_BITS:
            table = cost_of_error(teacher, layer, images, rounding_error(x, bits)).reset_index()
            tables.append(table.assign(seed=seed, layer=layer, bits=bits, random=random))
    return pd.concat(tables, ignore_index=True)


@_kept
def curvature(runs: Sequence[Run], progress: bool = True) -> pd.DataFrame:
    """Trace and largest eigenvalues of the distillation loss, by bits and sharpness.

    Returns:
        Rows of bits (0: full precision), sharpness of the smooth rounding (NaN for full
        precision), trace, trace_error (one standard error), eigenvalue and residual (the largest
        one).
    """
    bench = bench_of(runs)
    images, light = synthetic(runs, bench)[:10], _light(bench)

    def of(bits: int, sharpness: float | None) -> Row:
        network: nn.Module = graph_of(light.teacher)
        if sharpness is not None:
            network = smooth_student(make_student(light.teacher, Case(bits), images), sharpness)
        operator = second_order.hessian(network, *_distilled(light, images))
        whole = second_order.trace(operator, PROBES)
        values, residuals = second_order.top_eigenvalues(operator, 1)
        return {"bits": bits, "sharpness": sharpness, "trace": whole.value,
                "trace_error": whole.error, "eigenvalue": values[0],
                "residual": residuals[0]}  # fmt: skip

    cases = [(0, None), *product(CURVED_BITS, SHARPNESS)]
    tasks = {f"curvature, {_name(b)}, sharpness {k or 0}": partial(of, b, k) for b, k in cases}
    return pd.DataFrame(on_every_core(tasks, progress))


@_kept
def asymmetry(runs: Sequence[Run], progress: bool = True) -> pd.DataFrame:
    """`curvature.asymmetry` of the teacher and of rounded students.

    Returns:
        Rows of bits (0: full precision), ratio, error (one standard error over the pairs),
        step_error (how much half the step changes it), and pairs drawn.
    """
    bench = bench_of(runs)
    images, light = synthetic(runs, bench)[:10], _light(bench)
    pairs = PAIRS if bench.image_size <= SMALL_IMAGES else PAIRS // 4

    def of(bits: int) -> Row:
        student = make_student(light.teacher, Case(bits), images)
        found = second_order.asymmetry(student, *_distilled(light, images), pairs=pairs)
        return {"bits": bits, "ratio": found.value, "error": found.error,
                "step_error": found.step_error, "pairs": pairs}  # fmt: skip

    tasks = {f"asymmetry, {_name(bits)}": partial(of, bits) for bits in (0, *CURVED_BITS)}
    return pd.DataFrame(on_every_core(tasks, progress))


def _first_of_each(runs: Sequence[Run]) -> dict[str, Run]:
    students: dict[str, Run] = {}
    for run in runs:
        settings = run.settings
        trained = get_method(settings.method).trains and run.done
        if trained and settings.weight_bits == SURFACE_BITS:
            students.setdefault(f"{settings.label}, {SURFACE_BITS} bits", run)
    return students


@partial(_kept, entering=lambda runs: _first_of_each(runs).values())
def surface(runs: Sequence[Run], progress: bool = True) -> pd.DataFrame:
    """The distillation loss around the teacher, and around trained students of SURFACE_BITS.

    Returns:
        Rows of network (of each method the first), a and b (offsets in two filter-normalised
        directions, the same for all) and loss, on one batch of synthetic images.
    """
    bench = bench_of(runs)
    teacher = graph_of(bench.teacher)
    images, logits = _distilled(bench, synthetic(runs, bench))
    directions = second_order.filter_normalised_directions(teacher)
    networks: dict[str, nn.Module] = {"teacher": teacher}
    networks |= {name: load_student(run, bench)[0] for name, run in _first_of_each(runs).items()}
    tables = []
    bar = tqdm(networks.items(), "loss surface", unit="network", disable=not progress)
    for name, network in bar:
        at, loss = second_order.loss_surface(network, images, logits, directions, points=POINTS)
        a, b = (grid.ravel() for grid in np.meshgrid(at, at, indexing="ij"))
        tables.append(pd.DataFrame({"network": name, "a": a, "b": b, "loss": loss.ravel()}))
    return pd.concat(tables, ignore_index=True)


@torch.no_grad()
def _distilled(bench: Bench, images: Sequence[Batch]) -> tuple[Tensor, Tensor]:
    """The first batch, and the teacher's logits: what the distillation loss is taken on."""
    return images[0][0], bench.teacher(images[0][0])


# ---- a run as it trained ------------------------------------------------------------------------


def training(runs: Sequence[Run]) -> pd.DataFrame:
    """Every step of every student, whether its run ended or not.

    Returns:
        A row a step: method, variant, label, bits (of weights), seed, `same`, step (from 1),
        loss_above_floor (from the least value that it can take), and gradient_norm. `same`: what
        runs must agree in to be averaged; see `results.row`.

    Raises:
        AktError: if none of the runs trained a student.
    """
    curves = [curve for curve in map(_curve, runs) if not curve.empty]
    if not curves:
        raise AktError(
            "training_by_bits needs a run that trained a student, and has its history: `ptq` alone "
            "does not, nor one that was stopped before"
        )
    return pd.concat(curves, ignore_index=True)


def _curve(run: Run) -> pd.DataFrame:
    history, settings = run.history(), run.settings
    warmup = settings.warmup_epochs
    if "student/gradient_norm" not in history:
        return pd.DataFrame()
    steps = history[history["epoch"] >= warmup].reset_index(drop=True)
    terms = [c for c in steps if c.startswith("student/") and c != "student/gradient_norm"]
    loss = steps[terms].sum(axis=1, skipna=False)  # where it diverged, one is not finite
    for term in terms:
        given = run.entry("classes"), settings.temperature, settings.logit_weight
        loss = loss - losses.floor(term.removeprefix("student/"), *given)
    row = results.row(results.line_of(run))
    return pd.DataFrame(
        {
            **{name: row[name] for name in ("method", "variant", "label")},
            "bits": settings.weight_bits,
            **{name: row[name] for name in ("seed", "same")},
            "step": (steps["epoch"] - warmup) * settings.steps + steps["step"] + 1,
            "loss_above_floor": loss.to_numpy(),
            "gradient_norm": steps["student/gradient_norm"].to_numpy(),
        }
    )


def evaluations(lines: Sequence[results.Line]) -> pd.DataFrame:
    """A row for each evaluation of each run; a run that is in several files counts once.

    Columns: `results.row`'s bench, bits, teacher, method, variant, seed, label and `same`; images
    (that the student was trained on by then), accuracy in percent, synthetic_kl in nats.
    """
    runs = [(results.row(line), line.get("evaluations", [])) for line in lines]
    about = ["bench", "bits", "teacher", "method", "variant", "seed", "label", "same"]
    last = {
        tuple(run[name] for name in [*results.KEY, "seed"]): (run, scores) for run, scores in runs
    }
    return pd.DataFrame(
        {**{name: run[name] for name in about},
         "images": (e["epoch"] - s["warmup_epochs"]) * s["steps"] * s["batch_size"],
         "accuracy": e["accuracy"], "synthetic_kl": e["synthetic_kl"]}
        for run, scores in last.values() for s in [run["settings"]] for e in scores
    )  # fmt: skip


# ---- one run's student and images ---------------------------------------------------------------


@dataclass(frozen=True)
class SideBySide:
    """Where teacher and student look in one layer.

    Attributes:
        images: (N, S, S), or (N, S, S, 3) in colour, values 0 to 1.
        spatial: teacher's and student's spatial attention, (N, H, W) each, unit length.
        channel: teacher's and student's channel attention, (N, C) each, sums to 1.
        divergences: spatial and channel, KL(teacher || student) in nats, a pair an image.
        labels: the classes' names.
        title: which layer of which run.
    """

    images: np.ndarray
    spatial: Sequence[np.ndarray]
    channel: Sequence[np.ndarray]
    divergences: Sequence[tuple[float, float]]
    labels: Sequence[str]
    title: str


def side_by_side(runs: Sequence[Run]) -> SideBySide:
    """Attention of teacher and student in the middle layer, on a real image of each of 4 classes.

    Of the run with AKT at 3 bits that ended, or the nearest to it.
    """
    run, bench, about = _shown(runs)
    student, source = load_student(run, bench)
    teacher = teacher_graph(bench, run.settings.equalize)
    layers = residual_bodies(teacher)
    layer = layers[len(layers) // 2]
    labels = bench.labels.unique()[:4]
    inputs = bench.normalise(bench.images[[int((bench.labels == c).nonzero()[0]) for c in labels]])
    maps = [_maps(network, [layer], inputs)[layer] for network in (teacher, student)]
    size = maps[0].shape[-2:]
    when = "after training" if run.done else f"at {source}"
    return SideBySide(
        bench.shown(inputs),
        [spatial_attention(m).view(-1, *size).numpy() for m in maps],
        [channel_attention(m).numpy() for m in maps],
        attention_by_image(*maps),
        [bench.classes[c] for c in labels],
        f"Layer {layer} of {bench.name}, {about}, {when}",
    )


@dataclass(frozen=True)
class SyntheticImages:
    """Images of a run's generator or pool, a row a class.

    Attributes:
        images: (classes, columns, S, S), or (..., 3) in colour, values 0 to 1.
        classes: the rows' names.
        confidence: the teacher's probability of the row's class, (classes, columns).
        title: which generator.
    """

    images: np.ndarray
    classes: Sequence[str]
    confidence: np.ndarray
    title: str


@torch.inference_mode()
def synthetic_images(runs: Sequence[Run]) -> SyntheticImages:
    """Up to 10 images of each of the first 10 classes, of the run that `side_by_side` shows.

    Of runs that make images, that is: `real` has none of its own.

    Raises:
        AktError: if a pool has no image of some class, or no run makes images.
    """
    synthetic = [run for run in runs if not get_method(run.settings.method).real]
    if runs and not synthetic:
        raise AktError("synthetic_images needs a run that makes some: these train on real ones")
    run, bench, about = _shown(synthetic)
    classes = min(10, bench.num_classes)
    images, y = _of_classes(load_generator(run, bench), classes, 10)
    probability = bench.teacher(images).softmax(1).gather(1, y[:, None])
    pixels = bench.shown(images)
    return SyntheticImages(
        pixels.reshape(classes, -1, *pixels.shape[1:]),
        bench.classes[:classes],
        probability.view(classes, -1).numpy(),
        f"Synthetic images for {bench.name}: {about}",
    )


@torch.inference_mode()
def _of_classes(source: Generator | ImagePool, classes: int, count: int) -> tuple[Tensor, Tensor]:
    """Images of each class, and the classes; of a pool as many as every class has there."""
    if isinstance(source, Generator):
        y = torch.arange(classes).repeat_interleave(count)
        z, _ = source.draw(len(y), torch.Generator().manual_seed(0))
        return source(z, y), y
    count = min(count, int(source.labels.bincount(minlength=classes)[:classes].min()))
    if not count:
        raise AktError("this run's pool is too small to show: it has no image of some class")
    chosen = torch.cat([(source.labels == c).nonzero()[:count, 0] for c in range(classes)])
    return source.images[chosen], source.labels[chosen]


def _shown(runs: Sequence[Run]) -> tuple[Run, Bench, str]:
    """The run whose student and images are shown, its bench, and what it is called."""

    def far(run: Run) -> tuple[bool, bool, int]:
        settings = run.settings
        unfinished = not run.done
        return unfinished, not settings.has_akt, abs(settings.weight_bits - SHOWN_BITS)

    nearest = sorted(runs, key=far)[:1]
    bench, settings = bench_of(nearest), nearest[0].settings
    return nearest[0], bench, f"{settings.label}, {settings.weight_bits} bits, seed {settings.seed}"
