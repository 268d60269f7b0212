"""Save a training and go on from it to the same bits: weights, optimisers, random state.

The checkpoint of the epoch before is kept, too: where the last one is damaged, it is one epoch that
is lost and done again. Each holds a copy of the record.
"""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Required, TypedDict

import torch
from torch import Tensor, nn

from akt_lab.errors import AktError, DamagedError
from akt_lab.files import (
    cannot_write,
    damaged,
    fill,
    load_tensors,
    remove_leftovers,
    save_tensors,
)
from akt_lab.quantizer import freeze_ranges
from akt_lab.runs.folder import CHECKPOINT, PREVIOUS, Run, Scores, differences
from akt_lab.runs.verified_json import misfits
from akt_lab.speed import laid_out_as
from akt_lab.step import Training, averaged_copy

NETWORKS = ("student", "generator")  # that learn
AVERAGED = "averaged"  # the student whose weights are averages
BEGIN_AGAIN = "begin another run, into another --out"
OTHER_EPOCHS = "delete it, and the run's other epochs are shown"


class State(TypedDict, total=False):
    """What a checkpoint's header holds; in those of older versions there is no record."""

    epoch: Required[int]
    lam: Required[float | None]
    seconds: Required[float]
    evaluations: Required[list[Scores]]
    settings: Required[dict[str, Any]]
    record: dict[str, Any]


def save(training: Training, run: Run) -> None:
    """Write all of a training that changes into the run's checkpoint."""
    run.update_record(steps_saved=training.epoch * training.settings.steps)
    tensors = {"rng": training.rng.get_state(), **_weights(training, training.student)}
    if training.averaged is not None:
        averages = training.averaged.state_dict()
        tensors |= {f"{AVERAGED}.{name}": tensor for name, tensor in averages.items()}
    if training.holdout is not None:
        tensors["holdout"] = training.holdout
    for kind in NETWORKS:
        optimizer = getattr(training, f"{kind}_optimizer")
        for index, slots in optimizer.state_dict()["state"].items() if optimizer else ():
            for slot, value in slots.items():
                if value is not None:
                    tensors[f"{kind}_optimizer.{index}.{slot}"] = torch.as_tensor(value)
    state = {
        "record": run.record,
        "settings": training.settings.to_dict(),
        "epoch": training.epoch,
        "lam": training.lam,
        "seconds": training.seconds,
        "evaluations": training.evaluations,
    }
    save_tensors(run / CHECKPOINT, tensors, state, run / PREVIOUS)


def keep_epoch(training: Training, run: Run) -> None:
    """Keep student and generator as they are now, in `epochs/`, for the explorers."""
    path = run.epoch(training.epoch)
    try:
        path.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise cannot_write(path.parent, error) from error
    remove_leftovers(path.parent)
    save_tensors(path, _weights(training, training.judged), {"epoch": training.epoch})


def load_epoch(run: Run, epoch: int) -> dict[str, Tensor]:
    """What `keep_epoch` kept, `student.*` and `generator.*`.

    Raises:
        AktError: if the run did not keep that epoch.
        DamagedError: if it is not what was kept.
    """
    if not run.epoch(epoch).exists():
        raise AktError(f"{run.folder} has not kept epoch {epoch}: only a run with --watch does")
    return load_tensors(run.epoch(epoch), OTHER_EPOCHS)[0]


def _weights(training: Training, student: nn.Module) -> dict[str, Tensor]:
    networks = dict(zip(NETWORKS, (student, training.generator), strict=True))
    return {f"{k}.{name}": t for k, net in networks.items() for name, t in net.state_dict().items()}


def has_checkpoint(run: Run) -> bool:
    """Whether there is something to go on from."""
    return (run / CHECKPOINT).exists() or (run / PREVIOUS).exists()


