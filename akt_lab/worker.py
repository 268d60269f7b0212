"""One run of a grid, wherever it is done: in this process, or in a Dask worker."""

import functools
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any

import torch
from tqdm.auto import tqdm

from akt_lab import results
from akt_lab.benches import Bench, load_bench
from akt_lab.errors import AktError, DivergedError, UsageError
from akt_lab.grid import Job, has_ended
from akt_lab.live import Report, Tell
from akt_lab.results import Line
from akt_lab.runs import Run, claim
from akt_lab.training import evaluate, train


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


_one_at_a_time = threading.Lock()  # PyTorch's seed and threads belong to the whole process


def dask_setup(worker: Any) -> None:
    """Dask calls it when a worker on this machine starts: leave Ctrl-C to the sweep."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tqdm.set_lock(threading.RLock())  # its own is a semaphore that SIGKILL would leave behind


def run_on_worker(job: Job, place: Place, topic: str) -> Line:
    """`run_job` as a Dask task, which tells how far it is, and stops if nobody waits for it."""
    from distributed import get_worker

    worker = get_worker()
    key = worker.get_current_task()

    def tell(event: dict[str, Any]) -> None:
        task = worker.state.tasks.get(key)
        if task is None or task.state != "executing":
            raise AktError("the sweep that asked for this run was stopped")
        here = {"worker": str(worker.name), "process": worker.address}  # new if it was restarted
        worker.log_event(topic, {**event, **here})

    with _one_at_a_time:
        return run_job(job, place, tell)


def run_job(job: Job, place: Place, tell: Tell) -> Line:
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
    watch = job.watch or run.record.get("watched", False)  # as it began
    train(bench, job.settings, run, progress, make_bar, watch)
