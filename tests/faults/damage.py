"""Files that were cut short, or in which a bit fell over, each read in every way that there is."""

import contextlib
import io
import json
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd
from torch import nn

from akt_lab.analysis.kept import kept
from akt_lab.benches import Bench, load_bench
from akt_lab.benches.bench import cache_folder
from akt_lab.errors import AktError
from akt_lab.files import fingerprint
from akt_lab.runs import recorded_steps, results
from akt_lab.runs.checkpoint import load_epoch
from akt_lab.runs.folder import Run
from akt_lab.runs.networks import load_generator, load_student, prepare
from akt_lab.settings import Settings
from tests.faults.reading import command, outcome

STEPS, STOPPED_IN = 3, 3  # steps an epoch; the epoch, counted from 1, in which a run was stopped
TINY = f"--epochs 3 --steps {STEPS} --warmup-epochs 1 --batch-size 8 --threads 1".split()
RUN = ["--method", "adadfq+akt", "--bits", "4", *TINY, "--watch"]
SWEEP = ["--methods", "gdfq", "adadfq", "--bits", "4", "--seeds", "0", "1", "--workers", "0", *TINY]
POOL = Settings(method="hast", pool=16, pool_steps=2, epochs=2, steps=2, warmup_epochs=1)

Readers = Mapping[str, Callable[[], object]]  # each gives something to compare

# ---- what is damaged ----------------------------------------------------------------------------


def make(home: Path) -> None:
    """A run that ended, one that was stopped, a sweep, and the cache that serves them."""
    load_bench(progress=False)
    (home / "cache").mkdir()
    for teacher in cache_folder().glob("digits-teacher-*"):
        shutil.copy(teacher, home / "cache")
    with cached_in(home / "cache"):
        command("quantize", "--out", home / "finished" / "run", *RUN)
        steps, step = iter(range((STOPPED_IN - 1) * STEPS + 1)), recorded_steps.train_step

        def stop(*arguments: Any) -> Any:
            if next(steps, None) is None:
                raise KeyboardInterrupt
            return step(*arguments)

        with (
            mock.patch.object(recorded_steps, "train_step", stop),
            contextlib.suppress(AktError),  # it ends with 130
        ):
            command("quantize", "--out", home / "stopped" / "run", *RUN)
        command("sweep", "--out", home / "sweep", *SWEEP)
        run, bench = Run(home / "finished" / "run"), load_bench(progress=False)
        for reader in (of_run(run.folder.parent, bench)["study"], of_cache(home, bench)["prepare"]):
            reader()  # what is made once is there now


def cached_in(folder: Path) -> Any:
    """Teachers and pools are kept there, in this block."""
    return mock.patch.dict(os.environ, AKT_LAB_CACHE=str(folder))


def files(folder: Path) -> list[Path]:
    """What is damaged in a folder, relative to it: of files that are all alike, one."""
    found = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    if folder.name == "sweep":  # its runs are like the others
        return [Path("results.jsonl")]
    alike = {path for path in found if path.parent.name == "epochs" and path.stem != "0002"}
    return sorted(path for path in found - alike if path.name != ".lock")


def cut(data: bytes, number: int, rng: random.Random) -> bytes:
    """The first part of a file: nothing, all but a byte, or up to somewhere in between."""
    return data[: [0, len(data) - 1][number] if number < 2 else rng.randrange(1, len(data))]


def flipped(data: bytes, number: int, rng: random.Random) -> bytes:
    """A file with one bit changed, of three a one in a tensor file's header or its length."""
    header = 8 + int.from_bytes(data[:8], "little")
    place = rng.randrange(header if number % 3 == 0 and header < len(data) else len(data))
    return data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]


# ---- how it is read -----------------------------------------------------------------------------


