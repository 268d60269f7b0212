import itertools
import threading
import time

import pytest

from akt_course.checks import time_limit
from akt_course.checks.time_limit import OutOfTime, within


def test_what_is_done_in_time_is_done():
    seen = []
    within(20, lambda: seen.append(threading.current_thread()))
    assert seen[0] is not threading.current_thread()
    with pytest.raises(ZeroDivisionError):
        within(20, lambda: 1 / 0)


def forever():
    while True:
        pass


def forever_behind_an_except():
    while True:
        try:
            forever()
        except Exception:
            pass


@pytest.mark.parametrize("work", [forever, forever_behind_an_except])
def test_a_loop_without_an_end_is_ended(work):
    with pytest.raises(OutOfTime) as late:
        within(0.1, work)
    assert late.value.stopped
    left = [t for t in threading.enumerate() if t.name.startswith("a check")]
    assert not any(t.is_alive() for t in left)


def test_in_another_thread_than_the_main_one_too():
    said = []

    def check():
        with pytest.raises(OutOfTime):
            within(0.1, forever)
        said.append("ended")

    thread = threading.Thread(target=check)
    thread.start()
    thread.join()
    assert said == ["ended"]


def test_what_cannot_be_stopped_is_left_and_said_so(monkeypatch):
    monkeypatch.setattr(time_limit, "GRACE", 0.2)
    wait = threading.Event()
    with pytest.raises(OutOfTime) as late:
        within(0.1, lambda: wait.wait(600))  # computes nothing, and hears nothing
    assert not late.value.stopped
    wait.set()


def test_a_stop_of_the_user_ends_the_work_too(monkeypatch):
    counts = itertools.count()
    seen = []

    def count():
        while True:
            seen.append(next(counts))
            time.sleep(0.001)

    def stop(thread, seconds):
        thread.join(0.05)
        raise KeyboardInterrupt

    monkeypatch.setattr(time_limit, "_wait", stop)
    with pytest.raises(KeyboardInterrupt):
        within(20, count)
    reached = len(seen)
    time.sleep(0.05)
    assert len(seen) == reached
