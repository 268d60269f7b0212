"""What all commands have in common: akt_lab/commands/__init__.py."""

import importlib.metadata
import io
import json
import os
import shlex
import signal
import subprocess
import sys
import threading

import pytest
import torch

from akt_lab import __version__
from akt_lab.commands import COMMANDS, doctor, main, parser
from akt_lab.errors import AktError

HELP = """
import sys
import threading
from akt_lab.commands import main
try: main(sys.argv[1:])
except SystemExit: assert not {'torch', 'pandas', 'matplotlib', 'scipy'} & set(sys.modules)
"""


@pytest.mark.parametrize("command", [[], ["quantize"], ["sweep"], ["table"]])
def test_help_imports_nothing_heavy(command):
    asked = [sys.executable, "-c", HELP, *command, "--help"]
    assert subprocess.run(asked, stdout=subprocess.DEVNULL).returncode == 0


@pytest.mark.parametrize("arguments", [["--bits", "three"], ["--nonsense"], ["--image-size", "0"]])
def test_argparse_s_mistakes(arguments):
    with pytest.raises(SystemExit) as stop:
        main(["quantize", *arguments])
    assert stop.value.code == 2


def test_help_names_every_command_and_says_what_each_does():
    shown = " ".join(parser().format_help().split())
    for name, command in COMMANDS.items():
        assert f" {name} " in shown
        assert command.__doc__.startswith(f"`akt-lab {name}`")


def test_no_command_needs_akt_lab_to_be_installed(monkeypatch, tmp_path, run, digits):
    """From a source tree there is no metadata of akt-lab itself."""
    of_name = importlib.metadata.Distribution.from_name

    def hidden(name):
        if name.replace("_", "-") == "akt-lab":
            raise importlib.metadata.PackageNotFoundError(name)
        return of_name(name)

    monkeypatch.setattr(importlib.metadata.Distribution, "from_name", hidden)
    out, sizes = tmp_path / "a", ["--batch-size", 8, "--epochs", 2, "--steps", 2]
    assert run("quantize", *sizes, "--out", out)[0] == 0
    assert json.loads((out / "record.json").read_text())["versions"]["akt_lab"] == __version__
    sweep = ["sweep", "--workers", 0, "--methods", "ptq", *sizes, "--out", tmp_path / "b"]
    for command in (["evaluate", out], sweep, ["table", "--results", tmp_path / "b"], ["doctor"]):
        assert run(*command)[0] == 0


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (AktError("a name\nof two lines"), r"a name\nof two lines"),
        (PermissionError(13, "Permission denied", "a/b"), "a/b: Permission denied"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (MemoryError(), "not enough memory: try a smaller --batch-size"),
        (torch.OutOfMemoryError("CUDA out of memory.\nTried"), "not enough memory"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 4"),
            "not enough",
        ),
    ],
)
def test_what_the_system_refuses_is_one_line(error, words, refused, monkeypatch):
    def fail(options):
        raise error

    monkeypatch.setattr(doctor, "run", fail)
    refused(1, words, "doctor")


def test_our_own_mistakes_are_not_hidden(run, monkeypatch):
    def fail(options):
        raise RuntimeError("a bug")

    monkeypatch.setattr(doctor, "run", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        run("doctor")


@pytest.mark.slow
def test_who_reads_may_stop():
    command = f"{shlex.quote(sys.executable)} -m akt_lab.commands methods | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["ptq"]
    assert not done.stderr


@pytest.fixture
def command(monkeypatch):
    """A command of which a test says what it does."""

    def of(name, does):
        monkeypatch.setattr(COMMANDS[name], "run", lambda options: does() or 0)

    return of


@pytest.fixture
def heard():
    """Signals do what they do by default: they are ignored where tests run in the background."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, does) for number, does in usual.items()}
    yield
    for number, does in before.items():
        signal.signal(number, does)


@pytest.mark.skipif(os.name != "posix", reason="Windows has other signals")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_signal_ends_a_command_with_a_word(command, capsys, heard, name):
    number = getattr(signal, name)
    before = [signal.getsignal(n) for n in signal.valid_signals()]
    cleaned = []

    def work():
        try:
            signal.raise_signal(number)
        finally:
            if name != "SIGINT":
                signal.raise_signal(number)  # once more, as a closed terminal sends it
            cleaned.append(name)

    by = "" if name == "SIGINT" else f" by {name}"
    for each, how in (
        ("quantize", "--resume goes on from its last checkpoint, if it has one"),
        ("table", "the same command goes on from it"),
    ):
        command(each, work)
        assert main([each]) == 128 + number
        assert capsys.readouterr().err == f"\nstopped{by}; what was saved is kept, and {how}\n"
    assert cleaned == [name, name]
    assert [signal.getsignal(n) for n in signal.valid_signals()] == before


@pytest.mark.skipif(os.name != "posix", reason="Windows has other signals")
def test_what_is_ignored_stays_ignored(command, capsys):
    """As under nohup; and in a thread nothing can be heard, nor is anything touched."""
    old = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        command("doctor", lambda: signal.raise_signal(signal.SIGHUP))
        assert main(["doctor"]) == 0
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, old)
    codes, handlers = [], []
    command("doctor", lambda: handlers.append(signal.getsignal(signal.SIGTERM)))
    thread = threading.Thread(target=lambda: codes.append(main(["doctor"])))
    thread.start()
    thread.join()
    assert (codes, handlers) == ([0], [signal.SIG_DFL])
    assert capsys.readouterr().err == ""


def test_where_the_terminal_is_gone_the_exit_code_is_still_right(command, monkeypatch):
    class Gone(io.StringIO):
        def write(self, text):
            raise OSError(5, "Input/output error")

    command("doctor", lambda: signal.raise_signal(signal.SIGTERM))
    monkeypatch.setattr(sys, "stderr", Gone())
    assert main(["doctor"]) == 143
