"""SIGKILL: of a run at random moments, of a sweep's workers and of the sweep itself."""

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from akt_lab.commands.sweep import RESULTS
from akt_lab.files import fingerprint, load_tensors
from akt_lab.runs.folder import CHECKPOINT, HISTORY, RECORD, STUDENT, Run

AKT_LAB = [sys.executable, "-m", "akt_lab.commands"]
SIZES = "--warmup-epochs 1 --batch-size 8 --threads 1".split()
RUN = ["--method", "adadfq+akt", "--bits", "4", "--steps", "4", *SIZES]
SWEEP = "--methods gdfq adadfq+akt --bits 3 4 --seeds 0 1 2 --steps 10".split() + SIZES
PAUSE = 0.0005  # seconds between two looks: writing a checkpoint takes some 10 ms
Row = dict[str, str]


def _start(*arguments: object) -> subprocess.Popen:
    command = [*AKT_LAB, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _end(process: subprocess.Popen) -> str:
    said, _ = process.communicate()
    assert process.returncode == 0, said
    return said


def _left(folder: Path) -> tuple[str, str]:
    """What a run came to: its student, and its accuracies."""
    student, _ = load_tensors(folder / STUDENT)
    return fingerprint(student), json.dumps(Run(folder).record["accuracy"])


def _row(state: str, fault: str, number: int, reader: str, how: str, said: str = "") -> Row:
    about = {"state": state, "file": "any", "fault": fault, "number": str(number)}
    return {**about, "reader": reader, "outcome": how, "said": said}


# ---- a run --------------------------------------------------------------------------------------


def of_a_run(home: Path, kills: int) -> Iterator[Row]:
    """Kill one run again and again, and let it go on: a row for each kill, and one for its end.

    Every other time it is killed while it writes a checkpoint, else after a number of steps.
    """
    whole, out, rng = home / "whole", home / "killed", random.Random(kills)
    run = [*RUN, "--epochs", str(2 * kills + 4)]
    _end(_start("quantize", "--out", whole, *run))
    for number in range(kills):
        begun = ["--resume"] if (out / RECORD).exists() else run
        process = _start("quantize", "--out", out, *begun)
        in_writing = number % 2 == 0
        reached = _writes(out) if in_writing else _did(out, rng.randrange(1, 9))
        while process.poll() is None and not next(reached):
            time.sleep(PAUSE)
        time.sleep(0 if in_writing else rng.random() / 10)
        process.kill()
        said, _ = process.communicate()
        if process.returncode != -signal.SIGKILL:  # it came to its end before
            yield from [_row("a run", "SIGKILL", number, "quantize", "unnamed", said)] * (
                process.returncode != 0
            )
            break
        how = "traceback" if "Traceback" in said else "right"
        fault = "SIGKILL in writing a checkpoint" if in_writing else "SIGKILL at any moment"
        yield _row("a run", fault, number, "quantize", how, said)
    _end(_start("quantize", "--out", out, "--resume"))
    same = _left(out) == _left(whole) and Run(out).history().equals(Run(whole).history())
    yield _row("a run", "SIGKILL, all of them", kills, "resume", "right" if same else "silent")


def _writes(out: Path) -> Iterator[bool]:
    """Whether a checkpoint is being written just now."""
    while True:
        yield any(out.glob(f".{CHECKPOINT}.*.tmp"))


def _did(out: Path, steps: int) -> Iterator[bool]:
    """Whether so many more steps are in the history than when it was first looked at."""

    def rows() -> int:
        with suppress(FileNotFoundError):  # a run that begins again deletes it
            return (out / HISTORY).read_bytes().count(b"\n")
        return 0

    before = rows()
    while True:
        before = min(before, rows())  # those after the last checkpoint are taken back
        yield rows() - before >= steps


# ---- a sweep ------------------------------------------------------------------------------------


def of_a_sweep(home: Path, kills: int, epochs: int = 6) -> Iterator[Row]:
    """Kill workers of a sweep, and every fourth time the sweep: a row a kill, then a row a run.

    The same command is given again until it has done all.
    """
    whole, out, rng = home / "whole", home / "killed", random.Random(kills)
    sweep = [*SWEEP, "--epochs", epochs]
    _end(_start("sweep", "--out", whole, "--workers", 0, *sweep))
    done = 0
    while True:
        process = _start("sweep", "--out", out, "--workers", 2, *sweep)
        family = psutil.Process(process.pid)
        while process.poll() is None and done < kills:
            time.sleep(rng.uniform(1, 4))
            workers = [w for w in _children(family) if "spawn_main" in " ".join(_command(w))]
            parent = done % 4 == 3
            victim = family if parent else rng.choice(workers or [None])
            if victim and process.poll() is None:
                with suppress(psutil.NoSuchProcess):
                    victim.kill()
                    who = "the sweep" if parent else "a worker"
                    yield _row("a sweep", f"SIGKILL of {who}", done, "sweep", "right")
                    done += 1
        said, _ = process.communicate()
        if "Traceback" in said:
            yield _row("a sweep", "SIGKILL", done, "sweep", "traceback", said)
        if process.returncode == 0:
            break
        assert process.returncode in (1, -signal.SIGKILL), said
    lines = [json.loads(line) for line in (out / RESULTS).read_text().splitlines()]
    for number, folder in enumerate(sorted(path.parent for path in whole.glob(f"*/{RECORD}"))):
        mine = [line for line in lines if line["run"] == folder.name]
        same = len(mine) == 1 and _left(out / folder.name) == _left(folder)
        how = "right" if same else "silent"
        yield _row("a sweep", "SIGKILL, all of them", number, "results", how, str(mine))


def _children(process: psutil.Process) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return process.children(recursive=True)
    return []


def _command(process: psutil.Process) -> list[str]:
    with suppress(psutil.Error):
        return process.cmdline()
    return []
