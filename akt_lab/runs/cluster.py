"""Dask's side of a sweep: its workers, here or at an address, and that nobody waits for none.

Dask gives a worker up whose successor takes 15 s to start, and then waits for ever: PyTorch's
import alone takes longer on a busy machine. So what is lost is looked after here.
"""

import asyncio
import gc
import logging
import multiprocessing
import multiprocessing.spawn
import queue
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from akt_lab.errors import AktError, UsageError

PATIENCE = 10  # seconds for a scheduler to answer
LOOK = 2.0  # seconds from one look at the workers to the next
SLOW = 10.0  # seconds without a worker until it is said
START = 300.0  # seconds that a worker may take to start
SILENT = 60  # of Dask's logging: above CRITICAL
AGAIN = 3  # times that a worker is replaced by a new one
ADDRESS = re.compile(r"([a-z]+://)?[^\s/]+:[0-9]+/?")

Say = Callable[[str], None]


class ClusterLost(AktError):
    """No worker is left, or no scheduler: what has not ended can be done another time."""


def check_address(scheduler: str) -> None:
    """Refuse what cannot be a scheduler's address."""
    if not ADDRESS.fullmatch(scheduler):
        raise UsageError(f"--scheduler takes an address, tcp://host:port, not {scheduler!r}")


class Crew:
    """The workers of a sweep, and Dask's `client` that gives them work."""

    def __init__(self, client: Any, address: str, say: Say) -> None:
        """`address` is the scheduler's; `say` tells the user what is happening."""
        self.client, self.address, self.say = client, address, say
        self._absent: dict[Any, float] = {}  # since when
        self._looked, self._said = time.monotonic(), False

    def ends(self, futures: Sequence[Any]) -> Iterator[Any]:
        """The futures, each as it ends; meanwhile it is seen to it that there are workers.

        Raises:
            ClusterLost: if the scheduler is gone, or no worker is left and none comes.
        """
        done: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for future in futures:
            future.add_done_callback(done.put)
        for _ in futures:
            while (future := _next(done)) is None:
                self._look()
            if future.cancelled():
                raise ClusterLost(f"the scheduler at {self.address} is gone")
            yield future
            self._look()

    def _look(self) -> None:
        now = time.monotonic()
        if now - self._looked < LOOK:
            return
        self._absent = {name: self._absent.get(name, now) for name in self.absent()}
        self._looked = now
        waited = now - min(self._absent.values(), default=now)
        if waited < SLOW:
            self._said = False
        elif not self._said:
            self._said = True
            self.say(self.waiting())
        self.mend({name: now - since for name, since in self._absent.items()})

    def absent(self) -> list[Any]:
        """Names of workers that should be there, and are not."""
        raise NotImplementedError

    def waiting(self) -> str:
        """What is said when some have been absent for a while."""
        raise NotImplementedError

    def mend(self, absent: dict[Any, float]) -> None:
        """Do something about workers that have been `absent` for so many seconds, or give up."""
        raise NotImplementedError


def _next(done: "queue.SimpleQueue[Any]") -> Any:
    try:
        return done.get(timeout=LOOK)
    except queue.Empty:
        return None


# ---- on this machine ----------------------------------------------------------------------------


class Here(Crew):
    """Workers of this machine, which are started again if they are lost."""

    instead = "--workers 0 does without"

    def __init__(self, client: Any, say: Say, cluster: Any, workers: int) -> None:
        """Start so many `workers` in a `cluster` that has none yet; they come when they can."""
        super().__init__(client, cluster.scheduler_address, say)
        self.cluster, self.asked, self.left, self.number = cluster, workers, AGAIN * workers, 0
        cluster.scale(workers)

    def absent(self) -> list[Any]:
        """Those of the cluster's plan whom its scheduler does not know."""
        there = {worker.name for worker in list(self.cluster.scheduler.workers.values())}
        return [name for name in self.cluster.worker_spec if name not in there]

    def waiting(self) -> str:
        """How many are there."""
        there = self.asked - len(self._absent)
        return f"{there} of {self.asked} workers are there; waiting for the rest to start"

    def mend(self, absent: dict[Any, float]) -> None:
        """Start others in the place of those that failed, or take too long."""
        lost = [name for name, seconds in absent.items() if seconds > START or self._failed(name)]
        if not lost:
            return
        if self.left < len(lost):
            if len(absent) == self.asked:
                raise ClusterLost(f"no worker is left, and new ones do not start: {self.instead}")
            return
        self.say(f"{len(lost)} of {self.asked} workers did not start; others take their place")
        for name in lost:
            self.number, self.left = self.number + 1, self.left - 1
            del self.cluster.worker_spec[name]
            self.cluster.worker_spec[f"again-{self.number}"] = self.cluster.new_spec
        self.cluster.scale(self.asked)

    def _failed(self, name: Any) -> bool:
        from distributed.core import Status

        nanny = self.cluster.workers.get(name)
        return nanny is not None and nanny.status in (Status.failed, Status.closed)