def last_whole(run: Run) -> tuple[dict[str, Tensor], dict[str, Any], Path]:
    """Tensors and state of a run's last checkpoint that is not damaged, and which file it is.

    Where that is the one before the last, a line on standard error says why.

    Raises:
        AktError: if there is no checkpoint yet.
        DamagedError: if none is whole; names them.
    """
    if not has_checkpoint(run):
        raise AktError(
            f"{run.folder} has no checkpoint yet: its first comes at the end of the first epoch"
        )
    wrong = []
    for path in (run / CHECKPOINT, run / PREVIOUS):
        try:
            tensors, state = load_tensors(path)
            if bad := misfits(state, State):
                raise damaged(path, f"its {bad[0]} is wrong", "")
        except DamagedError as error:
            wrong.append(error.what)
        except AktError:
            if path.exists():  # it cannot be read: that is no damage
                raise
            wrong.append(f"{path} is not there")
        else:
            if wrong:
                print(
                    f"{wrong[0]}: {path.name} of epoch {state['epoch']} is taken", file=sys.stderr
                )
            return tensors, state, path
    raise DamagedError(
        " and ".join(wrong), f"delete what is damaged, and {run.resume_command} begins again"
    )


def resume(training: Training, run: Run) -> None:
    """Go on from the run's last whole checkpoint, if it has one; forget later rows of its history.

    Raises:
        AktError: if the checkpoint is of other settings: names the first one.
        DamagedError: if no checkpoint is whole, or the history is not.
    """
    if not has_checkpoint(run):
        run.cut_history(0)
        return
    tensors, state, path = last_whole(run)
    ours = json.loads(json.dumps(training.settings.to_dict()))  # tuples are lists, as in a file
    for name, old, new in differences(state["settings"], ours):
        raise AktError(f"{path} was made with {name} {old}, not {new}: use another run folder")
    run.cut_history(state["epoch"])
    for name in ("epoch", "lam", "seconds", "evaluations"):
        setattr(training, name, state[name])
    try:
        _take(training, tensors, path)
    except AktError:
        raise
    except (KeyError, ValueError, IndexError, TypeError, RuntimeError) as error:  # an older one
        raise damaged(path, error, BEGIN_AGAIN) from error
    if path == run / PREVIOUS:  # or the next one would send the damaged one into its place
        try:
            os.replace(path, run / CHECKPOINT)
        except OSError as error:
            raise cannot_write(run / CHECKPOINT, error) from error


def _take(training: Training, tensors: dict[str, Tensor], path: Path) -> None:
    if "holdout" in tensors:  # where the networks are, and laid out as it was drawn
        device = next(training.student.parameters()).device
        training.holdout = tensors["holdout"].to(device, memory_format=torch.channels_last)
    training.rng.set_state(tensors["rng"])
    for kind in NETWORKS:
        fill(getattr(training, kind), under(tensors, f"{kind}."), path, BEGIN_AGAIN)
        if optimizer := getattr(training, f"{kind}_optimizer"):
            _load_optimizer(optimizer, under(tensors, f"{kind}_optimizer."))
    if not training.warming_up:
        freeze_ranges(training.student)
    if averages := under(tensors, f"{AVERAGED}."):
        training.averaged = averaged_copy(training.student)
        fill(training.averaged, averages, path, BEGIN_AGAIN)


def put_back_record(run: Run, error: DamagedError) -> None:
    """Where a record is damaged: put back the copy in the last whole checkpoint, and say so.

    The run then goes on from that checkpoint, also if it had ended: its end is the same.

    Raises:
        AktError: if there is no copy: an older version's checkpoint, or none that is whole.
    """
    none = f"{error.what}, and no checkpoint has a copy: begin another run, into another --out"
    if not has_checkpoint(run):
        raise AktError(none) from error
    _, state, path = last_whole(run)
    if "record" not in state:
        raise AktError(none) from error
    run.write_record(state["record"])
    print(f"{error.what}: it is put back from {path.name}", file=sys.stderr)


def check_own(run: Run, state: Mapping[str, Any], path: Path, then: str) -> None:
    """Refuse another run's file, put in this one's folder.

    Raises:
        DamagedError: if it was made with other settings, by another teacher or on other images.
    """
    about = {"settings": run.settings.to_dict(), "fingerprints": run.get("fingerprints", {})}
    for name, ours in json.loads(json.dumps(about)).items():
        theirs = state.get(name) or {}  # older files lack them, or some settings
        if any(ours.get(key, value) != value for key, value in theirs.items()):
            raise damaged(path, f"its {name} are another run's", then)


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
