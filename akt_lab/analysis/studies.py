"""The tables behind the figures of the analysis: each is made once from runs, and kept as CSV.

They lie in `studies/` beside the runs, with the synthetic images that they are of; remove that
folder to have all of it made again.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from tqdm.auto import tqdm

from akt_lab.analysis.curvature import asymmetry as field_asymmetry
from akt_lab.analysis.curvature import (
    filter_normalised_directions,
    hessian,
    loss_surface,
    smooth_student,
    top_eigenvalues,
    trace,
)
from akt_lab.analysis.error_cost import cost_of_error, map_hessian, rounding_error
from akt_lab.analysis.gradients import Batch, Case, grid, make_student, study, synthetic_batches
from akt_lab.analysis.kept import _beside, _light, _side_by_side, bench_of, kept
from akt_lab.attention import (
    attention_by_image,
    attention_divergences,
    channel_attention,
    spatial_attention,
)
from akt_lab.benches import Bench
from akt_lab.errors import AktError
from akt_lab.files import write_whole
from akt_lab.generator import Generator
from akt_lab.graph import capture_maps, residual_bodies
from akt_lab.graph import trace as graph_of
from akt_lab.image_pool import ImagePool
from akt_lab.losses import floor
from akt_lab.methods import get_method
from akt_lab.runs.folder import Run
from akt_lab.runs.networks import load_generator, load_student
from akt_lab.runs.results import line_of, row
from akt_lab.settings import Settings

Row = dict[str, Any]

SMALL_IMAGES = 16  # pixels: up to here a study can afford more of them

STEPS, SEEDS = 40, (0, 1, 2)  # of the gradient study

SHOWN = 200  # real images for attention

COST_BITS, COST_IMAGES = (2, 3, 4, 5, 8), 8

CURVED_BITS, SHARPNESS, PROBES = (8, 4, 3, 2), (0.0, 0.5), 16

SURFACE_BITS, POINTS = 3, 15

SHOWN_BITS = 3  # the bit-width whose student and images are shown, where it is among the runs

PAIRS = 32  # of directions, for the asymmetry


def synthetic(runs: Sequence[Run], bench: Bench, seed: int = 0) -> list[Batch]:
    """The batches that studies see: made once, and kept as studies/images-SEED.safetensors."""
    path = _beside(runs, f"images-{seed}.safetensors")
    if not path.exists():
        made = synthetic_batches(bench, effort(bench)[0], batch_size(bench), seed, progress=True)
        x, y = (torch.stack(part) for part in zip(*made, strict=True))
        write_whole(path, save({"x": x.contiguous(), "y": y}))
    found = load(path.read_bytes())
    # Laid out as a generator draws them: the same kernels, and the same bits.
    layout = torch.channels_last if found["x"].shape[2] > 1 else torch.contiguous_format
    images = (x.clone(memory_format=layout) for x in found["x"])
    return [*zip(images, found["y"], strict=True)]


def batch_size(bench: Bench) -> int:
    """Of a study: more of small images."""
    return 64 if bench.image_size <= SMALL_IMAGES else 16


def effort(bench: Bench) -> tuple[int, Sequence[int]]:
    """Steps and seeds of the gradient study: fewer for large images, so that it takes minutes."""
    return (STEPS, SEEDS) if bench.image_size <= SMALL_IMAGES else (STEPS // 2, SEEDS[:1])


# ---- gradients ----------------------------------------------------------------------------------


def gradients(runs: Sequence[Run], progress: bool = True) -> pd.DataFrame:
    """`gradients.study` over every case of `gradients.grid`: a task a seed and bit-width."""

    def make() -> pd.DataFrame:
        bench = bench_of(runs)
        tasks = {}
        for seed in effort(bench)[1]:
            images = synthetic(runs, bench, seed)
            for bits, cases in groupby(sorted(grid(), key=_bits), key=_bits):
                task = partial(study, _light(bench), [*cases], images, seed=seed, progress=False)
                tasks[f"gradients, seed {seed}, {_name(bits)}"] = task
        return pd.concat(_side_by_side(tasks, progress), ignore_index=True)

    return kept(runs, "gradients", make)


def _bits(case: Case) -> int:
    return case.bits


def _name(bits: int) -> str:
    return f"{bits} bits" if bits else "full precision"


# ---- attention ----------------------------------------------------------------------------------


def attention(runs: Sequence[Run]) -> pd.DataFrame:
    """How far teacher's and student's attention lie apart, before and after training, by layer.

    Returns:
        A row for each run that ended, layer and time: method, bits, seed, layer, trained (False:
        rounded, with ranges observed on synthetic images), and the mean KL from the teacher's
        maps in nats, `spatial` and `channel`, on 200 evaluation images.

    Raises:
        AktError: if no student was trained to its end.
    """
    ended = [run for run in runs if run.record.get("status") == "done"]
    if not any(get_method(run.entry("settings")["method"]).student_terms for run in ended):
        raise AktError("attention_by_bits needs a run that trained a student to its end")
    return kept(runs, "attention", lambda: pd.DataFrame(_attention_rows(ended)))


def _attention_rows(runs: Sequence[Run]) -> Iterator[Row]:
    bench = bench_of(runs)
    teacher = graph_of(bench.teacher)
    layers = residual_bodies(teacher)
    images = bench.normalise(bench.images[:SHOWN])
    seen = _maps(teacher, layers, images)
    calibration = synthetic(runs, bench)[:10]

    @cache
    def rounded(bits: int) -> dict[str, Tensor]:
        return _maps(make_student(bench.teacher, Case(bits), calibration), layers, images)

    for run in runs:
        settings = run.record["settings"]
        bits = settings["weight_bits"]
        about = {"method": of_variant(settings), "bits": bits, "seed": settings["seed"]}
        after = _maps(load_student(run, bench)[0], layers, images)
        for trained, maps in ((False, rounded(bits)), (True, after)):
            for layer, s in maps.items():
                parts = attention_divergences([s], [seen[layer]])
                spatial, channel = (part.item() for part in parts)
                yield {**about, "layer": layer, "trained": trained,
                       "spatial": spatial, "channel": channel}  # fmt: skip


def of_variant(settings: Mapping[str, Any]) -> str:
    """A method's name, with its variant where that is not the paper's."""
    code = "akt" in settings["method"] and settings["variant"] != "paper"
    return f"{settings['method']} {settings['variant']}" if code else settings["method"]


@torch.inference_mode()
def _maps(network: nn.Module, layers: Sequence[str], images: Tensor) -> dict[str, Tensor]:
    with capture_maps(network, layers) as maps:
        network(images)
    return maps


# ---- second order -------------------------------------------------------------------------------


def error_cost(runs: Sequence[Run], progress: bool = True) -> pd.DataFrame:
    """`errorcost.cost_of_error` of every map's own rounding, by bits, on synthetic images.

    Adds layer, bits, and `random`: the cost per square of an error of random direction.
    """

    def make() -> pd.DataFrame:
        bench = bench_of(runs)
        teacher = graph_of(bench.teacher)
        ((images, _),) = synthetic_batches(bench, 1, COST_IMAGES)
        layers = residual_bodies(teacher)
        bar = tqdm(layers, unit="layer", disable=not progress, desc="cost of errors")
        return pd.concat([_cost(teacher, layer, images) for layer in bar], ignore_index=True)

    return kept(runs, "error_cost", make)


def _cost(teacher: nn.Module, layer: str, images: Tensor) -> pd.DataFrame:
    operator, x = map_hessian(teacher, layer, images)
    random = len(x) * trace(operator, PROBES).value / (2 * operator.shape[0])
    tables = []
    for bits in COST_BITS:
        table = cost_of_error(teacher, layer, images, rounding_error(x, bits)).reset_index()
        tables.append(table.assign(layer=layer, bits=bits, random=random))
    return pd.concat(tables)


def curvature(runs: Sequence[Run], progress: bool = True) -> pd.DataFrame:
    """Trace and largest eigenvalues of the distillation loss, by bits and sharpness.

    Returns:
        Rows of bits (0: full precision), sharpness of the smooth rounding (NaN for full
        precision), trace, trace_error (one standard error), eigenvalue and residual (the largest
        one).
    """

    def make() -> pd.DataFrame:
        bench = bench_of(runs)
        images = synthetic(runs, bench)[:10]
        cases = [(0, None), *((b, k) for b in CURVED_BITS for k in SHARPNESS)]
        tasks = {
            f"curvature, {_name(bits)}, sharpness {k or 0}": partial(
                _curvature, _light(bench), bits, k, images
            )
            for bits, k in cases
        }
        return pd.DataFrame(_side_by_side(tasks, progress))

    return kept(runs, "curvature", make)


def _curvature(bench: Bench, bits: int, sharpness: float | None, images: Sequence[Batch]) -> Row:
    network: nn.Module = graph_of(bench.teacher)
    if sharpness is not None:
        network = smooth_student(make_student(bench.teacher, Case(bits), images), sharpness)
    x = images[0][0]
    with torch.no_grad():
        logits = bench.teacher(x)
    operator = hessian(network, x, logits)
    whole = trace(operator, PROBES)
    values, residuals = top_eigenvalues(operator, 1)
    about = {"bits": bits, "sharpness": sharpness}
    about |= {"trace": whole.value, "trace_error": whole.error}
    return {**about, "eigenvalue": values[0], "residual": residuals[0]}


def asymmetry(runs: Sequence[Run], progress: bool = True) -> pd.DataFrame:
    """`curvature.asymmetry` of the teacher and of rounded students.

    Returns:
        Rows of bits (0: full precision), ratio, error (one standard error over the pairs),
        step_error (how much half the step changes it), and pairs drawn.
    """

    def make() -> pd.DataFrame:
        bench = bench_of(runs)
        images, light = synthetic(runs, bench)[:10], _light(bench)
        tasks = {
            f"asymmetry, {_name(bits)}": partial(_asymmetry, light, bits, images)
            for bits in (0, *CURVED_BITS)
        }
        return pd.DataFrame(_side_by_side(tasks, progress))

    return kept(runs, "asymmetry", make)


def _asymmetry(bench: Bench, bits: int, images: Sequence[Batch]) -> Row:
    x = images[0][0]
    with torch.no_grad():
        logits = bench.teacher(x)
    pairs = PAIRS if bench.image_size <= SMALL_IMAGES else PAIRS // 4
    student = make_student(bench.teacher, Case(bits), images)
    found = field_asymmetry(student, x, logits, pairs=pairs)
    about = {"bits": bits, "ratio": found.value, "error": found.error}
    return {**about, "step_error": found.step_error, "pairs": pairs}


def surface(runs: Sequence[Run], progress: bool = True) -> pd.DataFrame:
    """The distillation loss around the teacher, and around trained students of SURFACE_BITS.

    Returns:
        Rows of network, a and b (offsets in two filter-normalised directions, the same for all)
        and loss, on one batch of synthetic images.
    """

    def make() -> pd.DataFrame:
        bench = bench_of(runs)
        teacher = graph_of(bench.teacher)
        images, _ = synthetic(runs, bench)[0]
        with torch.no_grad():
            logits = teacher(images)
        directions = filter_normalised_directions(teacher)
        networks = {"teacher": teacher, **_students(runs, bench)}
        bar = tqdm(networks.items(), unit="network", disable=not progress, desc="loss surface")
        tables = []
        for name, network in bar:
            at, losses = loss_surface(network, images, logits, directions, points=POINTS)
            a, b = (grid.ravel() for grid in np.meshgrid(at, at, indexing="ij"))
            tables.append(pd.DataFrame({"network": name, "a": a, "b": b, "loss": losses.ravel()}))
        return pd.concat(tables, ignore_index=True)

    return kept(runs, "surface", make)


def _students(runs: Sequence[Run], bench: Bench) -> dict[str, nn.Module]:
    """The trained students at SURFACE_BITS, the first of each method."""
    found: dict[str, nn.Module] = {}
    for run in runs:
        s, status = run.record["settings"], run.record.get("status")
        trains = get_method(s["method"]).student_terms
        if status == "done" and trains and s["weight_bits"] == SURFACE_BITS:
            name = f"{of_variant(s)}, {SURFACE_BITS} bits"
            if name not in found:
                found[name] = load_student(run, bench)[0]
    return found


# ---- what training left -------------------------------------------------------------------------


def training(runs: Sequence[Run]) -> pd.DataFrame:
    """Student loss above its floor, and gradient norm, through training.

    Returns:
        A row for each run and step of the student (from 1): method, variant, label, bits, seed,
        step, loss_above_floor (from the least value that the loss can take), gradient_norm, and
        `same`, what runs must agree in to be averaged; see `results.row`.

    Raises:
        AktError: if no run trained a student.
    """
    curves = [curve for curve in map(_curve, runs) if not curve.empty]
    if not curves:
        raise AktError("training_by_bits needs a run that trained a student: `ptq` alone does not")
    return pd.concat(curves, ignore_index=True)


def _curve(run: Run) -> pd.DataFrame:
    history = run.history()
    if "student/gradient_norm" not in history:
        return pd.DataFrame()
    about, settings = row(line_of(run)), Settings.from_dict(run.entry("settings"))
    steps = history.dropna(subset=["student/gradient_norm"])
    terms = [c for c in steps if c.startswith("student/") and c != "student/gradient_norm"]
    least = sum(
        floor(term.removeprefix("student/"), run.entry("classes"), settings.temperature,
              settings.logit_weight) for term in terms
    )  # fmt: skip
    return pd.DataFrame(
        {
            **{name: about[name] for name in ("method", "variant", "label")},
            "bits": settings.weight_bits,
            "seed": settings.seed,
            "step": range(1, len(steps) + 1),
            "loss_above_floor": (steps[terms].sum(axis=1) - least).to_numpy(),
            "gradient_norm": steps["student/gradient_norm"].to_numpy(),
            "same": about["same"],
        }
    )


@dataclass(frozen=True)
class SideBySide:
    """Attention of teacher and student in one layer, on N real images.

    Attributes:
        images: (N, S, S) or (N, S, S, 3), values 0 to 1.
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
    """Both attentions of teacher and student, of AKT's run at 3 bits or the nearest to it."""
    run = _nearest(runs)
    bench = bench_of([run])
    student, _ = load_student(run, bench)
    teacher = graph_of(bench.teacher)
    layers = residual_bodies(teacher)
    layer = layers[len(layers) // 2]
    chosen = [
        int((bench.labels == label).nonzero()[0]) for label in range(min(4, bench.num_classes))
    ]
    inputs = bench.normalise(bench.images[chosen])
    with torch.inference_mode():
        maps = [_maps(network, [layer], inputs)[layer] for network in (teacher, student)]
        return SideBySide(
            _showable(bench.pixels(inputs)),
            [spatial_attention(m).view(-1, *m.shape[-2:]).numpy() for m in maps],
            [channel_attention(m).numpy() for m in maps],
            attention_by_image(*maps),
            [bench.classes[int(bench.labels[i])] for i in chosen],
            f"Layer {layer} of {bench.name}, {_about(run)}, after training",
        )


@dataclass(frozen=True)
class SyntheticImages:
    """A run's synthetic images, as many of each class.

    Attributes:
        images: (classes, columns, S, S) or (..., 3), values 0 to 1.
        classes: the rows' names.
        confidence: the teacher's probability of the row's class for each image.
        title: which generator.
    """

    images: np.ndarray
    classes: Sequence[str]
    confidence: np.ndarray
    title: str


def synthetic_images(runs: Sequence[Run]) -> SyntheticImages:
    """Images of every class, from the generator or pool of AKT's run at 3 bits or the nearest.

    Raises:
        AktError: if its pool has no image of some class.
    """
    run = _nearest(runs)
    bench = bench_of([run])
    classes = min(10, bench.num_classes)
    images, y = _of_classes(load_generator(run, bench), classes, 10)
    with torch.inference_mode():
        probability = bench.teacher(images).softmax(1).gather(1, y[:, None])
    pixels = _showable(bench.pixels(images))
    return SyntheticImages(
        pixels.reshape(classes, -1, *pixels.shape[1:]),
        bench.classes[:classes],
        probability.view(classes, -1).numpy(),
        f"Synthetic images for {bench.name}: {_about(run)}",
    )


@torch.inference_mode()
def _of_classes(source: Generator | ImagePool, classes: int, count: int) -> tuple[Tensor, Tensor]:
    """Images of each class, and the classes; of a pool as many as every class has there.

    Raises:
        AktError: if the pool has none of some class.
    """
    if isinstance(source, Generator):
        y = torch.arange(classes).repeat_interleave(count)
        z, _ = source.draw(len(y), torch.Generator().manual_seed(0))
        return source(z, y), y
    count = min(count, int(source.labels.bincount(minlength=classes)[:classes].min()))
    if not count:
        raise AktError("this run's pool is too small to show: it has no image of some class")
    chosen = torch.cat([(source.labels == c).nonzero()[:count, 0] for c in range(classes)])
    return source.images[chosen], source.labels[chosen]


def _nearest(runs: Sequence[Run]) -> Run:
    """The run whose student and images are shown: AKT's at 3 bits, or the nearest to it."""

    def rank(run: Run) -> tuple[bool, bool, int]:
        settings = Settings.from_dict(run.entry("settings"))
        unfinished = run.record.get("status") != "done"
        return unfinished, not settings.has_akt, abs(settings.weight_bits - SHOWN_BITS)

    return min(runs, key=rank)


def _about(run: Run) -> str:
    """Which run a picture is of."""
    settings = Settings.from_dict(run.entry("settings"))
    return f"{settings.label}, {settings.weight_bits} bits, seed {settings.seed}"


def _showable(pixels: Tensor) -> np.ndarray:
    """(N, C, S, S) -> (N, S, S) in grey, (N, S, S, 3) in colour, for imshow."""
    return (pixels[:, 0] if pixels.shape[1] == 1 else pixels.permute(0, 2, 3, 1)).numpy()
