"""A grid of runs: method x bits x seed x variant on one bench, a folder for each."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from akt_lab.benches import BenchSpec
from akt_lab.errors import AktError
from akt_lab.methods import Settings, get_method, with_preset
from akt_lab.results import Line, public_bench
from akt_lab.runs import RECORD, Run

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
    _check_same(job, asdict(Settings.from_dict(found["settings"])), asdict(job.settings))
    _check_same(
        job, asdict(BenchSpec.from_dict(found["bench"])), asdict(BenchSpec.from_dict(bench))
    )
    return found.get("status") in ENDED


def _check_same(job: Job, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for name, value in now.items():
        if then[name] != value:
            raise AktError(
                f"{job.folder} was made with {name} {then[name]}, not {value}: "
                "drop that option, or choose another --out"
            )
