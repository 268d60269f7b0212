"""A grid of runs, two or more side by side, each in a process and with threads of its own.

Small networks keep one core busy and leave the second idle, so two single-thread runs side by
side finish nearly twice as fast as one after the other.
"""

import functools
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from akt_lab.benches import Bench, BenchSpec, load_bench
from akt_lab.errors import AktError, UsageError
from akt_lab.methods import Settings
from akt_lab.runs import RECORD, Run
from akt_lab.training import evaluate, train


@dataclass(frozen=True)
class Job:
    """One run of a grid: what to do, on which bench, into which folder."""

    settings: Settings
    spec: BenchSpec
    folder: Path


def run_grid(jobs: Sequence[Job], workers: int | None = None, progress: bool = True) -> list[Run]:
    """Do every job that is not done yet, `workers` at a time; a diverged run stops no other.

    Args:
        jobs: their folders differ.
        workers: processes, one thread each; as many as there are cores where None.
        progress: whether each worker shows a bar.

    Returns:
        The jobs' runs, in their order; look at each record's `status`.
    """
    for spec in {job.spec for job in jobs}:
        load_bench(spec, progress=progress)  # here first: mistakes show at once, caches are filled
    context = multiprocessing.get_context("spawn")
    start = (context.RLock(), context.Value("i", 0))
    workers = min(workers or os.cpu_count() or 1, len(jobs))
    if workers < 1:
        raise UsageError(f"workers must be at least 1, not {workers}")
    with ProcessPoolExecutor(workers, context, _start_worker, start) as pool:
        futures = [pool.submit(_run_job, job, progress) for job in jobs]
        try:
            for future in as_completed(futures):
                future.result()
        except BrokenProcessPool as error:
            raise AktError(
                "a worker was killed (out of memory?): the same command goes on"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [Run.open(job.folder) for job in jobs]


def _start_worker(lock: Any, counter: Any) -> None:
    """One thread a worker, and one line of the screen."""
    global _position
    torch.set_num_threads(1)
    with counter.get_lock():
        _position = counter.value
        counter.value += 1
    tqdm.set_lock(lock)


_position = 0


@functools.lru_cache(maxsize=2)
def _bench(spec: BenchSpec) -> tuple[Bench, float]:
    bench = load_bench(spec, progress=False)
    return bench, evaluate(bench.teacher, bench)


def _run_job(job: Job, progress: bool) -> None:
    if _is_done(job):
        return
    run = Run(job.folder) if (job.folder / RECORD).exists() else Run.create(job.folder)
    try:
        do(job, run, *_bench(job.spec), progress, _position)
    except AktError as error:
        if run.record.get("status") != "failed":  # not a divergence: a mistake, or a full disk
            raise error


def do(
    job: Job, run: Run, bench: Bench, teacher_accuracy: float, progress: bool, position: int = 0
) -> None:
    """Do one job in its run folder, from the folder's checkpoint where there is one.

    Raises:
        AktError: what `training.train` raises.
    """
    run.update_record(
        settings=asdict(job.settings),
        bench=job.spec.to_dict(),
        teacher_accuracy=teacher_accuracy,
        images=len(bench.images),
        classes=bench.num_classes,
    )
    train(bench, job.settings, run, progress, position)


def _is_done(job: Job) -> bool:
    """Whether the folder holds this very run, ended.

    Raises:
        AktError: if it holds another one.
    """
    if not (job.folder / RECORD).exists():
        return False
    record = Run.open(job.folder).record
    if "settings" not in record:
        return False
    if Settings.from_dict(record["settings"]) != job.settings:
        raise AktError(f"{job.folder} holds a run with other settings: choose another --out")
    return record.get("status") in ("done", "failed")
