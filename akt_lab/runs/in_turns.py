"""What goes on step by step: to its end, or several side by side, a step of each in turn.

A GPU is busy for a fraction of a small student's step; those of others fill the rest.
"""

import functools
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import ParamSpec, TypeVar

Name = TypeVar("Name")
Result = TypeVar("Result")
Given = ParamSpec("Given")
Steps = Generator[None, None, Result]


def whole(steps: Steps[Result]) -> Result:
    """All steps: what they return at their end."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def without_stops(stepwise: Callable[Given, Steps[Result]]) -> Callable[Given, Result]:
    """The function that does all steps of `stepwise`, with the same arguments and documentation."""

    @functools.wraps(stepwise)
    def function(*args: Given.args, **named: Given.kwargs) -> Result:
        return whole(stepwise(*args, **named))

    return function


def in_turns(
    many: Mapping[Name, Steps[Result]],
    at_once: int,
    place: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Generator[tuple[Name, Result]]:
    """Each as it ends, with what it returned; the next one then takes its place.

    An error of one ends it, and is raised: so what is no reason to stop the others, a run that
    diverged say, is theirs to return. When this is closed all are, and leave what they leave then.

    Args:
        many: by name, begun in their order.
        at_once: how many are on their way at a time.
        place: makes what each one's steps are done within, a stream of a GPU; entered every step.

    >>> def count(to):
    ...     for _ in range(to):
    ...         yield
    ...     return to
    >>> list(in_turns({"a": count(3), "b": count(1), "c": count(1)}, at_once=2))
    [('b', 1), ('a', 3), ('c', 1)]
    """
    waiting = iter(many.items())
    places = [place() for _ in range(at_once)]
    running: list[tuple[Name, Steps[Result]] | None] = [None] * at_once
    try:
        while True:
            running = [one or next(waiting, None) for one in running]
            if not any(running):
                return
            for n, one in enumerate(running):
                if one is None:
                    continue
                name, steps = one
                try:
                    with places[n]:
                        next(steps)
                except StopIteration as end:
                    running[n] = None
                    yield name, end.value
    finally:
        for one in filter(None, running):
            one[1].close()
