"""The app's server: a kernel for each page that is open, on this machine alone, with a token."""

import urllib.error
import urllib.request

import psutil
import pytest

from tests.browser import driving
from tests.browser.conftest import LAPTOP, watched

pytestmark = pytest.mark.browser


def kernels(process):
    """The kernels of a server, as the machine has them."""
    found = []
    for child in process.children(recursive=True):
        try:
            if any("ipykernel_launcher" in part for part in child.cmdline()):
                found.append(child.pid)
        except psutil.NoSuchProcess:
            pass
    return found


@pytest.fixture
def other(browser):
    """A window whose tabs are closed as a user does, the window staying."""
    context = browser.new_context()
    yield context
    context.close()


def comes(page):
    """Wait for the app's first picture."""
    page.locator(".jupyter-widgets figure img").first.wait_for()


def test_a_page_that_is_closed_or_reloaded_ends_its_kernel(voila, browser, other):
    address, process = voila
    before = set(kernels(process))  # of other tests' windows, which are torn down: it culls them

    def ours():
        return set(kernels(process)) - before

    with watched(browser, LAPTOP, "kernels") as page:
        page.goto(address)
        comes(page)
        first = ours()
        assert len(first) == 1
        page.reload()
        comes(page)
        driving.until(lambda: len(ours()) == 1)
        assert ours() != first

        second = other.new_page()
        second.goto(address)
        comes(second)
        assert len(ours()) == 2
        second.close(run_before_unload=True)
        driving.until(lambda: len(ours()) == 1)

        page.get_by_role("tab", name="2 Attention").click()  # the first page's is there
        driving.until(lambda: "teacher: digits, 4 runs in" in page.inner_text("body"))
        page.goto("about:blank")
        driving.until(lambda: not ours())


def test_who_has_no_token_sees_nothing(voila):
    address, _ = voila
    bare = address.partition("?")[0]
    for wrong in (bare, f"{bare}?token=wrong"):
        with urllib.request.urlopen(wrong) as answer:
            assert "/login" in answer.url
    closed = f"{bare}voila/api/shutdown/00000000-0000-0000-0000-000000000000"
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(closed, data=b"")


@pytest.mark.parametrize("name", ["voila", "lab"])
def test_it_listens_on_this_machine_alone(name, request, browser):
    address, process = request.getfixturevalue(name)
    with watched(browser, LAPTOP, f"sockets-{name}") as page:
        page.goto(address)
        found = [
            connection.laddr.ip
            for each in (process, *process.children(recursive=True))
            for connection in each.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        ]
    assert found
    assert set(found) <= {"127.0.0.1", "::1"}
