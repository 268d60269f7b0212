"""A grid of runs: in this process, on workers of this machine, or on a Dask cluster.

Small networks keep one core busy and leave the second idle, so two single-thread runs side by
side finish nearly twice as fast as one after the other. A GPU is mostly idle with one small
student, so there a process trains several, a step of each in turn. A run that lost its worker is
done again from its checkpoint; one that ended is never done again.
"""

import functools
import math
import os
import pickle
import signal
import socket
import threading
import uuid
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
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
from akt_lab.runs.in_turns import Steps, in_turns
from akt_lab.runs.jobs import Job, choose_device, doing, has_ended
from akt_lab.runs.networks import look
from akt_lab.runs.progress import Live, Report, Tell, reason
from akt_lab.runs.results import Line, Results, line_of
from akt_lab.runs.training import evaluate, judge
from akt_lab.settings import Settings
from akt_lab.shared_graph import SharedGraph

Ended = tuple[Job, Line | Exception]
MOST = 16  # students at once on a GPU, unless told: benchmarks/gpu.py measures what more gain
SHARE = 0.8  # of its free memory that they may take


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
        side_by_side: students that each process trains at once, a step of each in turn; where
            None, what a GPU's memory holds, 16 at most, and one on a processor.
    """

    workers: int | None = None
    scheduler: str | None = None
    device: str | None = "cpu"
    threads: int = 1
    wait: float = 30
    side_by_side: int | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be right."""
        if self.workers is not None and self.workers < 0:
            raise UsageError(f"workers must be at least 0, not {self.workers}")
        if self.threads < 1:
            raise UsageError(f"--threads must be at least 1, not {self.threads}")
        if self.side_by_side is not None and self.side_by_side < 1:
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
        if todo and place.scheduler is None and choose_device(place.device) == "cuda":
            place, chosen = on_gpus(place, [(load(job.spec), job.settings) for job in todo])
            if progress:
                found.say(chosen)
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


