"""The students that explorers can show: of runs, by method, bits and epoch; or merely rounded."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache
from typing import Any

import torch
from torch import nn

from akt_lab.analysis import kept
from akt_lab.analysis.gradients import Case, make_student
from akt_lab.benches import Bench, BenchSpec, load_bench
from akt_lab.errors import AktError
from akt_lab.explorers.explorer import offer
from akt_lab.methods import get_method
from akt_lab.runs.folder import CHECKPOINT, RECORD, STUDENT, Run
from akt_lab.runs.networks import load_student

Load = Callable[[Run, int | None], Any]  # a run's network, at its end or after an epoch
Own = Mapping[str, Mapping[int, nn.Module]]  # by name and bits
ROUNDED, ROUNDED_BITS = "rounded only", (2, 3, 4, 5, 6, 8)
END = "end"
OBSERVED = 64  # images for the ranges of a student that was merely rounded
NETWORKS = 8  # that are kept


def bench_of(runs: Sequence[Run], bench: Bench | None) -> Bench:
    """The bench that was given, or that of the runs, or digits.

    Raises:
        AktError: if the runs are not of one bench.
    """
    if bench is None:
        return kept.bench_of(runs) if runs else load_bench(BenchSpec())
    if runs:
        kept.check_one_bench(runs)
    return bench


def by_name(runs: Sequence[Run]) -> dict[str, dict[int, Run]]:
    """Runs by what a menu calls them, then by bits: `Settings.label`, or a folder's name.

    Runs of one name differ in their bits alone.
    """
    found: dict[str, dict[int, Run]] = {}
    kinds: dict[str, dict[str, Any]] = {}
    for run in runs:
        settings = run.settings
        bits, wider = settings.weight_bits, settings.act_bits - settings.weight_bits
        kind = settings.to_dict() | {"weight_bits": 0, "act_bits": wider}
        for name in (settings.label, run.folder.name, str(run.folder)):
            if bits not in found.get(name, {}) and kinds.setdefault(name, kind) == kind:
                break
        found.setdefault(name, {})[bits] = run
    return found


def with_generator(runs: Sequence[Run]) -> list[Run]:
    """Those that trained one, and have it."""
    return [
        run
        for run in runs
        if (run / CHECKPOINT).exists() and get_method(run.settings.method).generates
    ]


class Kept:
    """Networks of runs; those that were looked at last stay in memory."""

    def __init__(self, load: Load) -> None:
        """How to load one."""
        self._kept = lru_cache(maxsize=NETWORKS)(lambda run, epoch, stamp: load(run, epoch))

    def __call__(self, run: Run, epoch: int | str = END) -> Any:
        """A run's network; loaded anew if the run went on, or was made anew.

        Raises:
            AktError: if the run was deleted meanwhile, or never had one.
        """
        return self._kept(run, None if epoch == END else int(epoch), _stamp(run))


def _stamp(run: Run) -> int:
    """When its files were written last; the record alone is older than the networks."""
    if not (run / RECORD).exists():
        raise AktError(f"the run {run.folder} is no longer there: choose another")
    files = [run / name for name in (RECORD, CHECKPOINT, STUDENT)]
    return max(file.stat().st_mtime_ns for file in files if file.exists())


class Students:
    """Networks by the names that a menu shows."""

    def __init__(self, bench: Bench, runs: Sequence[Run], own: Own | None = None) -> None:
        """Students of `runs` (of this bench), one's `own`, or the teacher's, merely rounded."""
        self.bench, self.runs, self.own = bench, by_name(runs), dict(own or {})
        self._trained = Kept(lambda run, epoch: load_student(run, bench, epoch)[0])
        self._rounded = cache(self._round)

    @property
    def names(self) -> list[str]:
        """Of all kinds of students."""
        return [*self.runs, *(self.own or [ROUNDED])]

    def bits(self, name: str) -> list[int]:
        """The bit-widths that there are."""
        return sorted(self.runs.get(name) or self.own.get(name) or ROUNDED_BITS)

    def epochs(self, name: str, bits: int) -> list[int | str]:
        """The epochs that a run kept, and its end."""
        kept = self.runs[name][bits].epochs if name in self.runs else []
        return [*kept, END]

    def equalized(self, name: str, bits: int) -> bool:
        """Whether its teacher's channels were: its maps then are those of the equalized teacher."""
        return name in self.runs and self.runs[name][bits].settings.equalize

    def follow(self, name: Any, bits: Any, epoch: Any) -> None:
        """Offer the bit-widths and epochs that there are; takes the controls of all three."""
        widths = self.bits(name.value)
        offer(bits, widths, widths[0])
        offer(epoch, self.epochs(name.value, bits.value), END)

    def load(self, name: str, bits: int, epoch: int | str = END) -> nn.Module:
        """A student, ready to run.

        Raises:
            AktError: if its run was deleted meanwhile, or never had one.
        """
        if name in self.runs:
            return self._trained(self.runs[name][bits], epoch)
        return self.own[name][bits] if name in self.own else self._rounded(bits)

    def _round(self, bits: int) -> nn.Module:
        spread = torch.linspace(0, len(self.bench.images) - 1, OBSERVED).long().tolist()
        images = self.bench.normalise(self.bench.images[spread])
        case = Case(bits, observed=1)  # again the same images would give the same ranges
        student = make_student(self.bench.teacher, case, [(images, images)])
        return student.requires_grad_(False)
