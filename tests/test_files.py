import os
import subprocess
import sys

import pytest
import torch
from filelock import FileLock

from akt_lab import files
from akt_lab.errors import AktError
from akt_lab.files import LOCK, claim, fingerprint, load_tensors, save_tensors, write_whole


def test_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_whole(path, b"first")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(AktError, match="no space left"):
        write_whole(path, b"second")
    assert path.read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["file"]


def test_tensors_and_state_round_trip(tmp_path):
    tensors = {"a": torch.randn(3, 2), "b": torch.arange(4, dtype=torch.uint8), "c": torch.ones(())}
    save_tensors(tmp_path / "t.safetensors", tensors, {"epoch": 3, "lam": 0.1 + 0.2})
    got, state = load_tensors(tmp_path / "t.safetensors")
    assert state == {"epoch": 3, "lam": 0.1 + 0.2}
    assert all(torch.equal(got[k], v) and got[k].dtype == v.dtype for k, v in tensors.items())
    whole = (tmp_path / "t.safetensors").read_bytes()
    (tmp_path / "t.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(AktError, match="not a whole"):
        load_tensors(tmp_path / "t.safetensors")


WRITE = """
import os, sys, time, pathlib
from akt_lab.files import claim, write_whole

def hang(_):
    print("here", flush=True)
    time.sleep(600)

os.fsync = hang
path = pathlib.Path(sys.argv[1])
with claim(path.parent):
    write_whole(path, b"half")
"""


def test_claim_and_leftover_end_with_their_process(tmp_path, monkeypatch):
    folder, said = tmp_path / "a", []
    folder.mkdir()
    names = {LOCK, ".my.tmp", "my.1.tmp", ".1.tmp.txt"}  # not as `write_whole` names them
    for name in names:
        (folder / name).write_text("")
    command = [sys.executable, "-c", WRITE, folder / "file"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout.readline() == "here\n"
        with pytest.raises(AktError, match=f"another process is writing to {folder}: wait for it"):
            claim(folder, wait=False).__enter__()

        def say(words, file):
            assert {*os.listdir(folder)} - names == {f".file.{writer.pid}.tmp"}  # its writer lives
            said.append(words)
            writer.kill()
            writer.wait()

        monkeypatch.setattr(files, "print", say, raising=False)
        with claim(folder, progress=True), claim(tmp_path, wait=False):  # one folder, one claim
            assert said == [f"waiting for another process that is writing to {folder}"]
            assert {*os.listdir(folder)} == names


def test_a_folder_that_cannot_be_claimed(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(AktError, match="cannot write"), claim(tmp_path / "file"):
        pass


@pytest.mark.parametrize("error", [OSError(38, "Function not implemented"), NotImplementedError()])
def test_where_nothing_can_be_locked_nobody_is_kept_out(tmp_path, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(FileLock, "acquire", fail)
    (tmp_path / ".t.7.tmp").write_text("perhaps another process's")
    with claim(tmp_path, wait=False), claim(tmp_path, wait=False):
        assert (tmp_path / ".t.7.tmp").exists()


def test_a_fingerprint_tells_what_is_told_apart():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 5)
    tensors = {"x": x, "half": x.bfloat16(), "n": torch.tensor(3), "none": torch.empty(0)}
    mark = fingerprint(tensors, ("cat", 1))
    assert len(mark) == 16
    assert int(mark, 16) >= 0
    same = {**tensors, "x": x.contiguous(memory_format=torch.channels_last)}
    assert mark == fingerprint(same, ("cat", 1))
    others = [
        fingerprint(tensors, ("dog", 1)),
        fingerprint({**tensors, "x": -x}, ("cat", 1)),
        fingerprint({**tensors, "x": x.view(3, 2, 4, 5)}, ("cat", 1)),
        fingerprint({**tensors, "x": x.view(torch.int32)}, ("cat", 1)),
        fingerprint({"y" if k == "x" else k: v for k, v in tensors.items()}, ("cat", 1)),
    ]
    assert len({mark, *others}) == 6


def test_memory_that_two_names_share_is_written_for_each(tmp_path):
    """Tied weights, a view of a part, an expanded buffer."""
    whole = torch.arange(6.0).view(2, 3)
    tensors = {"a": whole, "b": whole, "part": whole[1:], "wide": whole[:1].expand(4, 3)}
    save_tensors(tmp_path / "x.safetensors", tensors, {})
    found, _ = load_tensors(tmp_path / "x.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
