"""Tables that are made once from runs and kept beside them, on every core."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from joblib import Parallel, cpu_count, delayed, parallel_config
from tqdm.auto import tqdm

from akt_lab.benches import Bench, BenchSpec, load_bench
from akt_lab.errors import AktError
from akt_lab.files import cannot_write, write_whole
from akt_lab.runs.folder import Run
from akt_lab.speed import keep_freed_memory


def bench_of(runs: Sequence[Run]) -> Bench:
    """The bench of all these runs.

    Raises:
        AktError: if they are of several; a figure shows one.
    """
    check_one_bench(runs)
    return load_bench(BenchSpec.from_dict(runs[0].entry("bench")), progress=False)


def _beside(runs: Sequence[Run], name: str) -> Path:
    """A file in studies/, in the folder that holds all the runs; the folder is made.

    Raises:
        AktError: if it cannot be made.
    """
    folder = Path(os.path.commonpath([run.folder.absolute().parent for run in runs])) / "studies"
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error
    return folder / name


def kept(runs: Sequence[Run], name: str, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """The table studies/NAME.csv beside the runs, made if it is not there."""
    path = _beside(runs, f"{name}.csv")
    if not path.exists():
        write_whole(path, make().to_csv(index=False).encode())
    return pd.read_csv(path, keep_default_na=True)


def _light(bench: Bench) -> Bench:
    """For another process: without the images, which it does not need."""
    nothing = torch.empty(0, *bench.images.shape[1:], dtype=torch.uint8)
    return replace(bench, images=nothing, labels=bench.labels[:0])


def _side_by_side(tasks: Mapping[str, Callable[[], Any]], progress: bool) -> list[Any]:
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


def check_one_bench(runs: Sequence[Run]) -> None:
    """Refuse runs of several benches: a figure shows one.

    Raises:
        AktError: names the benches.
    """
    benches = {run.entry("bench")["teacher"] or run.entry("bench")["bench"] for run in runs}
    if len(benches) > 1:
        raise AktError(f"these runs are of several benches ({', '.join(sorted(benches))}): "
                       "name a folder of one by --runs")  # fmt: skip
