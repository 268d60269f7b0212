"""How a check speaks: it tries an answer, and names the likely mistake in one sentence."""

import functools
import html
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Result:
    """What a check found; a notebook shows it as one line.

    Attributes:
        exercise: the function that was asked for.
        passed: whether every property held.
        message: what was shown, or the likely mistake.
    """

    exercise: str
    passed: bool
    message: str

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


Check = Callable[[Callable[..., Any]], None]


def exercise(check: Check) -> Callable[[Callable[..., Any]], Result]:
    """Make a check of an exercise: its name is the exercise's, its docstring what passing shows.

    The check takes the student's function and raises `Wrong`; what comes of it is a `Result`,
    whatever the function does. Random numbers are the same each time and leave no trace.

    >>> @exercise
    ... def double(answer):
    ...     '''Twice as much, for every number tried.'''
    ...     expect(answer(2) == 4, "2 gives {}: add it to itself", answer(2))
    >>> double(lambda x: x + x)
    ✓ double: Twice as much, for every number tried.
    >>> double(lambda x: x)
    ✗ double: 2 gives 2: add it to itself
    """

    @functools.wraps(check)
    def run(answer: Callable[..., Any]) -> Result:
        name = check.__name__
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                check(answer)
        except Wrong as wrong:
            return Result(name, False, str(wrong))
        except NotImplementedError:
            return Result(name, False, "not written yet: replace the line that raises")
        except Exception as error:  # the student's, so it is told, not raised
            return Result(name, False, f"it stopped with {type(error).__name__}: {error}")
        return Result(name, True, (check.__doc__ or "").strip().splitlines()[0])

    return run


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


def close(got: Any, wanted: Any, tolerance: float = 1e-5) -> bool:
    """Whether two numbers or tensors agree to `tolerance`, relative to the larger one."""
    got, wanted = (torch.as_tensor(v).detach().double() for v in (got, wanted))
    scale = max(float(wanted.abs().max()), 1e-12)
    return float((got - wanted).abs().max()) <= tolerance * scale