def of_run(folder: Path, bench: Bench) -> Readers:
    """Ways to read a run."""
    run = Run(folder / "run")
    return {
        "load_student": lambda: _weights(load_student(run, bench)[0]),
        "load_generator": lambda: _weights(load_generator(run, bench)),
        "load_epoch": lambda: fingerprint(load_epoch(run, 2)),
        "evaluate": lambda: command("evaluate", run.folder, "--json"),
        "table": lambda: results.table([run]).drop(columns="seconds").to_csv(),
        "history": lambda: _counted_on(run.history()).to_csv(),
        "study": lambda: kept([run], "study", lambda: results.table([run]), [run]).to_csv(),
        "resume": lambda: _resumed(run, bench),  # the last, for it changes the folder
    }


def of_sweep(folder: Path, bench: Bench) -> Readers:
    """Ways to read a sweep's results."""
    return {
        "table": lambda: command("table", "--results", folder / "results.jsonl"),
        "sweep": lambda: command("sweep", "--out", folder, *SWEEP) and _names(folder),
    }


def of_cache(folder: Path, bench: Bench) -> Readers:
    """Ways to read what is kept for all runs."""
    return {
        "load_bench": lambda: load_bench(progress=False).fingerprints["teacher"],
        "prepare": lambda: fingerprint({"images": prepare(bench, POOL).generator.images}),
    }


READERS = {"finished": of_run, "stopped": of_run, "sweep": of_sweep, "cache": of_cache}


def _counted_on(history: pd.DataFrame) -> pd.DataFrame:
    """The rows of epochs that have a checkpoint in both runs; later ones may be half written."""
    return history[history["epoch"] < STOPPED_IN - 1]


def _weights(network: nn.Module) -> str:
    return fingerprint(network.state_dict())


def _names(folder: Path) -> list[str]:
    lines = (folder / "results.jsonl").read_text().splitlines()
    return sorted(json.loads(line)["run"] for line in lines)


def _resumed(run: Run, bench: Bench) -> object:
    command("quantize", "--out", run.folder, "--resume")
    left = [_weights(load_student(run, bench)[0]), _weights(load_generator(run, bench))]
    return left, run.record["accuracy"], run.history().to_csv()


# ---- every file, every fault, every reader ------------------------------------------------------


def campaign(home: Path, cuts: int, flips: int) -> Iterator[dict[str, str]]:
    """Damage one file after the other of a copy, and read it: a row for each reading.

    Args:
        home: an empty folder to work in.
        cuts: how often each file is cut short.
        flips: how often one of its bits is changed, in all states together.
    """
    with contextlib.redirect_stdout(io.StringIO()):  # what `command` heard
        make(home)
    copy = home / "copy"
    held = Counter(file for state in READERS for file in files(home / state))
    for state, readers in READERS.items():
        with cached_in(copy if state == "cache" else home / "cache"):
            _anew(home / state, copy)
            ways = readers(copy, load_bench(progress=False))
            with contextlib.redirect_stdout(io.StringIO()):
                expected = {name: read() for name, read in ways.items()}
            for file in files(home / state):
                tries = [(cut, n) for n in range(cuts)]
                tries += [(flipped, n) for n in range(flips // held[file])]
                for fault, number in tries:
                    _anew(home / state, copy)
                    rng = random.Random(f"{state} {file} {fault.__name__} {number}")
                    (copy / file).write_bytes(fault((copy / file).read_bytes(), number, rng))
                    for name, read in ways.items():
                        if name in COMMANDS and number % 5:
                            continue
                        how, said = outcome(read, expected[name], copy / file)
                        yield {
                            **{"state": state, "file": str(file), "fault": FAULTS[fault]},
                            **{"number": str(number), "reader": name, "outcome": how, "said": said},
                        }


COMMANDS = ("evaluate", "resume", "sweep")  # whole commands take longer: of five faults, one
FAULTS = {cut: "cut short", flipped: "a bit flipped"}


def _anew(whole: Path, copy: Path) -> None:
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(whole, copy)
