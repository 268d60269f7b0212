"""The server of `akt-lab lab --app`: Voila with a token; a page that is closed ends its kernel.

Runs as a process of its own: `python -m akt_lab.commands.app_server`, with Voila's options.
"""

import html
import threading
import webbrowser
from pathlib import Path
from typing import Any

from voila.app import Voila


class App(Voila):
    """Voila, for one user of this machine."""

    def initialize(self, argv: list[str] | None = None) -> None:
        """As Voila; each page is given what it must show to be allowed to end its kernel."""
        super().initialize(argv)
        self.voila_configuration.prelaunch_hook = _set_cookie

    def launch_browser(self) -> None:
        """Open the page with its token, which is told by a file: a command line is for all eyes."""
        try:
            browser = webbrowser.get(self.browser or None)
        except webbrowser.Error as error:
            self.log.warning("No web browser found: %s.", error)
            return
        query = f"?token={token}" if (token := self.identity_provider.token) else ""
        page = Path(self.connection_dir) / "open.html"  # the folder is the user's own
        address = html.escape(f"{self.connection_url}{query}")
        page.write_text(f'<meta http-equiv="refresh" content="0;url={address}">')
        threading.Thread(
            target=browser.open, args=(page.as_uri(), self.webbrowser_open_new)
        ).start()


def _set_cookie(handler: Any, **_: Any) -> None:
    """The _xsrf cookie, which the page's request to end its kernel repeats; it is made if read."""
    handler.xsrf_token  # noqa: B018


if __name__ == "__main__":
    App.launch_instance()
