"""Chromium for these tests: the one that is there, else Playwright's, else Debian's.

python tests/browser/chromium.py    # gets one if need be, and prints where it is
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
INSTALL = "apt-get install -y --no-install-recommends chromium"
FAILED = f"no Chromium that starts: try `python -m playwright install chromium`, or `{INSTALL}`"


def find() -> str | None:
    """The path of a Chromium that starts, Playwright's own first."""
    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
    return next((path for path in (own, *map(shutil.which, NAMES)) if path and _starts(path)), None)


def _starts(path: str) -> bool:
    if not Path(path).exists():
        return False
    return subprocess.run([path, "--version"], capture_output=True, check=False).returncode == 0


def get() -> str:
    """The same, installed if need be.

    Raises:
        SystemExit: if that does not work; says what to do.
    """
    ways = [[sys.executable, "-m", "playwright", "install", "chromium"]]
    if shutil.which("apt-get") and os.geteuid() == 0:
        ways += [["apt-get", "update"], INSTALL.split()]
    for way in ways:
        if path := find():
            return path
        print(*way, file=sys.stderr, flush=True)
        subprocess.run(way, stdout=sys.stderr, check=False)
    if path := find():
        return path
    raise SystemExit(FAILED)


if __name__ == "__main__":
    print(get())
