"""The page of four pictures as one file that opens from a disk: `make page`, or in the site.

Parts, style, script and data are put into one HTML file; nothing is fetched from anywhere.
"""

import argparse
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import data

from akt_lab.commands.options import make_folder
from akt_lab.errors import AktError
from akt_lab.files import write_whole

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SCRIPTS = "network quantizer attention picture pad draw round gradients made page".split()
MOST = 2 * 2**20  # bytes of the file


def assembled(shown: Mapping[str, Any], in_site: bool = False) -> str:
    """The file: what `data.gathered` gives, and links to the site's other pages, or words."""
    script = "\n".join((HERE / f"{name}.js").read_text() for name in SCRIPTS)
    parts = {
        "style": (HERE / "page.css").read_text(),
        "script": script,
        "data": json.dumps(shown, separators=(",", ":"), allow_nan=False).replace("</", "<\\/"),
        "home": '<a href="index.html">AKT Lab</a>' if in_site else "AKT Lab",
        "results": '<a href="figures/README.html">the gallery</a>' if in_site else "results/",
    }
    for path in sorted((ROOT / "notebooks").glob("[1-4]-*.ipynb")):
        number, title = path.stem[0], path.stem[2:].replace("-", " ").capitalize()
        name = f"notebook {number}, {title}"
        link = f'<a href="notebooks/{path.stem}.html">{name}</a>' if in_site else name
        how = "" if in_site else " (<code>make lab</code>)"
        parts[f"notebook{number}"] = f"Write it yourself: {link}{how}."
    page = (HERE / "page.html").read_text()
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], page)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    built = ROOT / "build"
    parser.add_argument("--runs", type=Path, default=built / "explorables", help="kept here")
    parser.add_argument("--quick", action="store_true", help="a step or two of everything")
    parser.add_argument("--workers", type=int, help="runs side by side (default: one a core)")
    parser.add_argument("--out", type=Path, default=built / "explore.html")
    parser.add_argument("--in-site", action="store_true", help="link to the site's other pages")
    asked = parser.parse_args()
    try:
        make_folder("--runs", asked.runs)
        make_folder("--out", asked.out.parent)
        page = assembled(data.gathered(asked.runs, asked.workers, asked.quick), asked.in_site)
    except AktError as error:
        sys.exit(str(error))
    content = page.encode()
    if len(content) > MOST:
        sys.exit(f"the page has {len(content):,} bytes, more than {MOST:,}: show less in data.py")
    write_whole(asked.out, content)
    print(f"{asked.out}: {len(content) / 2**20:.1f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
