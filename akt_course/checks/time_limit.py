"""What takes too long is stopped, in a notebook of any system.

`signal.alarm` does not exist on Windows, and rings in the main thread alone. A process of its own
cannot take a function that was written in a notebook's cell. So the work runs in a thread, in which
CPython raises an exception when the time is up (`PyThreadState_SetAsyncExc`): between two steps of
Python's, which stops every loop that is written in Python. What sits in one endless call of
compiled code cannot be stopped; then waiting ends all the same, and the message says so. (If that
call keeps the interpreter's lock, as `sum(iter(int, 1))` does, no thread of the process can do
anything, and the kernel must be restarted; no kind of alarm would help.)

Time is what the process has computed, so that a busy computer refuses nobody; one that only waits,
for a key or a lock, has `PATIENCE` times as long by the clock.
"""

import ctypes
import threading
import time
from collections.abc import Callable

PATIENCE = 6
GRACE = 2.0  # seconds in which what is told to stop may do so


class OutOfTime(BaseException):
    """The time is up; a BaseException, so that no `except Exception` holds it up.

    Attributes:
        stopped: whether the work has ended.
    """

    stopped = True


def within(seconds: float, work: Callable[[], None]) -> None:
    """Do `work`, for so many seconds of computing at most.

    Raises:
        OutOfTime: if that was not enough.
        BaseException: what `work` raises.
    """
    raised: list[BaseException] = []

    def tell() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=tell, daemon=True, name="a check with a time limit")
    thread.start()
    try:
        _wait(thread, seconds)
    finally:  # Ctrl-C, or a notebook's Stop, is heard here, and ends the work too
        if thread.is_alive():
            _stop(thread)
    if thread.is_alive():
        late = OutOfTime()
        late.stopped = False
        raise late
    if raised:
        raise raised[0]


def _wait(thread: threading.Thread, seconds: float) -> None:
    computed, end = time.process_time() + seconds, time.monotonic() + PATIENCE * seconds
    while thread.is_alive() and time.process_time() < computed and time.monotonic() < end:
        thread.join(min(seconds, 0.2))  # in short pieces: on Windows a wait hears no Ctrl-C


def _stop(thread: threading.Thread) -> None:
    """Raise OutOfTime in it, again where an `except:` swallows it."""
    end = time.monotonic() + GRACE
    while thread.is_alive() and time.monotonic() < end:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(thread.ident or 0), ctypes.py_object(OutOfTime)
        )
        thread.join(0.1)
