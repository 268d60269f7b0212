"""A grid of runs: in this process, on workers of this machine, or on a Dask cluster.

Small networks keep one core busy and leave the second idle, so two single-thread runs side by
side finish nearly twice as fast as one after the other. A run that lost its worker is done again
from its checkpoint; one that ended is never done again.
"""

import functools
import os
import socket
import threading
import uuid
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from akt_lab import results
from akt_lab.benches import Bench, load_bench
from akt_lab.errors import AktError, DivergedError, UsageError
from akt_lab.grid import Job, has_ended
from akt_lab.live import Live, Report, Tell
from akt_lab.results import Line, Results
from akt_lab.runs import Run, claim
from akt_lab.training import evaluate, train

Ended = tuple[Job, Line | Exception]
PATIENCE = 10  # seconds for a cluster to answer


@dataclass(frozen=True)
class Place:
    """Where runs are done.

    Attributes:
        workers: processes on this machine; as many as there are cores where None, and 0 for this
            process itself.
        scheduler: address of a Dask cluster in place of them; its workers see the same folders.
        device: `cpu` or `cuda`; what each worker has where None.
        threads: of each run. Sums round differently with another number.
    """

    workers: int | None = None
    scheduler: str | None = None
    device: str | None = "cpu"
    threads: int = 1

    def __post_init__(self) -> None:
        """Refuse what cannot be right."""
        if self.workers is not None and self.workers < 0:
            raise UsageError(f"workers must be at least 0, not {self.workers}")
        if self.threads < 1:
            raise UsageError(f"--threads must be at least 1, not {self.threads}")
        if self.scheduler and self.workers is not None:
            raise UsageError("--workers and --scheduler exclude each other: a cluster has its own")


def run_grid(
    jobs: Sequence[Job],
    workers: int | None = None,
    progress: bool = True,
    place: Place | None = None,
    results_file: Path | None = None,
) -> list[Run]:
    """Do every job that has not ended yet; a diverged run stops no other.

    Args:
        jobs: their folders differ.
        workers: shorthand for `place`: processes, one thread each.
        progress: whether to show it.
        place: where to do them.
        results_file: each run's line is appended here when it ends.

    Returns:
        The jobs' runs, in their order; look at each record's `status`.

    Raises:
        AktError: a mistake (it stops all), or runs that did not end; the same call goes on.
    """
    place = place or Place(workers)
    with claim(results_file.parent, wait=False) if results_file else nullcontext():
        kept = Results(results_file) if results_file else None
        lines = kept.lines if kept else {}
        ended = [job for job in jobs if has_ended(job, lines)]
        for job in ended if kept else []:
            if kept and job.name not in lines:  # killed between its end and its line
                kept.append(results.line_of(Run.open(job.folder)))
        todo = [job for job in jobs if job not in ended]
        with Live(len(jobs), len(ended), progress) as live:
            _do_all(todo, place, live, kept)
    return [Run(job.folder) for job in jobs]


def _do_all(todo: Sequence[Job], place: Place, live: Live, kept: Results | None) -> None:
    for spec in {job.spec for job in todo}:
        load_bench(spec, progress=False)  # here first: mistakes show at once, caches are filled
    do_jobs = _here if place.workers == 0 else _on_dask
    lost: list[str] = []
    with closing(do_jobs(todo, place, live.tell)) as ends:  # Ctrl-C closes the cluster, too
        for job, line in ends if todo else ():
            if isinstance(line, Exception):
                lost.append(f"{job.name} ({type(line).__name__}: {line})")
            elif kept:
                kept.append(line)
            live.end(job.name, line)
    if lost:
        raise AktError(f"{len(lost)} runs did not end; the same command goes on: {'; '.join(lost)}")


# ---- in this process, or on Dask ----------------------------------------------------------------


def _here(jobs: Sequence[Job], place: Place, tell: Tell) -> Generator[Ended]:
    for job in jobs:
        yield job, _run_job(job, place, tell)


