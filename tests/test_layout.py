"""The promises of the house: what lies where, who may import whom, a test file for each module."""

import ast
import graphlib
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# The method from the ground up; a module imports those before it.
METHOD = """
    errors files speed shared_graph graph attention generator equalize quantizer losses image_pool
    methods settings step
""".split()
# Each folder imports those before it; explorers and commands do not know each other. The first two
# stand in the method's list: what it takes networks apart with, and what it rounds them with, each
# behind one door.
ROOMS = """
    graph quantizer benches runs export analysis figures explorers commands
""".split()
COURSE = {"method", "graph", "quantizer", "analysis"}  # what akt_course knows
MODULES = sorted(
    path.relative_to(ROOT).with_suffix("")
    for package in ("akt_lab", "akt_course")
    for path in (ROOT / package).rglob("*.py")
    if path.name not in ("__init__.py", "__main__.py")
)


def imports(module):
    """Our modules and packages that one imports when it runs, from wherever in the file."""
    tree = ast.parse((ROOT / module).with_suffix(".py").read_text())
    for_types = {  # what only a type checker follows may point anywhere
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):  # `from ... import` says what is used
            assert not [
                a.name for a in node.names if a.name.startswith(("akt_lab.", "akt_course."))
            ]
        if isinstance(node, ast.ImportFrom) and node not in for_types:
            base = Path(*(node.module or "").split("."))
            if base.parts and base.parts[0] in ("akt_lab", "akt_course"):
                inner = (base / alias.name for alias in node.names)
                yield from (m if m in MODULES else base for m in inner)


def room(module):
    """The folder that a module lies in; `method` at the top, `course` in akt_course."""
    if module.parts[0] == "akt_course":
        return "course"
    return module.parts[1] if len(module.parts) > 2 or module.parts[-1] in ROOMS else "method"


def test_a_dozen_modules_and_few_folders_at_eye_level():
    top = {p.name for p in (ROOT / "akt_lab").iterdir() if p.suffix == ".py" or p.is_dir()}
    top -= {"__init__.py", "__pycache__"}
    files = {f"{name}.py" for name in METHOD if name not in ROOMS}
    assert {name for name in top if name.endswith(".py")} == files
    assert {name for name in top if not name.endswith(".py")} == set(ROOMS)
    lines = sum(len((ROOT / "akt_lab" / name).read_text().splitlines()) for name in files)
    assert lines < 2500  # a method that can be read in an afternoon


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_imports_point_down(module):
    here, known = room(module), set(imports(module)) - {module, Path("akt_lab")}
    rooms = {room(other) for other in known} - {here}
    if here == "method":
        before = METHOD[: METHOD.index(module.name)]
        assert {other.name for other in known} <= set(before)
    elif here in METHOD:
        before = METHOD[: METHOD.index(here)]
        assert {m.name for m in known if room(m) != here} <= set(before)
    elif here == "course":
        assert rooms <= COURSE
    else:
        last = {"explorers", "commands"} if here in ("explorers", "commands") else set()
        course = {"course"} if here == "commands" else set()  # which grades it
        assert rooms <= {"method", *ROOMS[: ROOMS.index(here)]} - last | course


def test_no_room_goes_in_circles():
    graph = {module: set(imports(module)) & set(MODULES) for module in MODULES}
    tuple(graphlib.TopologicalSorter(graph).static_order())  # raises on a circle


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_every_module_has_a_test_file_of_its_name(module):
    folder = (
        ("course", *module.parts[1:-1]) if module.parts[0] == "akt_course" else module.parts[1:-1]
    )
    assert (ROOT / "tests" / Path(*folder) / f"test_{module.name}.py").is_file()


def test_a_name_says_what_is_in_it():
    empty = set(
        "one two three many few it this that we us they all misc utils helpers common".split()
    )
    assert not [module for module in MODULES if empty & set(module.name.split("_"))]


def test_one_list_of_dependencies():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "-e .[lab,dev]" in (ROOT / "environment.yml").read_text()
    asked = " ".join(project["dependencies"] + project["optional-dependencies"]["lab"])
    for name in "torch torchvision jupyterlab matplotlib seaborn ipywidgets pandas".split():
        assert f"{name}>=" in asked
    extras = [d for extra in project["optional-dependencies"].values() for d in extra]
    assert not [d for d in [*project["dependencies"], *extras] if "==" in d]
