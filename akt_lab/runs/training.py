"""A whole run: its networks, the loop around the step, evaluation, and what it leaves behind."""

import math
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from akt_lab.benches import Bench
from akt_lab.benches.fit import check_logits
from akt_lab.errors import AktError, DivergedError, UsageError
from akt_lab.files import save_tensors
from akt_lab.image_pool import ImagePool
from akt_lab.quantizer import CHOSEN, effective_bits, freeze_ranges
from akt_lab.runs import found
from akt_lab.runs.agreement import agreement, at_once
from akt_lab.runs.checkpoint import keep_epoch, resume, save
from akt_lab.runs.folder import STUDENT, NewRows, Run, check_made_with
from akt_lab.runs.in_turns import Steps, without_stops
from akt_lab.runs.networks import HOLDOUT, prepare
from akt_lab.runs.networks import found as networks_of
from akt_lab.runs.recorded_steps import RecordedSteps
from akt_lab.settings import Settings
from akt_lab.shared_graph import SharedGraph
from akt_lab.step import Training

# ---- the loop -----------------------------------------------------------------------------------


def stepwise(
    bench: Bench,
    settings: Settings,
    run: Run | None = None,
    progress: bool = True,
    make_bar: Callable[..., Any] = tqdm,
    watch: bool = False,
    graphs: dict[str, SharedGraph] | None = None,
) -> Steps[Training]:
    """Train a student; leave record, history, checkpoints and student in `run`'s folder.

    Stops after each step, so that other students can take theirs in between; `train` does not.

    Goes on from the folder's checkpoint where there is one, to the same bits.

    Args:
        bench: the teacher, and what it is judged on.
        settings: what to do.
        run: the run folder, or None to keep nothing.
        progress: whether to show a progress bar.
        make_bar: what makes it; called and used as tqdm.
        watch: whether to keep what the explorers show: student and generator after every epoch,
            and each layer's gradient norm at every step. No number changes by it.
        graphs: of compiled steps, shared by the runs of a bench that are given one dict.

    Returns:
        What was trained, when it ends.

    Raises:
        DivergedError: a loss that is not finite: which one, and where.
        AktError: a full disk, a teacher that cannot be quantized; a folder that was begun with
            other settings, another teacher or other images.
        UsageError: TF32, which is a GPU's, on a processor.
    """
    if settings.precision == "tf32" and bench.device.type != "cuda":
        raise UsageError("--precision tf32 is a GPU's: on a processor it is fp32")
    if run:
        check_made_with(bench, run.folder, run.get("fingerprints", {}))
    training = prepare(bench, settings, progress, make_bar)
    training.watch = watch
    training.graphs = {} if graphs is None else graphs
    networks = networks_of(training)
    if progress and make_bar is tqdm:  # a sweep says it once for all
        for line in found.in_float(bench.name, networks):
            found.say(line)
    if run:
        resume(training, run)
        prints = bench.fingerprints_of(training.method)
        made = {"settings": settings.to_dict(), "fingerprints": prints}
        about: dict[str, Any] = {**made, "watched": watch, "float_weights": networks.float_weights}
        about |= {"steps_saved": training.epoch * settings.steps}
        if training.epoch < settings.epochs:
            run.begin(training.epoch, str(bench.device), **about)
        else:  # the end alone is made again
            run.update_record(**about)
    begun, total = (epoch * settings.steps for epoch in (training.epoch, settings.epochs))
    with make_bar(initial=begun, total=total, unit="step", disable=not progress) as bar:
        bar.set_description(f"{settings.method} {settings.bits}")
        try:
            steps = RecordedSteps(training)
            while training.epoch < settings.epochs:
                if steps.warming_up != training.warming_up:
                    steps = RecordedSteps(training)
                yield from _run_epoch(training, steps, bench, run, bar)
        except AktError as error:
            if run:
                _record_failure(training, run, error)
            raise
    training.student = training.judged
    if run:
        save_tensors(run / STUDENT, training.student.state_dict(), made)
        run.update_record(status="done", steps_done=total, **_outcome(training))
    return training


train = without_stops(stepwise)


def _outcome(training: Training) -> dict[str, Any]:
    bits: dict[str, float] = {}
    if training.holdout is not None:  # the ranges are there; a single image counts like many
        each = effective_bits(training.student, training.holdout[:1])
        bits = dict(zip(("weights", "activations"), (round(b, 3) for b in each), strict=True))
    return {
        "lam": training.lam,
        "accuracy": summary(training) if training.evaluations else {},
        "evaluations": training.evaluations,
        "effective_bits": bits,
        "seconds": round(training.seconds, 1),
    }


