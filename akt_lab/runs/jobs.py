"""A run as a job: settings, bench and folder; a grid of them; and doing one, anywhere."""

import functools
import itertools
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from akt_lab.benches import Bench, BenchSpec, load_bench
from akt_lab.errors import AktError, DivergedError, UsageError
from akt_lab.files import claim
from akt_lab.methods import get_method
from akt_lab.runs import results
from akt_lab.runs.folder import RECORD, Run
from akt_lab.runs.progress import Report, Tell
from akt_lab.runs.results import Line, public_bench
from akt_lab.runs.training import evaluate, train
from akt_lab.settings import Settings, with_preset

ENDED = ("done", "failed")


@dataclass(frozen=True)
class Job:
    """One run of a grid: what to do, on which bench, into which folder; `watch` as in `train`."""

    settings: Settings
    spec: BenchSpec
    folder: Path
    watch: bool = False

    @property
    def name(self) -> str:
        """The folder's name: the run's in results and progress."""
        return self.folder.name


def jobs_of(
    folder: Path,
    spec: BenchSpec,
    methods: Sequence[str],
    bits: Sequence[int],
    seeds: Sequence[int],
    variants: Sequence[str],
    others: Mapping[str, Any],
) -> list[Job]:
    """Every cell of the grid once, seed by seed, so that a sweep cut short has whole tables.

    Args:
        folder: in which each run has a folder.
        spec: the bench.
        methods: names in `METHODS`.
        bits: of weights and activations, unless `others` holds one of them.
        seeds: one run each.
        variants: of AKT, the preset's where there are none; a plain method has one cell for all.
        others: settings that all runs share.

    Raises:
        UsageError: for settings that cannot be right.
    """
    jobs = {}
    for seed, b, method in itertools.product(seeds, bits, methods):
        for variant in (variants or [""]) if get_method(method).akt else [""]:
            chosen = {"weight_bits": b, "act_bits": b, **others, "method": method, "seed": seed}
            if variant:
                chosen["variant"] = variant
            settings = Settings(**with_preset(chosen))
            name = name_of(settings, spec)
            jobs[name] = Job(settings, spec, folder / name)
    return list(jobs.values())


def name_of(settings: Settings, spec: BenchSpec) -> str:
    """Of a run's folder: bench, method, variant, bits and seed."""
    bench = (spec.teacher or str(spec.bench)).replace(":", ".")
    variant = f"-{settings.variant}" if get_method(settings.method).akt else ""
    bits = f"{settings.weight_bits}w{settings.act_bits}a"
    return f"{bench}-{settings.method}{variant}-{bits}-{settings.seed}"


def has_ended(job: Job, lines: Mapping[str, Line]) -> bool:
    """Whether this very run ended: its folder says so, or its line in `lines` does.

    Raises:
        AktError: if its folder or line is another run's: other settings, another bench.
    """
    found: Mapping[str, Any] = lines.get(job.name, {})
    bench: Mapping[str, Any] = public_bench(job.spec.to_dict())
    if (job.folder / RECORD).exists():
        found, bench = Run.open(job.folder).record, job.spec.to_dict()
    if "settings" not in found:
        return False
    _check_same(job, Settings.from_dict(found["settings"]).to_dict(), job.settings.to_dict())
    _check_same(
        job, BenchSpec.from_dict(found["bench"]).to_dict(), BenchSpec.from_dict(bench).to_dict()
    )
    return found.get("status") in ENDED


def _check_same(job: Job, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for name, value in now.items():
        if then[name] != value:
            raise AktError(
                f"{job.folder} was made with {name} {then[name]}, not {value}: "
                "drop that option, or choose another --out"
            )


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
        settings=job.settings.to_dict(),
        bench=job.spec.to_dict(),
        teacher_accuracy=teacher_accuracy,
        images=len(bench.images),
        classes=bench.num_classes,
    )
    watch = job.watch or run.record.get("watched", False)  # as it began
    train(bench, job.settings, run, progress, make_bar, watch)


# ---- the demo's grid ----------------------------------------------------------------------------

DEMO_METHODS, DEMO_BITS = ("ptq", "adadfq", "adadfq+akt"), (2, 3, 4)


def demo_settings(method: str, bits: int, seed: int = 0, steps: int = 50) -> Settings:
    """The demo's settings; the student's rate was chosen by benchmarks/rates.py."""
    return Settings(
        method=method,
        weight_bits=bits,
        act_bits=bits,
        batch_size=32,
        epochs=8,
        steps=steps,
        warmup_epochs=2,
        seed=seed,
    )


def demo_jobs(folder: Path, seed: int, steps: int) -> list[Job]:
    """Every method at every bit-width on digits, watched."""
    return [
        Job(
            demo_settings(method, bits, seed, steps),
            BenchSpec(),
            folder / f"{method}-{bits}-{seed}",
            watch=True,
        )
        for method, bits in itertools.product(DEMO_METHODS, DEMO_BITS)
    ]
