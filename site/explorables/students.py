"""The runs that the page shows: the demo's, and the same with the range that errs least."""

from dataclasses import replace
from pathlib import Path

from akt_lab.benches import BenchSpec
from akt_lab.runs.folder import Run
from akt_lab.runs.jobs import Job, demo_settings
from akt_lab.runs.sweep import run_grid

BITS = (4, 3, 2)
KINDS = {  # what a student is called in the page: its method, and its settings beside the demo's
    "rounded": ("ptq", {}),
    "rounded-pnorm": ("ptq", {"ranges": "pnorm"}),
    "plain": ("adadfq", {}),
    "plain-pnorm": ("adadfq", {"ranges": "pnorm"}),
    "akt": ("adadfq+akt", {}),
}


def train(folder: Path, workers: int | None = None, **budget: int) -> dict[tuple[str, int], Run]:
    """Every kind at every bit-width on digits, by (kind, bits); runs that are there are kept.

    Args:
        folder: each run has one in it.
        workers: processes; one a core where None.
        budget: settings of the demo's to be others.
    """
    jobs = {
        (kind, bits): Job(
            replace(demo_settings(method, bits), **{**given, **budget}),
            BenchSpec(),
            folder / f"{kind}-{bits}",
            watch=True,
        )
        for bits in BITS
        for kind, (method, given) in KINDS.items()
    }
    run_grid(list(jobs.values()), workers)
    return {key: Run(job.folder) for key, job in jobs.items()}
