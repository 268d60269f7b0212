"""A run as a job: settings, bench and folder; whether it has ended; and doing it."""

import itertools
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from akt_lab.benches import Bench, BenchSpec
from akt_lab.errors import AktError, DamagedError, UsageError
from akt_lab.files import load_tensors
from akt_lab.methods import get_method
from akt_lab.runs.checkpoint import check_own, has_checkpoint
from akt_lab.runs.folder import ENDED, RECORD, STUDENT, Run, check_made_with, differences
from akt_lab.runs.in_turns import Steps, without_stops
from akt_lab.runs.results import Line, public_bench
from akt_lab.runs.training import stepwise
from akt_lab.settings import Settings, with_preset
from akt_lab.shared_graph import SharedGraph
from akt_lab.speed import keep_freed_memory


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

    @property
    def bench(self) -> dict[str, Any]:
        """For its record: the spec, with training images only where the run sees them."""
        return self.spec.seen_by(get_method(self.settings.method)).to_dict()


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
        UsageError: for settings that cannot be right, and for a method that needs training images
            where there are none.
    """
    jobs = {}
    for seed, b, method in itertools.product(seeds, bits, methods):
        for variant in (variants or [""]) if get_method(method).akt else [""]:
            chosen = {"weight_bits": b, "act_bits": b, **others, "method": method, "seed": seed}
            if variant:
                chosen["variant"] = variant
            settings = Settings(**with_preset(chosen))
            name = name_of(settings, spec)
            spec.seen_by(get_method(method))
            jobs[name] = Job(settings, spec, folder / name)
    return list(jobs.values())


def name_of(settings: Settings, spec: BenchSpec) -> str:
    """Of a run's folder: bench, method, variant, bits and seed."""
    method = "-".join(filter(None, (settings.method, settings.shown_variant)))
    return f"{spec.name.replace(':', '.')}-{method}-{settings.bits}-{settings.seed}"


def has_ended(job: Job, lines: Mapping[str, Line], load: Callable[[BenchSpec], Bench]) -> bool:
    """Whether this very run ended: its folder says so, whose student is whole, or its line does.

    Args:
        job: what was to be done.
        lines: of a results file, by run.
        load: gives the job's bench, where there is something to compare with it.

    Raises:
        AktError: if its folder or line is another run's: other settings, another bench.
    """
    found: Mapping[str, Any] = lines.get(job.name, {})
    bench: Mapping[str, Any] = public_bench(job.bench)
    if (job.folder / RECORD).exists():
        found, bench = Run(job.folder).record, job.bench
    if "settings" not in found:
        return False
    then = Settings.from_dict(found["settings"]).to_dict()
    then |= BenchSpec.from_dict(found["bench"]).to_dict()
    now = job.settings.to_dict() | BenchSpec.from_dict(bench).to_dict()
    for name, old, new in differences(then, now):
        raise AktError(
            f"{job.folder} was made with {name} {old}, not {new}: "
            "drop that option, or choose another --out"
        )
    if found.get("fingerprints"):  # older ones are taken at their word
        check_made_with(load(job.spec), job.folder, found["fingerprints"])
    if found.get("status") == "done" and (job.folder / RECORD).exists():
        return not missing_student(Run(job.folder))
    return found.get("status") in ENDED


def missing_student(run: Run) -> str | None:
    """Why the student of a run that is done must be made again, from its checkpoint; or None.

    Raises:
        AktError: if there is no checkpoint to make it from.
    """
    path = run / STUDENT
    try:
        check_own(run, load_tensors(path)[1], path, "")
        return None
    except DamagedError as error:
        why = error.what
    except AktError:
        if path.exists():
            raise
        why = f"{path} is not there"
    if not has_checkpoint(run):
        raise AktError(
            f"{why}, and no checkpoint is left to make it from: delete {run.folder}, and train it "
            "again"
        )
    return why


def doing(
    job: Job,
    run: Run,
    bench: Bench,
    teacher_accuracy: float,
    progress: bool,
    make_bar: Callable[..., Any] = tqdm,
    graphs: dict[str, SharedGraph] | None = None,
) -> Steps[None]:
    """Do one job in its run folder, from the folder's checkpoint; nothing if it has ended.

    Stops after each step; `do` does not. Runs of a bench that are given one dict of graphs share
    them.

    Freed memory stays with the process from now on: it should be one that is there for runs.

    Raises:
        AktError: what `has_ended` and `training.train` raise.
    """
    if has_ended(job, {}, lambda _: bench):
        return
    if run.done:
        print(f"{missing_student(run)}: made again from the last checkpoint", file=sys.stderr)
    keep_freed_memory()
    run.update_record(
        settings=job.settings.to_dict(),
        bench=job.bench,
        teacher_accuracy=teacher_accuracy,
        images=len(bench.images),
        classes=bench.num_classes,
        made_in=os.getcwd(),  # where one's own teacher's module was found
    )
    watch = job.watch or run.get("watched", False)  # as it began
    yield from stepwise(bench, job.settings, run, progress, make_bar, watch, graphs)


do = without_stops(doing)


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


# ---- the demo's grid ----------------------------------------------------------------------------

DEMO_METHODS, DEMO_BITS = ("ptq", "adadfq", "adadfq+akt"), (2, 3, 4)


def demo_settings(method: str, bits: int, seed: int = 0, steps: int = 50) -> Settings:
    """The demo's settings; the student's rate was chosen by benchmarks/rates.py."""
    sizes: dict[str, Any] = {"batch_size": 32, "epochs": 8, "steps": steps, "warmup_epochs": 2}
    return Settings(method=method, weight_bits=bits, act_bits=bits, seed=seed, **sizes)


def demo_jobs(folder: Path, seed: int, steps: int) -> list[Job]:
    """Every method at every bit-width on digits, watched."""
    return [
        Job(demo_settings(m, b, seed, steps), BenchSpec(), folder / f"{m}-{b}-{seed}", watch=True)
        for m, b in itertools.product(DEMO_METHODS, DEMO_BITS)
    ]
