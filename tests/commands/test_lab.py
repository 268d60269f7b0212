import json
import os
import subprocess
import sys
import time
import urllib.request

import pytest


def test_no_notebooks(refused, tmp_path):
    refused(1, "no notebooks/ folder", "lab", "--folder", tmp_path / "none")
    refused(2, "--runs is what --app shows", "lab", "--runs", tmp_path)


@pytest.mark.slow
def test_lab_serves_the_notebooks(tmp_path):
    """A real JupyterLab on notebooks/, asked over HTTP."""
    port = 18931
    command = [sys.executable, "-m", "akt_lab.commands", "lab", "--no-browser", "--allow-root"]
    options = [f"--port={port}", "--ServerApp.token=secret", "--ServerApp.port_retries=0"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    own = {"env": {**os.environ, "JUPYTER_RUNTIME_DIR": str(tmp_path)}, **quiet}
    with subprocess.Popen([*command, *options], **own) as server:
        try:
            address = f"http://127.0.0.1:{port}/api/contents?token=secret"
            listing = None
            for _ in range(120):
                try:
                    with urllib.request.urlopen(address, timeout=5) as answer:
                        listing = json.load(answer)
                    break
                except OSError:
                    time.sleep(0.5)
            assert listing is not None, "JupyterLab did not answer within a minute"
            assert any(entry["name"].endswith(".ipynb") for entry in listing["content"])
        finally:
            subprocess.run([sys.executable, "-m", "jupyter", "server", "stop", str(port)], **own)
            server.terminate()
