"""The script that a page needs once: where it stands, and that nobody sees it."""

from html.parser import HTMLParser

from akt_lab.explorers.explorer import Telling
from akt_lab.explorers.page_script import SCRIPT, script


def test_it_arrives_whole_and_is_hidden():
    found, widget = [], script()
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: found.append((tag, dict(attributes)))
    parser.feed(widget.value)
    ((tag, attributes),) = found
    assert tag == "img"
    assert attributes["onerror"] == SCRIPT  # quotes and brackets are escaped
    assert attributes["src"] == "data:,"  # which fails to load
    assert "hidden" in attributes
    assert widget.layout.display == "none"


def test_every_explorer_brings_it():
    box = Telling()
    box.arrange([], [])
    assert box.children[-1].value == script().value
