"""Files that are whole or not there: writes, locks, tensors on disk; no pickle is ever loaded."""

import errno
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

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
def claim(folder: Path, wait: bool = True) -> Iterator[None]:
    """Make `folder` if need be, and be the only process in it; ends with the process in any case.

    Where the file system has no locks (or on Windows) nobody is kept out.

    Raises:
        AktError: if `wait` is False and another process is in it, or it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / LOCK, "w")
    except OSError as error:
        raise cannot_write(folder, error) from error
    with file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise AktError(f"another process is writing to {folder}: wait for it") from error
        except (ImportError, OSError):
            pass
        yield


def save_tensors(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Tensors and a JSON-able state in one safetensors file, written whole."""
    plain = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
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
