"""A grid of runs: in this process, on workers of this machine, or on a Dask cluster.

Small networks keep one core busy and leave the second idle, so two single-thread runs side by
side finish nearly twice as fast as one after the other. A run that lost its worker is done again
from its checkpoint; one that ended is never done again.
"""

import functools
import math
import os
import pickle
import signal
import socket
import threading
import uuid
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from akt_lab import __version__
from akt_lab.benches import Bench, BenchSpec, load_bench
from akt_lab.errors import AktError, DivergedError, UsageError
from akt_lab.files import cannot_write, claim
from akt_lab.runs import cluster, found
from akt_lab.runs.folder import Run
from akt_lab.runs.in_turns import Steps, in_turns, whole
from akt_lab.runs.jobs import Job, choose_device, doing, has_ended
from akt_lab.runs.networks import look
from akt_lab.runs.progress import Live, Report, Tell, reason
from akt_lab.runs.results import Line, Results, line_of
from akt_lab.runs.training import evaluate, judge
from akt_lab.shared_graph import SharedGraph

Ended = tuple[Job, Line | Exception]


@dataclass(frozen=True)
class Place:
    """Where runs are done.

    Attributes:
        workers: processes on this machine; as many as there are cores where None, and 0 for this
            process itself.
        scheduler: address of a Dask cluster in place of them; its workers see the same folders.
        device: `cpu` or `cuda`; what each worker has where None.
        threads: of each run. Sums round differently with another number.
        wait: minutes to wait while the cluster at `scheduler` has no worker.
        side_by_side: students that each process trains at once, a step of each in turn.
    """

    workers: int | None = None
    scheduler: str | None = None
    device: str | None = "cpu"
    threads: int = 1
    wait: float = 30
    side_by_side: int = 1

    def __post_init__(self) -> None:
        """Refuse what cannot be right."""
        if self.workers is not None and self.workers < 0:
            raise UsageError(f"workers must be at least 0, not {self.workers}")
        if self.threads < 1:
            raise UsageError(f"--threads must be at least 1, not {self.threads}")
        if self.side_by_side < 1:
            raise UsageError(f"--side-by-side must be at least 1, not {self.side_by_side}")
        if not 0 < self.wait < math.inf:
            raise UsageError(f"--wait takes minutes, more than 0, not {self.wait}")
        if self.scheduler is not None:
            cluster.check_address(self.scheduler)
            if self.workers is not None:
                raise UsageError("--workers and --scheduler exclude each other")


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
    cluster.leave_if_a_worker()
    place = place or Place(workers)
    load = functools.cache(functools.partial(load_bench, progress=progress))
    with claim(results_file.parent, wait=False) if results_file else nullcontext():
        kept = Results(results_file)
        ended = [job for job in jobs if has_ended(job, kept.lines, load)]
        for job in ended:
            if job.name not in kept.lines:  # killed between its end and its line
                kept.append(line_of(Run.open(job.folder)))
        todo = [job for job in jobs if job not in ended]
        for job in {(job.spec, job.settings.method): job for job in todo}.values():
            found.check_sizes(load(job.spec), job.settings)  # here first: mistakes show at once
        for job in {job.spec: job for job in todo}.values():
            _say_found(job, load(job.spec), progress)
        lost: dict[str, str] = {}  # why each did not end
        do_jobs = _here if place.workers == 0 else _on_dask
        with (
            Live(len(jobs), len(ended), progress) as live,
            closing(do_jobs(todo, place, live)) as ends,  # Ctrl-C closes the cluster, too
        ):
            waiting = dict.fromkeys(job.name for job in todo)
            try:
                for job, line in ends if todo else ():
                    del waiting[job.name]
                    if isinstance(line, Exception):
                        lost[job.name] = reason(line)
                    else:
                        kept.append(line)
                    live.end(job.name, line)
            except cluster.ClusterLost as error:
                lost |= dict.fromkeys(waiting, str(error))
    if lost:
        raise _missing(lost)
    return [Run(job.folder) for job in jobs]


def _say_found(job: Job, bench: Bench, progress: bool) -> None:
    """What the runs on a bench begin with, `job` being one of them."""
    accuracy, networks = judge(bench, progress), look(bench, job.settings)
    lines = [*found.about(bench, accuracy), *found.about_networks(networks, job.settings)]
    for line in [*lines, *found.in_float(bench.name, networks)] if progress else ():
        found.say(line)


def _missing(lost: dict[str, str]) -> AktError:
    """The error that names the runs that did not end, together where they share a reason."""
    named = (
        f"{', '.join(run for run in lost if lost[run] == why)} ({why})"
        for why in dict.fromkeys(lost.values())
    )
    count = f"{len(lost)} run{'s' if len(lost) > 1 else ''} did not end"
    return AktError(f"{count}; the same command goes on: {'; '.join(named)}")


def run_job(job: Job, place: Place, tell: Tell, sweep: str) -> Line:
    """Do a job in its folder, from its checkpoint if it has one; a diverged run is a result too.

    Args:
        job: what to do.
        place: its device and threads.
        tell: is told how far the run is.
        sweep: names this sweep: for the next, benches are loaded anew, as their files may change.
    """
    with _threads(place.threads):
        return whole(_steps(job, place, tell, sweep))


