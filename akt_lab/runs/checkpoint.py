"""Save a training and go on from it to the same bits: weights, optimisers, random state."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from akt_lab.errors import AktError
from akt_lab.files import load_tensors, save_tensors
from akt_lab.quantizer import freeze_ranges
from akt_lab.runs.folder import CHECKPOINT, Run
from akt_lab.speed import laid_out_as


def save(training: Any, run: Run) -> None:
    """Write all of a `training.Training` that changes into the run's checkpoint."""
    tensors = dict(_tensors(training))
    if training.holdout is not None:
        tensors["holdout"] = training.holdout
    state = {
        "settings": training.settings.to_dict(),
        "epoch": training.epoch,
        "lam": training.lam,
        "seconds": training.seconds,
        "evaluations": training.evaluations,
    }
    save_tensors(run / CHECKPOINT, tensors, state)


def keep_epoch(training: Any, run: Run) -> None:
    """Keep student and generator as they are now, in `epochs/`, for the explorers."""
    networks = ("student", training.student), ("generator", training.generator)
    tensors = {f"{kind}.{k}": t for kind, net in networks for k, t in net.state_dict().items()}
    path = run.epoch(training.epoch)
    path.parent.mkdir(exist_ok=True)
    save_tensors(path, tensors, {"epoch": training.epoch})


def load_epoch(run: Run, epoch: int) -> dict[str, Tensor]:
    """What `keep_epoch` kept, `student.*` and `generator.*`.

    Raises:
        AktError: if the run did not keep that epoch.
    """
    if not run.epoch(epoch).exists():
        raise AktError(f"{run.folder} has not kept epoch {epoch}: only a run with --watch does")
    return load_tensors(run.epoch(epoch))[0]


def _tensors(training: Any) -> Iterator[tuple[str, Tensor]]:
    yield "rng", training.rng.get_state()
    for kind in ("student", "generator"):
        for name, tensor in getattr(training, kind).state_dict().items():
            yield f"{kind}.{name}", tensor
        optimizer = getattr(training, f"{kind}_optimizer")
        if optimizer is None:  # ready images
            continue
        for index, slots in optimizer.state_dict()["state"].items():
            for slot, value in slots.items():
                if value is not None:
                    yield f"{kind}_optimizer.{index}.{slot}", torch.as_tensor(value)


def resume(training: Any, run: Run) -> None:
    """Go on from the run's checkpoint, if it has one; forget later rows of its history.

    Raises:
        AktError: if the checkpoint is of other settings: names the first one.
    """
    path: Path = run / CHECKPOINT
    tensors, state = load_tensors(path) if path.exists() else ({}, {"epoch": 0})
    _check_same(training, state, path)
    run.cut_history(state["epoch"] * training.settings.steps)
    if not tensors:
        return
    training.epoch, training.lam = state["epoch"], state["lam"]
    training.seconds = state["seconds"]
    training.evaluations, training.holdout = state["evaluations"], tensors.get("holdout")
    training.rng.set_state(tensors["rng"])
    for kind in ("student", "generator"):
        getattr(training, kind).load_state_dict(under(tensors, f"{kind}."))
        if optimizer := getattr(training, f"{kind}_optimizer"):
            _load_optimizer(optimizer, under(tensors, f"{kind}_optimizer."))
    if not training.warming_up:
        freeze_ranges(training.student)


def _check_same(training: Any, state: dict[str, Any], path: Path) -> None:
    ours = json.loads(json.dumps(training.settings.to_dict()))  # tuples are lists, as in a file
    for name, then in state.get("settings", {}).items():
        if ours[name] != then:
            raise AktError(
                f"{path} was made with {name} {then}, not {ours[name]}: use another run folder"
            )


def under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start with `prefix`, without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    state = optimizer.state_dict()
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    for name, value in tensors.items():
        index, slot = name.split(".")
        weight = weights[int(index)].detach()
        whole = value.shape == weight.shape  # and not a count of steps
        state["state"].setdefault(int(index), {})[slot] = (
            laid_out_as(weight, value) if whole else value
        )
    optimizer.load_state_dict(state)
