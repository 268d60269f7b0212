import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import akt_lab


def test_the_docstring_s_import_works_and_nothing_is_loaded_before():
    line = next(text for text in akt_lab.__doc__.splitlines() if "import quantize_model" in text)
    check = (
        "import sys, akt_lab\n"
        "assert not {'torch', 'numpy', 'akt_lab.settings'} & set(sys.modules)\n"
        "from akt_lab import Settings\n"
        "assert 'torch' not in sys.modules\n"
        f"{line.strip()}\n"
    )
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0


def test_each_name_is_its_module_s_and_editors_know_it():
    tree = ast.parse(Path(akt_lab.__file__).read_text())
    (known,) = [node for node in tree.body if isinstance(node, ast.If)]
    found = {alias.name: line.module for line in known.body for alias in line.names}
    assert found.keys() == set(akt_lab.__all__)
    for name, module in found.items():
        assert getattr(akt_lab, name) is getattr(import_module(module), name)


def test_other_names_are_not_there():
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        akt_lab.trian  # noqa: B018
