"""The static site: `python site/build.py` gathers its sources and has Sphinx build them, offline.

Reads the executed notebooks in build/notebooks (`make notebooks`), figures/, results/, the course's
zip, START-HERE.md and INSTRUCTORS.md; writes build/site, with the page of four pictures beside it
(explorables/). Widgets need a kernel, so each is replaced by what it shows first.
"""

import argparse
import html
import json
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from akt_lab.analysis.intervals import mean_interval

HERE = Path(__file__).parent
ROOT = HERE.parent
VIEW, STATE = (f"application/vnd.jupyter.widget-{kind}+json" for kind in ("view", "state"))
PLAIN = {  # at the budget of the experiment on photographs
    "method": "adadfq", "ranges": "ema", "gradient": "identity", "weight_bits": 3, "epochs": 10,
}  # fmt: skip
CONTROLS = ("Slider", "Dropdown", "Button", "Checkbox", "Play", "Text", "Radio")


def gather(notebooks: Path, source: Path) -> None:
    """Put all that Sphinx reads into one folder."""
    found = sorted(notebooks.glob("[0-9]-*.ipynb"))
    if not found:
        sys.exit(f"no executed notebooks in {notebooks}: run `make notebooks` first")
    shutil.rmtree(source, ignore_errors=True)
    (source / "notebooks").mkdir(parents=True)
    for name in ("conf.py", "promises.md"):
        shutil.copy(HERE / name, source)
    alt = json.loads((ROOT / "figures" / "accuracy_by_bits.json").read_text())["alt"]
    index = (HERE / "index.md").read_text().replace("{{answer}}", answer(ROOT / "results"))
    (source / "index.md").write_text(index.replace("{{alt}}", html.escape(alt)))
    shutil.copytree(HERE / "static", source / "static")
    shutil.copytree(ROOT / "figures", source / "figures")
    shutil.copy(ROOT / "notebooks" / "START-HERE.md", source / "start-here.md")
    shutil.copy(ROOT / "notebooks" / "INSTRUCTORS.md", source / "for-teachers.md")
    for place in found:
        book = nbformat.read(place, as_version=4)
        nbformat.write(without_widgets(book), source / "notebooks" / place.name)


def answer(results: Path) -> str:
    """One line from the runs on photographs: what AKT, and what learned ranges, add to plain."""
    lines = [
        json.loads(line)
        for name in ("photographs.jsonl", "recipe.jsonl")
        for line in (results / name).read_text().splitlines()
    ]

    def by_seed(**wanted: object) -> dict[int, float]:
        return {
            line["settings"]["seed"]: line["accuracy"]["last"]
            for line in lines
            if all(line["settings"][name] == value for name, value in wanted.items())
        }

    def gain(**changed: object) -> str:
        plain, other = by_seed(**PLAIN), by_seed(**PLAIN | changed)
        seeds = sorted(plain.keys() & other)
        mean, low, _ = mean_interval([other[seed] - plain[seed] for seed in seeds])
        return f"{mean:+.1f} ± {mean - low:.1f} points ({len(seeds)} seeds)"

    akt, ranges = gain(method="adadfq+akt", variant="code"), gain(ranges="learned")
    return (
        "on photographs at 3 bits, over plain distillation with equal images, AKT as its code "
        f"meant it: {akt}; activation ranges that are learned, without AKT: {ranges}."
    )


def without_widgets(book: NotebookNode) -> NotebookNode:
    """The notebook with each widget replaced by a line about it and by what it shows."""
    state = book.metadata.pop("widgets", {}).get(STATE, {}).get("state", {})
    for cell in book.cells:
        outputs = []
        for output in cell.get("outputs", ()):
            view = output.get("data", {}).get(VIEW)
            outputs += still(view["model_id"], state) if view else [output]
        if cell.cell_type == "code":
            cell.outputs = outputs
    return book


def still(model: str, state: dict) -> list[NotebookNode]:
    """A line that names the controls, and the outputs that the widget holds; nothing for a bar."""
    models = [state[name] for name in family(model, state)]
    controls = [m["state"].get("description", "").strip(" .:") for m in models
                if any(kind in m["model_name"] for kind in CONTROLS)]  # fmt: skip
    shown = [output for m in models for output in m["state"].get("outputs", ())]
    if not controls:
        return [nbformat.from_dict(output) for output in shown]
    text = f"In a running notebook: {', '.join(filter(None, controls)) or 'a control'}."
    line = {"text/html": f'<p class="still">{html.escape(text)}</p>', "text/plain": text}
    return [nbformat.v4.new_output("display_data", line), *map(nbformat.from_dict, shown)]


def family(model: str, state: dict) -> list[str]:
    """The model and all below it, in order."""
    children = state.get(model, {}).get("state", {}).get("children", ())
    below = [name for child in children for name in family(child.removeprefix("IPY_MODEL_"), state)]
    return [model, *below] if model in state else below


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--notebooks", type=Path, default=ROOT / "build" / "notebooks")
    parser.add_argument("--zip", type=Path, default=ROOT / "build" / "akt-lab-course.zip")
    parser.add_argument("--runs", type=Path, default=ROOT / "build" / "explorables")
    parser.add_argument("--quick", action="store_true", help="the page after a step or two")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "site")
    asked = parser.parse_args()
    source = asked.out.with_name(f"{asked.out.name}-source")
    gather(asked.notebooks, source)
    if not asked.zip.exists():
        sys.exit(f"no {asked.zip}: run `make course-zip` first")
    shutil.rmtree(asked.out, ignore_errors=True)
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-q", "-W", "--keep-going"]
    done = subprocess.run([*command, "-d", f"{source}/.doctrees", str(source), str(asked.out)])
    if done.returncode:
        return done.returncode
    shutil.copy(asked.zip, asked.out / "akt-lab-course.zip")
    page = [sys.executable, str(HERE / "explorables" / "page.py"), "--in-site"]
    page += ["--runs", str(asked.runs), *(["--quick"] if asked.quick else [])]
    done = subprocess.run([*page, "--out", str(asked.out / "explore.html")])
    if done.returncode == 0:
        print(f"{asked.out}/index.html")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
