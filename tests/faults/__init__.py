"""Damage and mistakes of every kind: what is promised of them."""

from collections.abc import Iterator
from contextlib import contextmanager

from hypothesis import strategies as st

from akt_lab.errors import AktError

JSON = st.recursive(  # any value that a file of JSON may hold
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=4,
)


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
