"""Files that are whole or not there: writes, locks, tensors on disk; no pickle is ever loaded.

What is written knows a digest of its content, and is verified when it is read.
"""

import errno
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from akt_lab.errors import AktError, DamagedError

LOCK = ".lock"
SHA256 = "sha256:"  # how a digest's text begins
CHANGED = "its content is not what was written"
MADE_AGAIN = "delete it, and it is made again"


def write_whole(path: Path, data: bytes, previous: Path | None = None) -> None:
    """Write `path` whole or not at all: a temporary file beside it, fsync, rename.

    What was there before is kept as `previous`, if that is named; one of the two is always whole.

    Raises:
        AktError: if the disk is full or may not be written; what was there before stays.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if previous and path.exists():
            os.replace(path, previous)
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: OSError) -> AktError:
    """The error to raise for a file that could not be written: says whether the disk is full."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return AktError(
            f"no space left to write {path}: what was saved before is whole; "
            "free some space and go on with --resume"
        )
    return AktError(f"cannot write {path}: {error.strerror or error}")


@contextmanager
def claim(folder: Path, wait: bool = True, progress: bool = False) -> Iterator[None]:
    """Make `folder` if need be, and be the only process in it; ends with the process in any case.

    What killed processes left half written in it is deleted: whoever writes there claims it.
    Where the file system has no locks nobody is kept out, and nothing is deleted.

    Raises:
        AktError: if `wait` is False and another process is in it, or it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        open(folder / LOCK, "a").close()
    except OSError as error:
        raise cannot_write(folder, error) from error
    # A soft lock would outlive its process; the file stays, since others may wait at it.
    lock = FileLock(folder / LOCK, fallback_to_soft=False, preserve_lock_file=True)
    try:
        try:
            lock.acquire(blocking=False)
        except Timeout as error:
            if not wait:
                raise AktError(f"another process is writing to {folder}: wait for it") from error
            if progress:
                print(f"waiting for another process that is writing to {folder}", file=sys.stderr)
            lock.acquire()
        remove_leftovers(folder)
    except (OSError, NotImplementedError):
        pass  # no locks here
    try:
        yield
    finally:
        lock.release()


def remove_leftovers(folder: Path) -> None:
    """Delete what killed writes left in a folder that nobody else writes to."""
    for leftover in folder.glob(".*.tmp"):
        if leftover.stem.rpartition(".")[2].isdigit():  # as `write_whole` names them
            leftover.unlink(missing_ok=True)


def damaged(what: object, reason: object, then: str) -> DamagedError:
    """The error for a file, or a line of one, with the first line of the reason."""
    shown = (str(reason) or type(reason).__name__).splitlines()[0]
    return DamagedError(f"{what} is damaged ({shown})", then)


def save_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    state: Mapping[str, Any],
    previous: Path | None = None,
) -> None:
    """Tensors and a JSON-able state in one safetensors file, written as `write_whole` does."""
    plain, stored = {}, set()
    for name, t in tensors.items():
        t = t.detach().cpu().contiguous()
        where = t.untyped_storage().data_ptr()
        plain[name] = t.clone() if where in stored else t  # tied weights; the format has none
        stored.add(where)
    # One entry: of several the format shuffles the order, and the same content has other bytes.
    about = {"state": json.dumps({**state, "digest": _digest(plain, state)})}
    write_whole(path, save(plain, metadata=about), previous)


def load_tensors(
    path: Path, then: str = "put a whole one in its place"
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `save_tensors` wrote. Files by others load too, with an empty state.

    Raises:
        AktError: if the file is not there or cannot be read.
        DamagedError: if it is not what was written, or no safetensors file; `then`, what to do.
    """
    if not os.path.isfile(path):
        raise AktError(f"{path} is not a file" if os.path.exists(path) else f"no file {path}")
    try:
        data = path.read_bytes()  # not mapped: a file that shrinks meanwhile would end the process
        tensors = dict(sorted(load(data).items()))  # in no order of its own
        header = data[8 : 8 + int.from_bytes(data[:8], "little")]
        about = json.loads(header).get("__metadata__", {})
        if not isinstance(state := json.loads(about.get("state", "{}")), dict):
            raise ValueError("its state is no JSON object")
        digest = state.pop("digest", None)
        # Older files, and those of others, have none.
        if was_sealed("".join(about.values())) and digest != _digest(tensors, state):
            raise ValueError(CHANGED)
        return tensors, state
    except SafetensorError as error:
        raise damaged(path, f"not a whole .safetensors file: {error}", then) from error
    except OSError as error:
        raise AktError(f"{path} cannot be read ({error.strerror or error})") from error
    except Exception as error:  # whatever a broken file can raise
        raise damaged(path, error, then) from error


def was_sealed(text: str) -> bool:
    """Whether JSON has a digest, or what is left of one that was hit itself."""
    return '"digest"' in text or SHA256 in text


def fill(network: nn.Module, tensors: Mapping[str, Tensor], path: Path, then: str) -> None:
    """Load a file's tensors into a network of ours.

    Raises:
        DamagedError: if they are not the network's.
    """
    try:
        network.load_state_dict(tensors)
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise damaged(path, f"it does not fit: {reason}", then) from error


def _digest(tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> str:
    return SHA256 + fingerprint(dict(sorted(tensors.items())), json.dumps(state))


def fingerprint(tensors: Mapping[str, Tensor], about: object = "") -> str:
    """16 hex digits (SHA-256) of the tensors' names, types, shapes and values, and of `about`.

    The same whatever their memory layout and device.
    """
    digest = hashlib.sha256(repr(about).encode())
    for name, t in tensors.items():
        digest.update(repr((name, t.dtype, tuple(t.shape))).encode())
        digest.update(t.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
