"""The app's server: what it opens for its user. tests/browser has the rest."""

from pathlib import Path

import pytest

from akt_lab.commands.app_server import App


class Browser:
    """Remembers what it was told to open."""

    def open(self, address, new):
        self.page = Path(address.removeprefix("file://"))


@pytest.mark.parametrize("token", ["abc<1", ""])
def test_the_page_that_is_opened_carries_the_token(token, tmp_path, monkeypatch):
    browser = Browser()
    monkeypatch.setattr("webbrowser.get", lambda name: browser)
    monkeypatch.setattr("threading.Thread", lambda target, args: target(*args) or NoThread())
    server = App()
    server.connection_dir = str(tmp_path)
    server.identity_provider = server.identity_provider_class(token=token)
    server.launch_browser()
    address = f"http://localhost:8866/{'?token=abc&lt;1' if token else ''}"
    assert f'url={address}"' in browser.page.read_text()


class NoThread:
    def start(self):
        pass
