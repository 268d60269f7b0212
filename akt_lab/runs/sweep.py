"""A grid of runs: in this process, on workers of this machine, or on a Dask cluster.

Small networks keep one core busy and leave the second idle, so two single-thread runs side by
side finish nearly twice as fast as one after the other. A run that lost its worker is done again
from its checkpoint; one that ended is never done again.
"""

import os
import uuid
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from akt_lab.benches import load_bench
from akt_lab.errors import AktError
from akt_lab.files import claim
from akt_lab.runs import results
from akt_lab.runs.folder import Run
from akt_lab.runs.jobs import Job, Place, has_ended, run_job, run_on_worker
from akt_lab.runs.progress import Live, Tell
from akt_lab.runs.results import Line, Results

Ended = tuple[Job, Line | Exception]

PATIENCE = 10  # seconds for a cluster to answer


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
        yield job, run_job(job, place, tell)


def _on_dask(jobs: Sequence[Job], place: Place, tell: Tell) -> Generator[Ended]:
    """The jobs as they end. A mistake stops all; a lost worker's run is done again, thrice."""
    from distributed import as_completed

    topic = f"akt-lab-{uuid.uuid4().hex}"
    with _client(place, len(jobs)) as client:
        client.subscribe_topic(topic, lambda event: tell(event[1]))
        futures = {
            client.submit(run_on_worker, job, place, topic, key=f"{topic}-{n}", priority=-n): job
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
    quiet = {"silence_logs": 60, "dashboard_address": "127.0.0.1:0"}  # above CRITICAL; any port
    small = {"threads_per_worker": 1, "memory_limit": 0, "preload": ["akt_lab.runs.jobs"]}
    with (
        dask.config.set({"distributed.scheduler.worker-saturation": 1.0}),  # none waits at a worker
        LocalCluster(n_workers=workers, **small, **quiet) as cluster,
        Client(cluster) as client,
    ):
        yield client


def _connected(address: str) -> Any:
    from distributed import Client

    try:
        return Client(address, timeout=PATIENCE)
    except (OSError, ValueError) as error:
        raise AktError(f"--scheduler {address}: no Dask scheduler answers there") from error
