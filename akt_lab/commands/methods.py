"""`akt-lab methods`: source, equations and settings of each method."""

import argparse
import json

from akt_lab.settings import Settings


def add(commands: argparse._SubParsersAction, name: str) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(name, help="list the methods: source, equations, settings")
    parser.add_argument("--json", action="store_true", help="print them as JSON")


def run(options: argparse.Namespace) -> int:
    """Print the table of methods."""
    from akt_lab.methods import METHODS

    rows = []
    for name, method in METHODS.items():
        s = Settings(method=name)
        made = f"{method.pool} optimised once" if method.pool else "a generator's"
        images = "real training images" if method.real else made
        rows.append({"method": name, "source": method.source, "equation": method.equation,
                     "images": images, "batch_size": s.batch_size, "ranges": s.ranges})  # fmt: skip
    if options.json:
        print(json.dumps(rows, indent=2))
        return 0
    for row in rows:
        print(f"{row['method']}\n  {row['source']}\n  {row['equation']}")
        print(f"  images: {row['images']}; {row['batch_size']} a step; ranges: {row['ranges']}")
    return 0
