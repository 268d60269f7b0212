"""Tables that are made once from runs and kept beside them; and work side by side on every core."""

import hashlib
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from joblib import Parallel, cpu_count, delayed, parallel_config
from tqdm.auto import tqdm

from akt_lab.benches import Bench, load_bench
from akt_lab.errors import AktError
from akt_lab.files import CHANGED, MADE_AGAIN, cannot_write, claim, damaged, write_whole
from akt_lab.runs.folder import STUDENT, Run
from akt_lab.runs.verified_json import read_bytes
from akt_lab.speed import keep_freed_memory


def bench_of(runs: Sequence[Run]) -> Bench:
    """The bench of all these runs.

    Raises:
        AktError: if there are none, or they are of several; a figure shows one.
    """
    if not runs:
        raise AktError("no runs: make some with `akt-lab demo`")
    check_one_bench(runs)
    try:
        return load_bench(runs[0].spec, progress=False)
    except AktError as error:
        made_in = runs[0].get("made_in", os.getcwd())
        if not runs[0].spec.teacher or made_in == os.getcwd():
            raise
        raise AktError(f"{error}: {runs[0].folder} was made in {made_in}, start there") from error


def check_one_bench(runs: Sequence[Run]) -> dict[str, Any]:
    """Refuse runs of several benches: other names or files, or others behind the same names.

    Returns:
        what they share: the entries of `BenchSpec`, and the fingerprints that records have. Only
        some runs see training images: where these lie does not matter, what they are does.

    Raises:
        AktError: says in what they differ.
    """
    shared: dict[str, Any] = {}
    for run in runs:
        prints = {f"{n}'s fingerprint": v for n, v in run.get("fingerprints", {}).items()}
        spec = {k: v for k, v in run.spec.to_dict().items() if k != "train_data"}
        for name, value in {**spec, **prints}.items():
            if shared.setdefault(name, value) != value:
                raise AktError(
                    f"these runs are of several benches ({name}: {shared[name]}, and {value} of "
                    f"{run.folder}): name a folder of one by --runs"
                )
    return shared


# ---- what is kept -------------------------------------------------------------------------------


def beside(runs: Sequence[Run], name: str, entering: Sequence[Run] = (), **constants: Any) -> Path:
    """Where something that is made of runs is kept: studies/, in the folder that holds them all.

    The file's name ends in a digest of what it is made of, so that nothing is shown for what it is
    not: of the bench, of the settings and the student of each run that is `entering`, and of the
    study's own `constants`. The folder is made.

    Raises:
        AktError: if the runs are of several benches, or the folder cannot be made.
    """
    students = [[run.entry("settings"), _digest_of_file(run / STUDENT)] for run in entering]
    made_of = json.dumps([check_one_bench(runs), students, constants], sort_keys=True)
    folder = Path(os.path.commonpath([run.folder.absolute().parent for run in runs])) / "studies"
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error
    stem, ending = os.path.splitext(name)
    return folder / f"{stem}-{_digest(made_of.encode())}{ending}"


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]


def _digest_of_file(path: Path) -> str:
    if not path.exists():
        return ""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def kept(
    runs: Sequence[Run],
    name: str,
    make: Callable[[], pd.DataFrame],
    entering: Sequence[Run] = (),
    **constants: Any,
) -> pd.DataFrame:
    """The table NAME.csv that lies `beside` the runs, made if it is not there.

    A digest of what is in it ends its name, so that a damaged one is not taken for it.

    Raises:
        DamagedError: if it is not what was written.
    """
    path = beside(runs, f"{name}.csv", entering, **constants)
    of_it = f"{path.stem}-*{path.suffix}"
    if not any(path.parent.glob(of_it)):
        with claim(path.parent, progress=True):
            if not any(path.parent.glob(of_it)):  # another process may have made it meanwhile
                data = make().to_csv(index=False).encode()
                write_whole(path.with_stem(f"{path.stem}-{_digest(data)}"), data)
    path = next(path.parent.glob(of_it))
    data = read_bytes(path)
    if path.stem.rpartition("-")[2] != _digest(data):
        raise damaged(path, CHANGED, MADE_AGAIN)
    return pd.read_csv(io.BytesIO(data))


# ---- side by side -------------------------------------------------------------------------------


def on_every_core(tasks: Mapping[str, Callable[[], Any]], progress: bool) -> list[Any]:
    """Each task in a process of one thread, a process a core: small networks fill no second one."""
    found = []
    with parallel_config("loky", inner_max_num_threads=1):
        start = Parallel(n_jobs=cpu_count(), return_as="generator")
        ends = start(delayed(_in_worker)(task) for task in tasks.values())
        bar = tqdm(zip(tasks, ends, strict=True), total=len(tasks), disable=not progress)
        for about, end in bar:
            bar.set_description(about)
            found.append(end)
    return found


def _in_worker(task: Callable[[], Any]) -> Any:
    keep_freed_memory()
    return task()