def _on_dask(jobs: Sequence[Job], place: Place, tell: Tell) -> Generator[Ended]:
    """The jobs as they end. A mistake stops all; a lost worker's run is done again, thrice."""
    from distributed import as_completed

    topic = f"akt-lab-{uuid.uuid4().hex}"
    with _client(place, len(jobs)) as client:
        client.subscribe_topic(topic, lambda event: tell(event[1]))
        futures = {
            client.submit(_run_on_worker, job, place, topic, key=f"{topic}-{n}", priority=-n): job
            for n, job in enumerate(jobs)
        }
        for future in as_completed(futures):
            error = future.exception()
            if isinstance(error, AktError):
                raise error
            yield futures[future], error or future.result()


@contextmanager
def _client(place: Place, jobs: int) -> Iterator[Any]:
    """A client of the cluster at `place.scheduler`, or of one that lives as long as this."""
    import dask
    from distributed import Client, LocalCluster

    if place.scheduler:
        with _connected(place.scheduler) as client:
            yield client
        return
    workers = min(place.workers or os.cpu_count() or 1, jobs)
    quiet = {"silence_logs": 60, "dashboard_address": None}  # above CRITICAL; no web page
    with (
        dask.config.set({"distributed.scheduler.worker-saturation": 1.0}),  # none waits at a worker
        LocalCluster(n_workers=workers, threads_per_worker=1, memory_limit=0, **quiet) as cluster,
        Client(cluster) as client,
    ):
        yield client


def _connected(address: str) -> Any:
    from distributed import Client

    try:
        return Client(address, timeout=PATIENCE)
    except (OSError, ValueError) as error:
        raise AktError(f"--scheduler {address}: no Dask scheduler answers there") from error


# ---- in a worker --------------------------------------------------------------------------------

_screen = threading.RLock()
_one_at_a_time = threading.Lock()  # PyTorch's seed and threads belong to the whole process


def _run_on_worker(job: Job, place: Place, topic: str) -> Line:
    from distributed import get_worker

    tqdm.set_lock(_screen)  # its own is a semaphore between processes, left behind by SIGKILL
    worker = get_worker()
    key = worker.get_current_task()

    def tell(event: dict[str, Any]) -> None:
        task = worker.state.tasks.get(key)
        if task is None or task.state != "executing":
            raise AktError("the sweep that asked for this run was stopped")
        worker.log_event(topic, {**event, "worker": str(worker.name)})

    with _one_at_a_time:
        return _run_job(job, place, tell)


def _run_job(job: Job, place: Place, tell: Tell) -> Line:
    """Do a job in its folder, from its checkpoint if it has one; a diverged run is a result too."""
    with claim(job.folder), _threads(place.threads):
        for leftover in job.folder.glob(".*.tmp"):  # of a killed process
            leftover.unlink(missing_ok=True)
        run = Run(job.folder)
        if not has_ended(job, {}):
            make_bar = functools.partial(_report, tell, job)
            with suppress(DivergedError):
                do(job, run, *_bench(job.spec, choose_device(place.device)), True, make_bar)
        return results.line_of(run)


def _report(tell: Tell, job: Job, total: int, initial: int, **_: Any) -> Report:
    return Report(tell, job.name, job.settings.steps, total, initial)


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def choose_device(name: str | None = None) -> str:
    """`name`, or cuda where there is one.

    Raises:
        AktError: if it is not one, or there is none.
    """
    device = name or ("cuda" if torch.cuda.is_available() else "cpu")
    if device not in ("cpu", "cuda"):
        raise UsageError(f"--device takes cpu or cuda, not {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise AktError(
            f"--device cuda: PyTorch finds no CUDA device on {socket.gethostname()}; "
            "use --device cpu"
        )
    return device


@functools.lru_cache(maxsize=2)
def _bench(spec: Any, device: str) -> tuple[Bench, float]:
    bench = load_bench(spec, device, progress=False)
    return bench, evaluate(bench.teacher, bench)


def do(
    job: Job,
    run: Run,
    bench: Bench,
    teacher_accuracy: float,
    progress: bool,
    make_bar: Callable[..., Any] = tqdm,
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
    train(bench, job.settings, run, progress, make_bar)
