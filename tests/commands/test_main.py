import json
import os
import subprocess
import sys
import time

import pytest
import torch

from akt_lab.commands import main
from akt_lab.commands.options import SETTING_OPTIONS
from akt_lab.files import claim
from akt_lab.methods import METHODS
from akt_lab.settings import Settings

SMALL = ["--batch-size", "8", "--epochs", "2", "--steps", "3"]


def run(capsys, *arguments):
    code = main([str(a) for a in arguments])
    out = capsys.readouterr()
    return code, out.out, out.err.replace("\r", "\n")


def refused(capsys, code, words, *arguments):
    """The command fails with this code and one line that says so."""
    got, _, error = run(capsys, *arguments)
    lines = [line for line in error.splitlines() if line.startswith("akt-lab ")]
    assert got == code, error
    assert len(lines) == 1
    assert words in lines[0]
    assert "Traceback" not in error


def test_quantize_and_evaluate(capsys, tmp_path, digits):
    out = tmp_path / "run"
    code, printed, _ = run(capsys, "quantize", "--bits", 4, *SMALL, "--out", out, "--json")
    assert code == 0
    made = json.loads(printed)
    code, printed, _ = run(capsys, "evaluate", out, "--json")
    assert code == 0
    judged = json.loads(printed)
    assert judged["student_accuracy"] == made["student_accuracy"]
    assert judged["teacher_accuracy"] == made["teacher_accuracy"] >= 90
    assert judged["images"] == 540
    refused(capsys, 1, "already exists", "quantize", *SMALL, "--out", out)
    resume = ["quantize", "--resume", "--out", out]
    refused(capsys, 2, "was made with weight_bits 4, not 3", *resume, "--bits", 3)
    refused(capsys, 2, "has ended without --watch", *resume, "--watch")
    code, _, _ = run(capsys, "quantize", "--out", out, "--resume", "--bits", 4)
    assert code == 0  # ended: nothing to do


def test_resumed_as_it_began(capsys, tmp_path, digits, monkeypatch):
    """Sums round differently with another number of threads, or on another device."""
    out, before = tmp_path / "run", torch.get_num_threads()
    try:
        assert run(capsys, "quantize", *SMALL, "--threads", 1, "--out", out)[0] == 0
        torch.set_num_threads(2)
        assert run(capsys, "quantize", "--out", out, "--resume")[0] == 0
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_one_process_at_a_time_in_a_run(capsys, tmp_path, digits):
    out = tmp_path / "run"
    with claim(out):
        refused(capsys, 1, "another process is writing", "quantize", *SMALL, "--out", out)
    assert run(capsys, "quantize", *SMALL, "--out", out)[0] == 0  # the lock's file is no run


def test_killed_between_the_student_and_the_record(capsys, tmp_path, digits):
    out = tmp_path / "run"
    assert run(capsys, "quantize", *SMALL, "--out", out)[0] == 0
    record = json.loads((out / "record.json").read_text())
    kept = {k: v for k, v in record.items() if k not in ("accuracy", "lam", "seconds")}
    (out / "record.json").write_text(json.dumps({**kept, "status": "running"}))
    assert run(capsys, "quantize", "--out", out, "--resume")[0] == 0
    again = json.loads((out / "record.json").read_text())
    assert again["accuracy"] == record["accuracy"]
    assert again["seconds"] == record["seconds"]


def test_a_run_that_no_command_made(capsys, tmp_path):
    (tmp_path / "record.json").write_text("{}")
    refused(capsys, 1, "no 'bench'", "evaluate", tmp_path)
    refused(capsys, 1, "no 'settings'", "figures", "--runs", tmp_path, "--out", tmp_path / "f")


def test_evaluate_a_teacher_alone(capsys, digits):
    code, printed, _ = run(capsys, "evaluate", "--json")
    assert code == 0
    assert json.loads(printed).keys() == {"bench", "images", "teacher_accuracy"}


def test_default_folders_are_numbered(capsys, tmp_path, monkeypatch, digits):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert run(capsys, "quantize", "--method", "ptq", *SMALL)[0] == 0
    assert sorted(os.listdir("runs")) == ["digits-ptq-3w3a-0", "digits-ptq-3w3a-0-2"]


