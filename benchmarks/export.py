"""What runs' students weigh, give and take as ONNX files, in every form and runtime.

    python benchmarks/export.py runs/photographs/* --out results/export.csv

For each run, form and runtime a row, measured by what `akt-lab export` calls: bytes of the file,
of the network at its bits and ideally coded, and of float32's file; on every evaluation image the
largest difference of logits from the student's, images apart at ties, classes that differ, top-1;
milliseconds for one image on one thread, beside float32's in turns; how many layers the runtime
reports as run in integers. A file that `akt-lab export` refuses has one row, with the reason. Times
are of this machine, which should do nothing else meanwhile.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from akt_lab import export
from akt_lab.benches import load_bench
from akt_lab.errors import AktError
from akt_lab.files import write_whole
from akt_lab.runs.folder import Run

FORMS = (("int8", "float"), ("packed", "float"), ("packed", "8"), ("float", "float"))
CHECKED = (
    "version images accuracy student_accuracy difference at_ties apart classes classes_apart good "
    "ms ms_float32".split()
)

SHOWN = ("bench", "bits", "storage", "sums", "runtime")


def rows(run: Run) -> Iterator[dict[str, Any]]:
    """Of one run: each form of its student in each runtime."""
    bench = load_bench(run.spec)
    s = run.settings
    about = {"bench": bench.name, "method": s.label, "bits": s.bits, "ranges": s.ranges}
    students = {sums: export.of_run(run, bench, sums=sums) for sums in ("float", "8")}
    for storage, sums in FORMS:
        exported = students[sums].stored_as(storage)
        sizes = {f"bytes_{name}": n for name, n in exported.sizes().items()}
        form = {**about, "seed": s.seed, "storage": storage, "sums": sums, **sizes}
        try:
            measured = export.measured(exported, progress=True)
        except AktError as error:
            yield {**form, "good": False, "refused": str(error)}
            continue
        for runtime, found in measured.items():
            layers = {"layers": len(found["in_integers"]) + len(found["in_float"])}
            yield {
                **form, "runtime": runtime, **{name: found[name] for name in CHECKED}, **layers,
                "layers_in_integers": len(found["in_integers"]),
            }  # fmt: skip


def main() -> None:
    """Measure each run, and write the rows as they come."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", help="folders of runs that left a student")
    parser.add_argument("--out", type=Path, required=True, help="a CSV file, written anew")
    given = parser.parse_args()
    done: list[dict[str, Any]] = []
    for folder in given.runs:
        for row in rows(Run.open(folder)):
            done.append(row)
            write_whole(given.out, pd.DataFrame(done).to_csv(index=False).encode())
            print(*(row.get(name, "refused") for name in SHOWN))


if __name__ == "__main__":
    try:
        main()
    except AktError as error:
        raise SystemExit(f"export.py: {error}") from error
