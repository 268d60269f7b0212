"""Save a training and go on from it to the same bits: weights, optimisers, random state."""

import json
from pathlib import Path

import torch
from torch import Tensor

from akt_lab.errors import AktError
from akt_lab.files import load_tensors, remove_leftovers, save_tensors
from akt_lab.quantizer import freeze_ranges
from akt_lab.runs.folder import CHECKPOINT, Run, differences
from akt_lab.speed import laid_out_as
from akt_lab.step import Training

NETWORKS = ("student", "generator")  # that learn


def save(training: Training, run: Run) -> None:
    """Write all of a training that changes into the run's checkpoint."""
    tensors = {"rng": training.rng.get_state(), **_weights(training)}
    if training.holdout is not None:
        tensors["holdout"] = training.holdout
    for kind in NETWORKS:
        optimizer = getattr(training, f"{kind}_optimizer")
        for index, slots in optimizer.state_dict()["state"].items() if optimizer else ():
            for slot, value in slots.items():
                if value is not None:
                    tensors[f"{kind}_optimizer.{index}.{slot}"] = torch.as_tensor(value)
    state = {
        "settings": training.settings.to_dict(),
        "epoch": training.epoch,
        "lam": training.lam,
        "seconds": training.seconds,
        "evaluations": training.evaluations,
    }
    save_tensors(run / CHECKPOINT, tensors, state)


def keep_epoch(training: Training, run: Run) -> None:
    """Keep student and generator as they are now, in `epochs/`, for the explorers."""
    path = run.epoch(training.epoch)
    path.parent.mkdir(exist_ok=True)
    remove_leftovers(path.parent)
    save_tensors(path, _weights(training), {"epoch": training.epoch})


def load_epoch(run: Run, epoch: int) -> dict[str, Tensor]:
    """What `keep_epoch` kept, `student.*` and `generator.*`.

    Raises:
        AktError: if the run did not keep that epoch.
    """
    if not run.epoch(epoch).exists():
        raise AktError(f"{run.folder} has not kept epoch {epoch}: only a run with --watch does")
    return load_tensors(run.epoch(epoch))[0]


def _weights(training: Training) -> dict[str, Tensor]:
    networks = [(kind, getattr(training, kind).state_dict()) for kind in NETWORKS]
    return {f"{kind}.{name}": tensor for kind, net in networks for name, tensor in net.items()}


def resume(training: Training, run: Run) -> None:
    """Go on from the run's checkpoint, if it has one; forget later rows of its history.

    Raises:
        AktError: if the checkpoint is of other settings: names the first one.
    """
    path: Path = run / CHECKPOINT
    tensors, state = load_tensors(path) if path.exists() else ({}, {"epoch": 0})
    ours = json.loads(json.dumps(training.settings.to_dict()))  # tuples are lists, as in a file
    for name, old, new in differences(state.get("settings", {}), ours):
        raise AktError(f"{path} was made with {name} {old}, not {new}: use another run folder")
    run.cut_history(state["epoch"] * training.settings.steps)
    if not tensors:
        return
    for name in ("epoch", "lam", "seconds", "evaluations"):
        setattr(training, name, state[name])
    if "holdout" in tensors:  # where the networks are, and laid out as it was drawn
        device = next(training.student.parameters()).device
        training.holdout = tensors["holdout"].to(device, memory_format=torch.channels_last)
    training.rng.set_state(tensors["rng"])
    for kind in NETWORKS:
        getattr(training, kind).load_state_dict(under(tensors, f"{kind}."))
        if optimizer := getattr(training, f"{kind}_optimizer"):
            _load_optimizer(optimizer, under(tensors, f"{kind}_optimizer."))
    if not training.warming_up:
        freeze_ranges(training.student)


def under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start with `prefix`, without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    state = optimizer.state_dict()
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    for name, value in tensors.items():
        index, slot = name.split(".")
        weight = weights[int(index)].detach()
        if value.shape == weight.shape:  # and not a count of steps
            value = laid_out_as(weight, value)
        state["state"].setdefault(int(index), {})[slot] = value
    optimizer.load_state_dict(state)
