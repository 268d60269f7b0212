"""Sphinx: executed notebooks and the gallery as static pages that load nothing from elsewhere."""

from docutils import nodes
from latex2mathml.converter import convert

project = "AKT Lab"
author = "AKT Lab"
copyright = "2026, AKT Lab, Apache-2.0"
extensions = ["myst_nb"]
nb_execution_mode = "off"  # `make notebooks` has executed them
nb_ipywidgets_js = {}  # it would come from a CDN; build.py leaves pictures in place of widgets
nb_output_stderr = "remove"  # progress bars
myst_enable_extensions = ["dollarmath", "html_image"]
myst_heading_anchors = 3
myst_update_mathjax = False
html_math_renderer = "mathml"
html_theme = "furo"
html_title = "AKT Lab"
html_copy_source = False
html_static_path = ["static"]
html_css_files = ["akt.css"]


def mathml(latex, display):
    """Presentation MathML, which browsers draw by themselves."""
    return convert(latex, display=display)


def visit_inline(translator, node):
    """A formula within a line."""
    translator.body.append(mathml(node.astext(), "inline"))
    raise nodes.SkipNode


def visit_block(translator, node):
    """A formula on a line of its own."""
    translator.body.append(f'<div class="math">{mathml(node.astext(), "block")}</div>')
    raise nodes.SkipNode


def setup(app):
    """Register the renderer under the name that `html_math_renderer` asks for."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