def _record_failure(training: Training, run: Run, error: AktError) -> None:
    """`failed` is final; what was `stopped` by a full disk, say, can go on."""
    about: dict[str, Any] = {"status": "stopped", "error": str(error)}
    with suppress(AktError):  # a full disk has no room for this either
        if isinstance(error, DivergedError):
            about |= {"status": "failed", "steps_done": run.steps_in_history()}
        run.update_record(**about, **_outcome(training))


def _run_epoch(
    training: Training, steps: RecordedSteps, bench: Bench, run: Run | None, bar: Any
) -> Steps[None]:
    """One epoch, step by step: its history is written even if it breaks off, its checkpoint not."""
    rows, in_all = NewRows(run), training.settings.steps
    started = time.perf_counter()
    _set_rates(training)
    try:
        for step in range(in_all):
            if not steps.waiting:
                steps.draw(in_all - step)
            steps.do()
            if not steps.waiting:
                _fetch(training.epoch, step + 1, steps, rows)
                bar.set_postfix(_live(training, rows[-1]), refresh=False)
                rows.write_some()
            bar.update()
            yield
        _end_epoch(training, bench, rows[-1])
    finally:
        seconds = time.perf_counter() - started
        training.seconds += seconds
        rows.write()
    _project(training, seconds, run, bar)
    if run:
        if training.watch:
            keep_epoch(training, run)
        save(training, run)


def _project(training: Training, seconds: float, run: Run | None, bar: Any) -> None:
    """Say how long all will take if each epoch left takes as long as the last one's `seconds`.

    Not before the student learns: an epoch of the warm-up is shorter.
    """
    s = training.settings
    if training.epoch <= s.warmup_epochs < s.epochs:
        return
    in_all = training.seconds + seconds * (s.epochs - training.epoch)
    shown = f"{in_all / 3600:.1f} h" if in_all > 5400 else f"{in_all / 60:.1f} min"
    bar.set_description(f"{s.method} {s.bits}, ~{shown} in all")
    if run:
        run.update_record(projected_seconds=round(in_all, 1))


def _fetch(epoch: int, done: int, steps: RecordedSteps, rows: list[dict[str, float]]) -> None:
    """Move the numbers of the last steps into `rows`, `done` having been done in this epoch.

    Raises:
        DivergedError: at the first that is not finite; it is the last row then.
    """
    fetched = steps.fetch()
    for step, numbers in enumerate(fetched, done - len(fetched)):
        rows.append({"epoch": epoch, "step": step, **numbers})
        _check_finite(rows[-1])


def _live(training: Training, numbers: dict[str, float]) -> dict[str, str]:
    side = "generator" if training.warming_up else "student"
    losses = {k: v for k, v in numbers.items() if k != "student/gradient_norm"}
    shown = {f"{side} loss": f"{sum(v for k, v in losses.items() if k.startswith(side)):.3g}"}
    if training.evaluations:
        shown["accuracy"] = f"{training.evaluations[-1]['accuracy']:.2f}%"
    return shown


def _check_finite(row: dict[str, float]) -> None:
    bad = [n for n, v in row.items() if not math.isfinite(v) and not n.startswith("gradient/")]
    if bad:
        raise DivergedError(
            f"the run diverged: {', '.join(bad)} not finite at epoch {row['epoch']}, step "
            f"{row['step']}; the last checkpoint is kept. Try more bits or a lower --student-lr"
        )


def rate_factor(s: Settings, epoch: int) -> float:
    """What both learning rates are multiplied by in an epoch, of a run with settings `s`.

    `steps`: a tenth for each milestone that is behind. `cosine`: 1 in the warm-up, then
    (1 + cos(pi e/E)) / 2 in the e-th of E epochs, from 0 on (SGDR, arXiv 1608.03983, without
    restarts): all of an epoch's steps have one rate, and the last epoch's is not yet 0.
    """
    if s.schedule == "steps":
        return 0.1 ** sum(epoch >= milestone for milestone in s.milestones)
    done = max(0, epoch - s.warmup_epochs) / max(1, s.epochs - s.warmup_epochs)
    return (1 + math.cos(math.pi * done)) / 2


def _set_rates(training: Training) -> None:
    """Of generator and student, for this epoch."""
    factor = rate_factor(training.settings, training.epoch)
    for optimizer in (training.generator_optimizer, training.student_optimizer):
        for group in optimizer.param_groups if optimizer else ():
            rate = group.setdefault("initial_lr", group["lr"]) * factor
            if isinstance(group["lr"], Tensor):  # which a recorded step reads
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate


def _end_epoch(training: Training, bench: Bench, row: dict[str, float]) -> None:
    """Freeze the ranges after the warm-up, evaluate, and move on to the next epoch."""
    was_warming_up = training.warming_up
    training.epoch += 1
    if was_warming_up and not training.warming_up:
        _freeze_ranges(training)
        training.holdout = _draw_holdout(training)
    elif not training.warming_up and training.epoch in training.settings.range_epochs:
        _freeze_ranges(training)
    last = training.epoch == training.settings.epochs
    due = training.epoch % training.settings.eval_every == 0
    if not training.warming_up and (last or due):
        scores = {"epoch": training.epoch, "accuracy": evaluate(training.judged, bench)}
        scores |= _agreement(training)
        training.evaluations.append(scores)
        row |= {name: value for name, value in scores.items() if name != "epoch"}
        _check_finite(row)


