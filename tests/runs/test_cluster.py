"""Clusters that lose their workers or their scheduler, and addresses where there is none."""

import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import HTTPServer, SimpleHTTPRequestHandler

import distributed
import psutil
import pytest

from akt_lab.errors import AktError, UsageError
from akt_lab.runs import cluster, sweep
from akt_lab.runs.cluster import ClusterLost, check_address, here, there

SCHEDULER = """
import asyncio, distributed

async def main():
    quiet = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    async with distributed.Scheduler(**quiet) as scheduler:
        print(scheduler.address, flush=True)
        await scheduler.finished()

asyncio.run(main())
"""


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """What takes minutes comes at once."""
    for name, seconds in (("LOOK", 0.1), ("SLOW", 0.2), ("PATIENCE", 3.0)):
        monkeypatch.setattr(cluster, name, seconds)


@pytest.fixture
def said():
    """All that a crew says."""
    return []


@contextmanager
def scheduler():
    """The process of a scheduler without workers, and its address."""
    command = [sys.executable, "-c", SCHEDULER]
    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen(command, **quiet) as process:
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def results(crew, *calls):
    """Of calls on a crew's workers."""
    return [end.result() for end in crew.ends([crew.client.submit(*call) for call in calls])]


def ends_by(words, crew):
    """A call that waits for what never comes."""
    with pytest.raises(ClusterLost, match=words):
        results(crew, (time.sleep, 600))


def nanny(crew):
    """Who looks after the first worker."""
    while 0 not in crew.cluster.workers:  # a moment after the worker is there
        time.sleep(0.01)
    return crew.cluster.workers[0]


# ---- here ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_worker_that_is_given_up_is_replaced(said):
    """As where its successor does not start."""
    with here(1, sweep.__name__, said.append) as crew:
        assert results(crew, (divmod, 7, 3)) == [(2, 1)]
        crew.cluster.sync(nanny(crew).close)
        assert results(crew, (divmod, 8, 3)) == [(2, 2)]
    assert any("1 of 1 workers did not start; others take their place" in s for s in said)


@pytest.mark.slow
def test_workers_that_never_start_end_the_wait(said):
    with here(2, "no_module", said.append) as crew:
        ends_by("new ones do not start", crew)
    assert "0 of 2 workers are there; waiting for the rest to start" in said
    assert 1 <= sum("did not start" in s for s in said) <= 2 * cluster.AGAIN


@pytest.mark.slow
def test_one_that_takes_too_long_is_replaced(said, monkeypatch):
    with here(1, sweep.__name__, said.append) as crew:
        results(crew, (abs, 1))
        process = psutil.Process(nanny(crew).pid)
        monkeypatch.setattr(cluster, "START", 0.5)
        process.kill()  # and its successor needs longer than that, each time
        ends_by("new ones do not start", crew)


@pytest.mark.slow
def test_workers_listen_on_this_machine_alone_and_to_this_sweep(said):
    with here(2, sweep.__name__, said.append) as crew:
        results(crew, *[(time.sleep, 0.5)] * 4)
        own = psutil.Process()
        listening = [
            connection.laddr.ip
            for process in (own, *own.children(recursive=True))
            for connection in process.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        ]
        assert len(listening) >= 3  # of the scheduler, and of each worker
        assert set(listening) == {"127.0.0.1"}
        workers = crew.client.scheduler_info()["workers"]
        assert all(address.startswith("tls://127.0.0.1:") for address in workers)
        for address in (crew.address, *workers):  # nobody else can give them work
            with pytest.raises(AktError, match="no Dask scheduler answers"):
                cluster._check_answers(address)


def test_two_sweeps_side_by_side(said):
    """Each one's scheduler takes a port that is free, and complains of none (warnings fail)."""
    with (
        here(0, sweep.__name__, said.append) as first,
        here(0, sweep.__name__, said.append) as second,
    ):
        assert first.cluster.scheduler_address != second.cluster.scheduler_address
        for crew in (first, second):
            assert crew.cluster.scheduler.http_server.address == "127.0.0.1"


