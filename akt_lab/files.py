"""Files that are whole or not there: writes, locks, tensors on disk; no pickle is ever loaded."""

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
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from akt_lab.errors import AktError

LOCK = ".lock"


def write_whole(path: Path, data: bytes) -> None:
    """Write `path` whole or not at all: a temporary file beside it, fsync, rename.

    Raises:
        AktError: if the disk is full or may not be written; what was there before stays.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
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


def save_tensors(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Tensors and a JSON-able state in one safetensors file, written whole."""
    dense = torch.contiguous_format  # each its own memory, which the format asks for: tied weights
    plain = {name: t.detach().cpu().clone(memory_format=dense) for name, t in tensors.items()}
    write_whole(path, save(plain, metadata={"state": json.dumps(state)}))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `save_tensors` wrote. Files by others load too, with an empty state.

    Raises:
        AktError: if the file is not there or is no safetensors file.
    """
    try:
        with safe_open(str(path), "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            return tensors, json.loads((file.metadata() or {}).get("state", "{}"))
    except FileNotFoundError as error:
        raise AktError(f"no file {path}") from error
    except (SafetensorError, OSError) as error:
        raise AktError(f"{path} is not a whole .safetensors file ({error})") from error


def fingerprint(tensors: Mapping[str, Tensor], about: object = "") -> str:
    """16 hex digits (SHA-256) of the tensors' names, types, shapes and values, and of `about`.

    The same whatever their memory layout and device.
    """
    digest = hashlib.sha256(repr(about).encode())
    for name, t in tensors.items():
        digest.update(repr((name, t.dtype, tuple(t.shape))).encode())
        digest.update(t.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