# ---- evaluation ---------------------------------------------------------------------------------


@torch.inference_mode()
def evaluate(
    network: nn.Module,
    bench: Bench,
    progress: bool = False,
    look: Callable[[Tensor], object] = lambda logits: None,
) -> float:
    """Top-1 accuracy on the bench's evaluation images, in percent; `look` is shown all logits."""
    correct, seen = torch.zeros((), dtype=torch.long, device=bench.device), 0
    batches = tqdm(bench.batches(), total=bench.num_batches, unit="batch", disable=not progress)
    for images, labels in batches:
        look(logits := network(images))
        correct += (logits.argmax(dim=1) == labels).sum()
        seen += len(labels)
    return 100 * correct.item() / seen


def judge(bench: Bench, progress: bool = False) -> float:
    """The teacher's accuracy, in percent; with `progress`, warns where it is that of guessing.

    Raises:
        AktError: logits that are not finite, or are probabilities.
    """
    low, high = [], []

    def look(logits: Tensor) -> None:
        check_logits(logits)
        low.append(logits.amin(0))
        high.append(logits.amax(0))

    accuracy = evaluate(bench.teacher, bench, progress, look)
    chance = 1 / bench.num_classes
    spread = min(chance / 2, 2 * math.sqrt(chance * (1 - chance) / len(bench.images)))
    warning = ""
    if len(bench.images) > 1 and torch.equal(torch.stack(low).amin(0), torch.stack(high).amax(0)):
        warning = "the teacher's logits are the same for every image"
    elif bench.num_classes > 1 and accuracy <= 100 * (chance + spread):
        warning = f"the teacher's {accuracy:.2f}% are those of guessing among {bench.num_classes}"
    elif len(bench.images) > 9 and torch.stack(low).min() >= 0 and torch.stack(high).max() <= 1:
        if progress:
            found.say(
                f"{bench.name}: all logits lie between 0 and 1: if the teacher ends in a sigmoid, "
                "return what goes into it, for losses take a softmax of logits"
            )
    if warning and progress:
        found.say(f"{bench.name}: {warning}: look at the order of classes, --mean and --std, "
            "--image-size, --weights")  # fmt: skip
    return accuracy


def _freeze_ranges(training: Training) -> None:
    """Where the rule is one that chooses, it does so by up to 256 images, drawn for that alone."""
    images = None
    if training.settings.ranges in CHOSEN:
        images = _draw(training, HOLDOUT, training.settings.seed + 2)
        images = images[: at_once(images.shape[-1])]  # one pass, so fewer of large ones
    with training.autocast:
        freeze_ranges(training.student, images)


def _draw_holdout(training: Training) -> Tensor:
    """Images for choosing without labels, the same for every student of one generator.

    Synthetic; real ones of the training images for a student that learns on them.
    """
    source = training.generator
    if isinstance(source, ImagePool) and len(source.held_out):
        return source.held_out
    return _draw(training, HOLDOUT, training.settings.seed + 1)


def _draw(training: Training, count: int, seed: int) -> Tensor:
    """Images as the student gets them; the training's own random state stays."""
    source, rng = training.generator, torch.Generator().manual_seed(seed)
    if isinstance(source, ImagePool):
        return source.draw(count, rng)[0]
    noise = [part.split(at_once(4 * source.start)) for part in source.draw(count, rng)]
    source.eval()
    with torch.no_grad():
        images = torch.cat([source(z, y) for z, y in zip(*noise, strict=True)])
    source.train()
    return images


def _agreement(training: Training) -> dict[str, float]:
    """How close the student is to the teacher on the held-out images: no labels.

    They are synthetic, as the entries' names say, but for method `real`.
    """
    assert training.holdout is not None
    kl, same = agreement(training.judged, training.teacher, training.holdout)
    return {"synthetic_kl": kl, "synthetic_agreement": same}


def summary(training: Training) -> dict[str, float]:
    """Accuracy of the last epoch, of the one closest to the teacher without labels, and the best.

    `best` chooses on the evaluation images, as the papers do: read it beside the other two only.
    """
    evaluations = training.evaluations
    best = max(evaluations, key=lambda e: e["accuracy"])
    label_free = min(evaluations, key=lambda e: e["synthetic_kl"])
    return {
        "last": evaluations[-1]["accuracy"],
        "label_free": label_free["accuracy"],
        "label_free_epoch": label_free["epoch"],
        "best": best["accuracy"],
        "best_epoch": best["epoch"],
    }