def test_a_script_is_run_anew_only_where_it_is_needed(monkeypatch):
    from multiprocessing import spawn

    monkeypatch.setattr(sys.modules["__main__"], "__file__", __file__, raising=False)
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None, raising=False)

    before = spawn.get_preparation_data
    for wanted in (False, True):
        with cluster._main_of(wanted):
            main = {key for key in spawn.get_preparation_data("Dask Worker") if "main" in key}
            assert bool(main) is wanted
            assert "sys_path" in spawn.get_preparation_data("Dask Worker")
            assert spawn.get_preparation_data("another's") == before("another's")
    assert spawn.get_preparation_data is before


# ---- there --------------------------------------------------------------------------------------


def test_a_cluster_without_workers(said):
    with scheduler() as (_, address):
        with there(address, said.append, 0.5) as crew:
            ends_by("has no worker", crew)
        assert said == [f"the scheduler at {address} has no worker: waiting up to 0.00833333 "
                        "minutes (--wait)"]  # fmt: skip


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_the_scheduler_is_gone(how, said, capfd):
    with scheduler() as (process, address):
        with there(address, said.append, 900) as crew:
            process.send_signal(how)
            ends_by(f"{address} is gone", crew)
    assert capfd.readouterr().err == ""  # Dask says nothing of its own


def test_a_scheduler_that_answers_no_more(said):
    with scheduler() as (process, address):
        with there(address, said.append, 0.5) as crew:
            process.send_signal(signal.SIGSTOP)
            ends_by("does not answer", crew)
        assert "does not answer: waiting" in said[0]


def test_a_cluster_that_is_shut_down(said):
    from distributed import Client

    with scheduler() as (_, address):
        with there(address, said.append, 900) as crew:
            with Client(address, set_as_default=False) as another:
                another.shutdown()
            ends_by("is gone", crew)


@pytest.mark.parametrize(
    "address", ["", " ", "tcp://", "127.0.0.1", "tcp://host", "host:port", "a b:1", "tcp://a/b:1"]
)
def test_what_is_no_address(address):
    with pytest.raises(UsageError, match="--scheduler takes an address, tcp://host:port, not"):
        check_address(address)


def test_what_may_be_one():
    for address in ("tcp://10.0.0.1:8786", "host:8786", "tls://host:1", "tcp://[::1]:8786", "a:1/"):
        check_address(address)


@pytest.fixture(scope="module")
def silent():
    """A port where somebody listens who never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture(scope="module")
def web():
    """The port of a web server."""
    server = HTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler)
    threading.Thread(target=server.serve_forever).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("tcp://127.0.0.1:{silent}", "no answer"),
        ("127.0.0.1:{silent}", "no answer"),
        ("tcp://127.0.0.1:{web}", "no answer"),
        ("tcp://127.0.0.1:9", "no answer"),
        ("tcp://127.0.0.1:99999", "no answer"),
        ("http://127.0.0.1:{web}", "unknown address scheme 'http'"),
        ("tls://127.0.0.1:9", "TLS configuration"),
    ],
)
def test_no_scheduler_there(address, words, silent, web, said, monkeypatch):
    monkeypatch.setattr(cluster, "PATIENCE", 0.5)
    address = address.format(silent=silent, web=web)
    with pytest.raises(AktError) as error, there(address, said.append, 1):
        pass
    assert str(error.value).startswith(f"--scheduler {address}: no Dask scheduler answers (")
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_worker_s_address_is_not_the_scheduler_s(said):
    quiet = {
        "host": "127.0.0.1",
        "protocol": "tcp",
        "dashboard_address": "127.0.0.1:0",
        "processes": False,
    }
    with distributed.LocalCluster(n_workers=1, **quiet) as others:
        (worker,) = [each.address for each in others.workers.values()]
        with pytest.raises(AktError, match="a worker, not the"), there(worker, said.append, 1):
            pass
