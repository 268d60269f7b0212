"""How a check speaks: it tries an answer, and names the likely mistake in one sentence."""

import functools
import html
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from akt_course.checks.draws import Draws, global_generators_kept
from akt_course.checks.time_limit import OutOfTime, within


@dataclass(frozen=True)
class Result:
    """What a check found; a notebook shows it as one line.

    Attributes:
        exercise: the function that was asked for.
        passed: whether every property held.
        message: what was shown, or the likely mistake.
        written: False where the line that raises is still there.
    """

    exercise: str
    passed: bool
    message: str
    written: bool = True

    def __str__(self) -> str:
        """Mark, name, sentence."""
        return f"{'✓' if self.passed else '✗'} {self.exercise}: {self.message}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        colour = "#0072b2" if self.passed else "#d55e00"  # blue and vermilion: safe in both ways
        style = f"border-left:4px solid {colour};padding:.3em .8em;white-space:pre-wrap"
        return f'<div role="status" style="{style}">{html.escape(str(self))}</div>'


class Wrong(Exception):
    """A property that an answer does not have; its text is for the student."""


Check = Callable[[Callable[..., Any], Draws], None]
NOT_WRITTEN = "not written yet: replace the line that raises"
SECONDS = 20.0  # of computing; the slowest right answers take one or two


def exercise(check: Check) -> Callable[[Callable[..., Any]], Result]:
    """Make a check of an exercise: its name is the exercise's, its docstring what passing shows.

    The check takes the student's function, and a source of random numbers that is the same each
    time. It asks first whether the answer is right; only what is not is compared with the likely
    mistakes, and the one that fits is raised as `Wrong`. What comes of it is a `Result`, whatever
    the function does, however long it would take. Python's, NumPy's and PyTorch's own random
    numbers go on afterwards as if nothing had been drawn.

    >>> @exercise
    ... def double(answer, draws):
    ...     '''Twice as much, for every number tried.'''
    ...     for x in draws.normal(3):
    ...         got = answer(x)
    ...         if got != 2 * x:
    ...             expect(got != x * x, "this is the square: add the number to itself")
    ...             expect(False, "{:.2f} gives {:.2f}: add it to itself", x, got)
    >>> double(lambda x: x + x)
    ✓ double: Twice as much, for every number tried.
    >>> double(lambda x: x * x)
    ✗ double: this is the square: add the number to itself
    """

    @functools.wraps(check)
    def run(answer: Callable[..., Any]) -> Result:
        name = check.__name__
        try:
            with global_generators_kept():
                within(SECONDS, lambda: check(answer, Draws()))
        except Wrong as wrong:
            return Result(name, False, str(wrong))
        except OutOfTime as late:
            return Result(name, False, _too_long(late))
        except NotImplementedError as error:
            if not error.args:  # PyTorch raises some too, with words
                return Result(name, False, NOT_WRITTEN, written=False)
            return Result(name, False, f"it stopped with NotImplementedError: {error}")
        except Exception as error:  # the student's, so it is told, not raised
            return Result(name, False, f"it stopped with {type(error).__name__}: {error}")
        return Result(name, True, (check.__doc__ or "").strip().splitlines()[0])

    return run


def _too_long(late: OutOfTime) -> str:
    says = f"not done after {SECONDS:g} seconds of computing: does a loop never end? "
    says += "It was stopped"
    if not late.stopped:
        says += ", but goes on in the background: restart the kernel"
    return says


def expect(holds: Any, message: str, *values: Any) -> None:
    """Raise `Wrong` with the message, its {} filled in with `values`, unless `holds`."""
    if not bool(holds):
        raise Wrong(message.format(*values))


def expect_tensor(got: Any, shape: tuple[int, ...], what: str) -> None:
    """A tensor of that shape with finite values, or a sentence that says what came instead."""
    expect(got is not None, "{} is None: does the function end in a return?", what)
    expect(isinstance(got, Tensor), "{} is a {}, not a tensor", what, type(got).__name__)
    expect(got.shape == shape, "{} has shape {}, expected {}", what, tuple(got.shape), tuple(shape))
    expect(got.isfinite().all(), "{} has values that are not finite", what)


def expect_number(got: Any, what: str) -> float:
    """A float, or a tensor with one finite value, as a float."""
    expect(got is not None, "{} is None: does the function end in a return?", what)
    if isinstance(got, Tensor):
        expect(got.numel() == 1, "{} has shape {}, expected one number", what, tuple(got.shape))
        got = got.detach()  # a float of a tensor that needs a gradient warns
    try:
        number = float(got)
    except (TypeError, ValueError):
        raise Wrong(f"{what} is a {type(got).__name__}, not a number") from None
    expect(abs(number) < float("inf"), "{} is {}, not a finite number", what, number)
    return number


def first_that_fits(got: Any, mistakes: Iterable[tuple[Any, str]], tolerance: float) -> None:
    """Raise `Wrong` with the words of the first mistake whose value `got` is, if it is any."""
    for value, says in mistakes:
        expect(not close(got, value, tolerance), says)


def expect_unchanged(name: str, given: Any, before: Any) -> None:
    """What an answer was given must be what it was before the call: tensors, arrays, or lists."""
    if isinstance(given, (list, tuple)):
        for one, as_it_was in zip(given, before, strict=True):
            expect_unchanged(name, one, as_it_was)
        return
    same = torch.equal if isinstance(given, Tensor) else np.array_equal
    expect(
        same(given, before),
        "{} is changed in place, and whoever called still needs it: x = x - y makes a new tensor, "
        "x -= y, x[...] = y and x.clamp_() write into the old one",
        name,
    )


def close(got: Any, wanted: Any, tolerance: float = 1e-5) -> bool:
    """Whether two numbers or tensors agree to `tolerance`, relative to the larger one."""
    got, wanted = (torch.as_tensor(v).detach().double() for v in (got, wanted))
    if got.shape != wanted.shape and got.numel() != 1 and wanted.numel() != 1:
        return False
    scale = max(float(wanted.abs().max()), 1e-12)
    return float((got - wanted).abs().max()) <= tolerance * scale