def on_gpus(place: Place, runs: Sequence[tuple[Bench, Settings]]) -> tuple[Place, str]:
    """What a place with GPUs leaves open: a process each, and how many students each trains.

    Returns:
        The place, and what was chosen, in a line.
    """
    gpus = torch.cuda.device_count()
    processes = place.workers if place.workers is not None else gpus * (gpus > 1)
    each = -(-len(runs) // max(1, processes))  # at most so many has a process
    if (at_once := place.side_by_side) is None:
        kinds = {(b.name, s.method, s.batch_size, s.bits): (b, s) for b, s in runs}
        largest = max(found.memory_of_a_run(*kind) for kind in kinds.values())
        free = SHARE * torch.cuda.mem_get_info()[0] / max(1, -(-processes // gpus))
        at_once = max(1, min(MOST, int(free / largest)))
    at_once = min(at_once, each)
    many = f"{gpus} x " if gpus > 1 else ""
    by = f" in each of {processes} processes" if processes else ""
    students = f"{at_once} student{'s' * (at_once > 1)} at once{by}"
    line = f"gpu       {many}{torch.cuda.get_device_name()}: {students} (--side-by-side)"
    return replace(place, workers=processes, side_by_side=at_once), line


def run_jobs(
    jobs: Sequence[Job], place: Place, tell: Tell, sweep: str
) -> Generator[tuple[Job, Line]]:
    """Do jobs in this process, each in its folder, from its checkpoint if it has one.

    A diverged run is a result too. Each comes as it ends.

    Args:
        jobs: what to do.
        place: device and threads; how many side by side.
        tell: is told how far each run is.
        sweep: names this sweep: for the next, benches are loaded anew, as their files may change.

    Raises:
        AktError: if a GPU has too little memory for so many.
    """
    device, at_once = choose_device(place.device), place.side_by_side or 1
    steps = {job: _steps(job, device, tell, sweep) for job in jobs}
    turns = in_turns(steps, at_once, OWN_STREAM.get(device, nullcontext))
    with _threads(place.threads), closing(turns) as ends:
        try:
            yield from ends
        except torch.OutOfMemoryError as error:
            why = str(error).partition(". ")[0]
            raise AktError(
                f"not enough memory on the GPU with {at_once} at once: the same command goes on "
                f"with a smaller --side-by-side; a single one needs a smaller --batch-size ({why})"
            ) from error


def _own_stream() -> AbstractContextManager[object]:
    """In which a run's work waits for none of the others'."""
    return torch.cuda.stream(torch.cuda.Stream())


OWN_STREAM: dict[str, Callable[[], AbstractContextManager[object]]] = {"cuda": _own_stream}


def _steps(job: Job, device: str, tell: Tell, sweep: str) -> Steps[Line]:
    """A job, with a stop after each step."""
    with claim(job.folder), suppress(DivergedError):
        bar = functools.partial(Report, tell, job.name, job.settings.steps)
        bench, accuracy, graphs = _bench(job.spec, device, sweep)
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
    """The jobs as they end, in this process."""
    yield from run_jobs(jobs, place, live.tell, uuid.uuid4().hex)


# ---- on Dask ------------------------------------------------------------------------------------


def _on_dask(jobs: Sequence[Job], place: Place, live: Live) -> Generator[Ended]:
    """The jobs as they end. A mistake stops all; a lost worker's runs are done again, thrice.

    A worker is given as many as it trains side by side, and gives their lines when all have ended.
    """
    sweep = f"akt-lab-{uuid.uuid4().hex}.{os.getpid()}"
    at_once = place.side_by_side or 1
    groups = [jobs[n : n + at_once] for n in range(0, len(jobs), at_once)]
    with _signs(jobs, sweep), _crew(jobs, len(groups), place, live) as crew:
        tasks = [pickle.dumps(_Task((__version__, group, place, sweep))) for group in groups]
        crew.client.subscribe_topic(sweep, lambda event: live.tell(event[1]))
        futures = {
            crew.client.submit(pickle.loads, data, key=f"{sweep}-{n}", priority=-n): group
            for n, (group, data) in enumerate(zip(groups, tasks, strict=True))
        }
        for future in crew.ends(list(futures)):
            error = future.exception()
            if isinstance(error, AktError):
                raise error
            if isinstance(error, ImportError):  # of a teacher's module it is an AktError
                raise AktError(f"a worker cannot work ({error}): it needs the same AKT Lab as here")
            group = futures[future]
            yield from zip(group, [error] * len(group) if error else future.result(), strict=True)


def _crew(
    jobs: Sequence[Job], tasks: int, place: Place, live: Live
) -> AbstractContextManager[cluster.Crew]:
    if place.scheduler is not None:
        return cluster.there(place.scheduler, live.say, 60 * place.wait)
    workers = min(place.workers or os.cpu_count() or 1, tasks)
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

    given: tuple[str, Sequence[Job], Place, str]

    def __reduce__(self) -> tuple[Any, ...]:
        """The call itself."""
        return _on_worker, self.given


def _on_worker(version: str, jobs: Sequence[Job], place: Place, sweep: str) -> list[Line]:
    """`run_jobs` as a Dask task, which tells how far it is, and stops if nobody waits for it."""
    from distributed import get_worker

    worker = get_worker()
    if version != __version__:
        raise AktError(f"{socket.gethostname()} has AKT Lab {__version__}, not {version}")
    for job in jobs:
        if not _sign(job, sweep).exists():
            raise AktError(f"a worker on {socket.gethostname()} does not see {job.folder.parent}")
    key = worker.get_current_task()

    def tell(event: dict[str, Any]) -> None:
        task = worker.state.tasks.get(key)
        if task is None or task.state != "executing":
            raise AktError("the sweep that asked for this run was stopped")
        worker.log_event(sweep, {**event, "process": worker.address})  # new if it was restarted

    with _one_at_a_time:
        if choose_device(place.device) == "cuda":
            torch.cuda.set_device(_gpu_of(worker.name, torch.cuda.device_count()))
        lines = dict(run_jobs(jobs, place, tell, sweep))
        return [lines[job] for job in jobs]


def _gpu_of(worker: Any, count: int) -> int:
    """Each of this machine's workers has a number: a GPU each. Of others, the one with most room.

    That is so for those that came in the place of one that was lost, and those of a cluster.
    """
    if isinstance(worker, int):
        return worker % count
    return max(range(count), key=lambda gpu: torch.cuda.mem_get_info(gpu)[0])
