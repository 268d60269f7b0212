"""Damage and mistakes of every kind: what is promised of them."""

from collections.abc import Iterator
from contextlib import contextmanager

from akt_lab.errors import AktError


@contextmanager
def one_line(naming: str = "") -> Iterator[None]:
    """A block that may fail, but only by an AktError of one line that names what is wrong."""
    message = naming
    try:
        yield
    except AktError as error:
        message = str(error)
    assert len(message.splitlines()) <= 1
    assert naming in message
