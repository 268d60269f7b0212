"""The promises of the folder layout: who may import whom, and that nothing is left over."""

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "akt_lab"
# From the bottom up; a module may import what stands before it, and nothing else of ours.
ORDER = """
    errors downloads memory tracing quantizer attention losses generator capture maps smooth
    curvature errorcost compiled runs digits images known benches methods pool checkpoint step
    training gradients studies results grid live worker sweep intervals tables plots
    analysis_plots gradient_plots field_plots verdicts diagrams dotplot curves demo ablations
    gallery doctor options one many course cli
""".split()
ALONE = set(
    """
    tracing attention generator capture compiled runs digits intervals memory live downloads images
    course
""".split()
)


def imports(module):
    tree = ast.parse((PACKAGE / f"{module}.py").read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "akt_lab":
            yield from (alias.name for alias in node.names if alias.name != "__version__")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("akt_lab."):
            yield node.module.split(".")[1]


def test_every_module_has_its_place():
    assert {p.stem for p in PACKAGE.glob("*.py")} - {"__init__"} == set(ORDER)


@pytest.mark.parametrize("module", ORDER)
def test_imports_point_down(module):
    allowed = {"errors"} if module in ALONE else set(ORDER[: ORDER.index(module)])
    assert set(imports(module)) <= allowed


def test_the_package_stays_small():
    lines = {p: len(p.read_text().splitlines()) for p in PACKAGE.rglob("*.py")}
    checks = sum(n for p, n in lines.items() if p.parent.name == "checks")  # the course's answers
    widgets = sum(n for p, n in lines.items() if p.parent.name == "widgets")
    assert sum(lines.values()) - checks - widgets < 9000
    assert checks < 2000
    assert widgets < 2500
    assert max(lines.values()) <= 430, lines


def test_one_list_of_dependencies():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "-e .[lab,dev]" in (ROOT / "environment.yml").read_text()
    asked = " ".join(project["dependencies"] + project["optional-dependencies"]["lab"])
    for name in "torch torchvision jupyterlab matplotlib seaborn ipywidgets pandas".split():
        assert f"{name}>=" in asked
    extras = [d for extra in project["optional-dependencies"].values() for d in extra]
    assert not [d for d in [*project["dependencies"], *extras] if "==" in d]
