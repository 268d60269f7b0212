import pytest

from akt_lab.commands import main


@pytest.fixture
def run(capsys):
    """A command: its exit code, and what it printed on standard output and error."""

    def of(*arguments):
        code = main([str(a) for a in arguments])
        out = capsys.readouterr()
        return code, out.out, out.err.replace("\r", "\n")

    return of


@pytest.fixture
def refused(run):
    """A command that must fail with this code and one line that says so."""

    def of(code, words, *arguments):
        got, _, error = run(*arguments)
        lines = [line for line in error.splitlines() if line.startswith("akt-lab ")]
        assert got == code, error
        assert len(lines) == 1
        assert words in lines[0]
        assert "Traceback" not in error

    return of
