"""The fault campaign, whole: `make faults`; see site/promises.md.

Writes a row for each file (or run) and fault into results/faults.csv, and the table into the page.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from tests.faults import damage, full_disk, kills
from tests.faults.kills import Row
from tests.faults.reading import BAD, OUTCOMES

ROOT = Path(__file__).parents[2]
CSV, PAGE = ROOT / "results" / "faults.csv", ROOT / "site" / "promises.md"
BEGIN, END = "<!-- what `make faults` found -->", "<!-- end -->"
WHAT = ["state", "file", "fault"]


def whole() -> Iterator[Row]:
    """Every part in its full length, each in a folder of its own."""
    parts = (
        partial(damage.campaign, cuts=10, flips=200),
        full_disk.campaign,
        partial(kills.of_a_run, kills=20),
        partial(kills.of_a_sweep, kills=12),
    )
    for part in parts:
        with tempfile.TemporaryDirectory() as home:
            yield from part(Path(home))


def summary(rows: Iterable[Row]) -> pd.DataFrame:
    """How many readings ended how, for each file and fault; `tried` is the number of faults."""
    found = pd.DataFrame(rows)
    counts = found.groupby(WHAT)["outcome"].value_counts().unstack(fill_value=0)
    tried = found.groupby(WHAT)["number"].nunique().rename("tried")
    table = counts.reindex(columns=list(OUTCOMES), fill_value=0)
    return pd.concat([tried, table], axis=1).reset_index()


def page(table: pd.DataFrame, text: str) -> str:
    """The page with this table in its place."""
    head = [name.replace("_", " ") for name in table]
    cells = [[str(cell) for cell in row] for row in table.itertuples(index=False)]
    lines = [" | ".join(row) for row in (head, ["---"] * len(head), *cells)]
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return "\n".join([before + BEGIN, "", *(f"| {line} |" for line in lines), "", END + after])


def main() -> int:
    """Run it, print and write the table; 1 if anything was lost, silent or a traceback."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--said", type=Path, help="write each reading, with what was said, here")
    options = parser.parse_args()
    rows = list(tqdm(whole(), unit="reading", desc="faults"))
    if options.said:
        pd.DataFrame(rows).to_csv(options.said, index=False)
    table = summary(rows)
    table.to_csv(CSV, index=False)
    PAGE.write_text(page(table, PAGE.read_text()))
    print(table.to_string(index=False))
    return int(table[list(BAD)].to_numpy().sum() > 0)


if __name__ == "__main__":
    sys.exit(main())
