"""Others' code, run so that it leaves no trace: research code sets seeds, flags and more."""

import io
import os
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from typing import Any

import numpy as np
import torch

_cudnn = torch.backends.cudnn


def _device() -> torch.device:
    try:
        return torch.get_default_device()
    except AttributeError:  # in PyTorch 2.6, where None was set
        return torch.device("cpu")


def _set_device(device: torch.device) -> None:
    if device != _device():  # to set it at all would slow every call
        torch.set_default_device(None if device.type == "cpu" else device)


STATE: tuple[tuple[Callable[[], Any], Callable[[Any], Any]], ...] = (
    (os.getcwd, os.chdir),
    (lambda: sys.argv[:], lambda old: sys.argv.__setitem__(slice(None), old)),
    (random.getstate, random.setstate),
    (np.random.get_state, np.random.set_state),
    (torch.get_rng_state, torch.set_rng_state),
    (torch.is_grad_enabled, torch.set_grad_enabled),
    (torch.get_default_dtype, torch.set_default_dtype),
    (_device, _set_device),
    (torch.get_num_threads, torch.set_num_threads),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
    (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    (lambda: _cudnn.benchmark, partial(setattr, _cudnn, "benchmark")),
    (lambda: _cudnn.deterministic, partial(setattr, _cudnn, "deterministic")),
)


@contextmanager
def no_trace() -> Iterator[io.StringIO]:
    """Run a block without our command line's arguments; put back afterwards what it changed.

    What it prints comes on standard error when it has succeeded, and is yielded: standard output
    may be read by a program.
    """
    kept, said = [(put, get()) for get, put in STATE], io.StringIO()
    sys.argv[1:] = []
    try:
        with warnings.catch_warnings(), redirect_stdout(said), redirect_stderr(said):
            yield said
    finally:
        for put, value in kept:
            put(value)
    sys.stderr.write(said.getvalue())