@contextmanager
def here(workers: int, preload: str, say: Say, with_main: bool = False) -> Iterator[Crew]:
    """So many worker processes of one thread, which last as long as this.

    Args:
        workers: how many.
        preload: a module whose `dask_setup` each worker calls first.
        say: tells the user what is happening.
        with_main: whether workers run the user's script, too, whose definitions they need.
    """
    import dask
    from distributed import Client, LocalCluster

    small = {"threads_per_worker": 1, "memory_limit": 0, "preload": [preload]}
    # TLS, with credentials that nobody else has: who shares the machine could give it work.
    alone = {"silence_logs": SILENT, "dashboard_address": None, "security": True}
    # Without its pages the scheduler has a server of metrics still: at a port that is free.
    metrics = {"scheduler_kwargs": {"dashboard_address": "127.0.0.1:0"}}
    settings = {
        "distributed.scheduler.worker-saturation": 1.0,  # none waits at a worker
        "distributed.deploy.lost-worker-timeout": "1 day",  # `Here` looks after them
    }
    with (
        _main_of(with_main),
        _without_tracebacks(),
        dask.config.set(settings),
        LocalCluster(n_workers=0, **small, **alone, **metrics) as cluster,
        Client(cluster) as client,
    ):
        crew = Here(client, say, cluster, workers)
        if with_main:
            crew.instead = "call run_grid under `if __name__ == '__main__':`, or with workers=0"
        yield crew


@contextmanager
def _without_tracebacks() -> Iterator[None]:
    """A connection to a worker that was killed is no news: `Here` says what happens.

    Nor is what Dask was still waiting for when it was closed, of which asyncio speaks when it is
    collected: that is done here, too.
    """
    loggers = [logging.getLogger(name) for name in ("asyncio", "tornado.application")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(SILENT)
    try:
        yield
    finally:
        gc.collect()
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def leave_if_a_worker() -> None:
    """End, without a word, a process that is being started as a worker and came here by itself.

    So a script that is run anew in it (see `here`) does not start workers of its own.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise SystemExit


@contextmanager
def _main_of(wanted: bool) -> Iterator[None]:
    """Unless `wanted`, Dask's processes do not run the script that is running here.

    So it needs no `if __name__ == "__main__":`, nor to be a file; runs need nothing of it.
    """
    whole = multiprocessing.spawn.get_preparation_data

    def data(name: str) -> dict[str, Any]:
        found = whole(name)
        if name.startswith("Dask") and not wanted:
            found = {key: v for key, v in found.items() if not key.startswith("init_main")}
        return found

    multiprocessing.spawn.get_preparation_data = data
    try:
        yield
    finally:
        multiprocessing.spawn.get_preparation_data = whole


# ---- at an address ------------------------------------------------------------------------------


class There(Crew):
    """Workers of a scheduler somewhere, which come and go as they please."""

    def __init__(self, client: Any, address: str, say: Say, seconds: float) -> None:
        """Wait at most so many `seconds` while there is none."""
        super().__init__(client, address, say)
        self.seconds, self.silent = seconds, False

    def absent(self) -> list[Any]:
        """None if there is any."""
        try:
            found = self.client.sync(self.client.scheduler.ncores, callback_timeout=PATIENCE)
        except (OSError, TimeoutError):
            self.silent = True
            return ["any"]
        self.silent = False
        return [] if found else ["any"]

    def waiting(self) -> str:
        """Whom it waits for, and how long."""
        return f"{self._reason()}: waiting up to {self.seconds / 60:g} minutes (--wait)"

    def _reason(self) -> str:
        what = "does not answer" if self.silent else "has no worker"
        return f"the scheduler at {self.address} {what}"

    def mend(self, absent: dict[Any, float]) -> None:
        """Give up after a while; only who started them can start others."""
        if any(seconds > self.seconds for seconds in absent.values()):
            raise ClusterLost(self._reason())


@contextmanager
def there(address: str, say: Say, seconds: float) -> Iterator[Crew]:
    """The workers of the scheduler at `address`; see `There`.

    Raises:
        AktError: if none answers there.
    """
    from distributed import Client
    from distributed.utils import silence_logging_cmgr

    _check_answers(address)
    with silence_logging_cmgr(SILENT), Client(address, timeout=PATIENCE) as client:
        yield There(client, address, say, seconds)


def _check_answers(address: str) -> None:
    """Ask what is there: a client would wait for ever for a server that is no scheduler."""
    from distributed.core import rpc
    from distributed.security import Security

    async def ask() -> dict[str, Any]:
        tls = Security().get_connection_args("client")
        async with rpc(address, connection_args=tls) as server:
            return await asyncio.wait_for(server.identity(), PATIENCE)

    try:
        with ThreadPoolExecutor(1) as pool:  # a notebook's own loop is running already
            kind = pool.submit(asyncio.run, ask()).result()["type"]
    except Exception as error:  # of any kind: an unknown protocol, no certificates, no answer
        reason = (str(error) or "no answer").splitlines()[0]
        raise AktError(f"--scheduler {address}: no Dask scheduler answers ({reason})") from error
    if kind != "Scheduler":
        raise AktError(f"--scheduler {address}: that is a {kind.lower()}, not the scheduler")