@pytest.mark.parametrize(
    ("code", "words", "arguments"),
    [
        (2, "2 to 8, not 9", ["--bits", "9"]),
        (2, "2 to 8, not 1", ["--weight-bits", "1"]),
        (2, "did you mean 'adadfq+akt'", ["--method", "adadfq+atk"]),
        (2, "did you mean 'digits'", ["--bench", "digts"]),
        (2, "needs --weights FILE and --data DIR", ["--teacher", "a:b"]),
        (2, "--bench imagenet needs --data DIR", ["--bench", "imagenet"]),
        (1, "no file /nowhere/w.pth", ["--bench", "cifar10", "--weights", "/nowhere/w.pth"]),
        (1, "/nowhere: no such folder", ["--bench", "cifar10", "--data", "/nowhere"]),
        (2, "exclude each other", ["--bench", "cifar10", "--teacher", "a:b"]),
        (2, "--resume goes on with the run in --out", ["--resume"]),
        (1, "is not a run folder", ["--resume", "--out", "/nowhere"]),
        (2, "--threads must be at least 1", ["--threads", "0"]),
        (2, "--device takes cpu or cuda", ["--device", "tpu"]),
        (2, "leaves nothing", ["--epochs", "1"]),
    ],
)
def test_quantize_s_mistakes(capsys, tmp_path, monkeypatch, code, words, arguments):
    monkeypatch.chdir(tmp_path)
    refused(capsys, code, words, "quantize", *arguments)
    assert not os.path.exists("runs")


@pytest.mark.parametrize("arguments", [["--bits", "three"], ["--nonsense"], ["--batch-size", "0"]])
def test_argparse_s_mistakes(capsys, arguments):
    with pytest.raises(SystemExit) as stop:
        main(["quantize", *arguments])
    assert stop.value.code == 2


def test_other_mistakes(capsys, tmp_path):
    refused(capsys, 1, "is not a run folder", "evaluate", tmp_path)
    refused(capsys, 1, "no runs under", "figures", "--runs", tmp_path)
    refused(capsys, 1, "no notebooks/ folder", "lab", "--folder", tmp_path / "none")


def test_a_diverged_run_exits_with_one(capsys, tmp_path, digits):
    sizes = ["--batch-size", "8", "--epochs", "4", "--steps", "4", "--out", tmp_path / "a"]
    arguments = ["quantize", "--method", "gdfq", "--student-lr", "1e6", *sizes]
    refused(capsys, 1, "the run diverged", *arguments)
    code, printed, _ = run(capsys, "evaluate", tmp_path / "a", "--json")
    assert code == 0
    assert "checkpoint of epoch" in json.loads(printed)["student"]


def test_mean_and_std_in_either_form():
    from akt_lab.commands import parser
    from akt_lab.commands.options import given_bench

    for form in (["--mean", "0.5", "0.4", "0.3"], ["--mean", "0.5,0.4,0.3"]):
        assert given_bench(parser().parse_args(["quantize", *form]))["mean"] == (0.5, 0.4, 0.3)


def test_doctor(capsys):
    code, printed, _ = run(capsys, "doctor", "--json")
    assert code == 0
    found = json.loads(printed)
    assert found["cores"] >= 1
    assert found["precision"].startswith("fp32")
    assert found["compile"].startswith("no")
    assert found["threads"].startswith(str(torch.get_num_threads()))


def test_every_setting_has_an_option_and_every_method_is_named(capsys):
    names = {n.removeprefix("--").replace("-", "_") for n in SETTING_OPTIONS} - {"bits", "preset"}
    fields = set(Settings.__dataclass_fields__)
    assert names == fields - {"momentum", "weight_decay"}
    assert "akt-lab methods" in SETTING_OPTIONS["--method"]["help"]


def test_help_imports_nothing_heavy():
    check = (
        "import sys; from akt_lab.commands import main\n"
        "try: main(['quantize', '--help'])\n"
        "except SystemExit: assert not {'torch', 'pandas', 'matplotlib'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", check], stdout=subprocess.DEVNULL).returncode == 0


@pytest.mark.slow
def test_lab_serves_the_notebooks(tmp_path):
    """A real JupyterLab on notebooks/, asked over HTTP."""
    import urllib.request

    port = 18931
    command = [sys.executable, "-m", "akt_lab.commands", "lab", "--no-browser", "--allow-root"]
    options = [f"--port={port}", "--ServerApp.token=secret", "--ServerApp.port_retries=0"]
    environment = {**os.environ, "JUPYTER_RUNTIME_DIR": str(tmp_path)}
    with subprocess.Popen(
        [*command, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    ) as server:
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
            subprocess.run(
                [sys.executable, "-m", "jupyter", "server", "stop", str(port)],
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            server.terminate()


def test_methods_lists_every_method_with_its_source(capsys):
    assert main(["methods", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["method"] for row in rows] == list(METHODS)
    assert all(row["source"] and row["equation"] for row in rows)
    assert main(["methods"]) == 0
    assert "HAST, CVPR 2023" in capsys.readouterr().out


def test_a_setting_that_is_not_read_is_refused(capsys, tmp_path):
    words = "--alpha is not read by adadfq"
    arguments = ("--method", "adadfq", "--alpha", "0.3", "--out", str(tmp_path / "run"))
    refused(capsys, 2, words, "quantize", *arguments)
    assert not (tmp_path / "run").exists()