def _steps(job: Job, place: Place, tell: Tell, sweep: str) -> Steps[Line]:
    """`run_job`, with a stop after each step."""
    with claim(job.folder), suppress(DivergedError):
        bar = functools.partial(Report, tell, job.name, job.settings.steps)
        bench, accuracy, graphs = _bench(job.spec, choose_device(place.device), sweep)
        yield from doing(job, Run(job.folder), bench, accuracy, True, bar, graphs)
    return line_of(Run(job.folder))


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@functools.lru_cache(maxsize=2)
def _bench(spec: BenchSpec, device: str, sweep: str) -> tuple[Bench, float, dict[str, SharedGraph]]:
    """A bench, its teacher's accuracy, and the graphs that runs on it share."""
    bench = load_bench(spec, device, progress=False)
    return bench, evaluate(bench.teacher, bench), {}


def _here(jobs: Sequence[Job], place: Place, live: Live) -> Generator[Ended]:
    """The jobs as they end, in this process: so many at a time, a step of each in turn."""
    sweep = uuid.uuid4().hex
    steps = {job: _steps(job, place, live.tell, sweep) for job in jobs}
    with _threads(place.threads), closing(in_turns(steps, place.side_by_side)) as ends:
        yield from ends


# ---- on Dask ------------------------------------------------------------------------------------


def _on_dask(jobs: Sequence[Job], place: Place, live: Live) -> Generator[Ended]:
    """The jobs as they end. A mistake stops all; a lost worker's run is done again, thrice."""
    sweep = f"akt-lab-{uuid.uuid4().hex}.{os.getpid()}"
    with _signs(jobs, sweep), _crew(jobs, place, live) as crew:
        tasks = [pickle.dumps(_Task((__version__, job, place, sweep))) for job in jobs]
        crew.client.subscribe_topic(sweep, lambda event: live.tell(event[1]))
        futures = {
            crew.client.submit(pickle.loads, data, key=f"{sweep}-{n}", priority=-n): job
            for n, (job, data) in enumerate(zip(jobs, tasks, strict=True))
        }
        for future in crew.ends(list(futures)):
            error = future.exception()
            if isinstance(error, AktError):
                raise error
            if isinstance(error, ImportError):  # of a teacher's module it is an AktError
                raise AktError(f"a worker cannot work ({error}): it needs the same AKT Lab as here")
            yield futures[future], error or future.result()


def _crew(jobs: Sequence[Job], place: Place, live: Live) -> AbstractContextManager[cluster.Crew]:
    if place.scheduler is not None:
        return cluster.there(place.scheduler, live.say, 60 * place.wait)
    workers = min(place.workers or os.cpu_count() or 1, len(jobs))
    own = any((job.spec.teacher or "").startswith("__main__:") for job in jobs)
    return cluster.here(workers, __name__, live.say, with_main=own)


@contextmanager
def _signs(jobs: Sequence[Job], sweep: str) -> Iterator[None]:
    """A file of this `sweep` beside its runs: who sees it has the same folders."""
    signs = {_sign(job, sweep) for job in jobs}
    for sign in signs:
        try:
            sign.parent.mkdir(parents=True, exist_ok=True)
            sign.touch()
        except OSError as error:
            raise cannot_write(sign, error) from error
    try:
        yield
    finally:
        for sign in signs:
            sign.unlink(missing_ok=True)


def _sign(job: Job, sweep: str) -> Path:
    return job.folder.parent / f".{sweep}.tmp"


_one_at_a_time = threading.Lock()  # PyTorch's seed and threads belong to the whole process


def dask_setup(worker: Any) -> None:
    """Dask calls it when a worker on this machine starts: leave Ctrl-C to the sweep."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tqdm.set_lock(threading.RLock())  # its own is a semaphore that SIGKILL would leave behind


@dataclass(frozen=True)
class _Task:
    """To unpickle it is to do it: so who passes it on needs no AKT Lab, and who has none says so.

    (A worker that cannot unpickle a function of ours dies of it.)
    """

    given: tuple[str, Job, Place, str]

    def __reduce__(self) -> tuple[Any, ...]:
        """The call itself."""
        return _on_worker, self.given


def _on_worker(version: str, job: Job, place: Place, sweep: str) -> Line:
    """`run_job` as a Dask task, which tells how far it is, and stops if nobody waits for it."""
    from distributed import get_worker

    worker = get_worker()
    if version != __version__:
        raise AktError(f"{socket.gethostname()} has AKT Lab {__version__}, not {version}")
    if not _sign(job, sweep).exists():
        raise AktError(f"a worker on {socket.gethostname()} does not see {job.folder.parent}")
    key = worker.get_current_task()

    def tell(event: dict[str, Any]) -> None:
        task = worker.state.tasks.get(key)
        if task is None or task.state != "executing":
            raise AktError("the sweep that asked for this run was stopped")
        worker.log_event(sweep, {**event, "process": worker.address})  # new if it was restarted

    with _one_at_a_time:
        return run_job(job, place, tell, sweep)
