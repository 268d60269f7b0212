import os
import subprocess
import sys

import pytest
import torch
from filelock import FileLock
from safetensors.torch import save_file

from akt_lab import files
from akt_lab.errors import AktError, DamagedError
from akt_lab.files import LOCK, claim, fill, fingerprint, load_tensors, save_tensors, write_whole


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


def test_every_flipped_bit_and_every_cut_of_a_file_of_tensors_is_noticed(tmp_path):
    path, tensors = tmp_path / "t.safetensors", {"a.b": torch.randn(2), "n": torch.tensor(3)}
    save_tensors(path, tensors, {"epoch": 3, "of": {"name": 0.5}})
    whole = path.read_bytes()
    save_tensors(path, tensors, {"epoch": 3, "of": {"name": 0.5}})
    assert path.read_bytes() == whole  # the same content, the same bytes
    hits = [whole[:size] for size in range(len(whole))]
    for place in range(8 * len(whole)):
        hit = bytearray(whole)
        hit[place // 8] ^= 1 << place % 8
        hits.append(bytes(hit))
    said = []
    for hit in hits:
        path.write_bytes(hit)
        try:
            got, state = load_tensors(path, "do that")
        except DamagedError as error:
            said.append(str(error))
        else:  # a blank in the header for another
            assert state == {"epoch": 3, "of": {"name": 0.5}}
            assert got.keys() == tensors.keys()
            assert all(torch.equal(got[name], value) for name, value in tensors.items())
    assert len(said) > 0.99 * len(hits)
    for line in said:
        assert line.startswith(f"{path} is damaged (")
        assert line.endswith("): do that")
        assert "\n" not in line


def test_files_of_others_and_of_older_versions_have_no_digest(tmp_path):
    path, tensors = tmp_path / "t.safetensors", {"a": torch.randn(2)}
    for metadata, state in (
        (None, {}),
        ({"format": "pt", "by": "someone"}, {}),
        ({"state": '{"epoch": 3}'}, {"epoch": 3}),
    ):
        save_file(tensors, path, metadata)
        got, found = load_tensors(path)
        assert torch.equal(got["a"], tensors["a"])
        assert found == state
    for state in ("[1]", "{", "[" * 100_000):
        save_file(tensors, path, {"state": state})
        with pytest.raises(DamagedError, match=r"t.safetensors is damaged"):
            load_tensors(path)
    path.unlink()
    for other, words in ((path, "no file"), (tmp_path, "is not a file")):
        with pytest.raises(AktError, match=words):
            load_tensors(other)


def test_tied_weights_are_written_for_each_of_their_names(tmp_path):
    weight = torch.randn(4, 3)
    tied = {"a": weight, "b": weight, "part": weight[1:], "all": weight.view(-1)}
    save_tensors(tmp_path / "t.safetensors", tied, {})
    got, _ = load_tensors(tmp_path / "t.safetensors")
    assert all(torch.equal(got[name], tensor) for name, tensor in tied.items())


def test_the_generation_before_is_kept_and_one_is_always_whole(tmp_path, monkeypatch):
    path, previous = tmp_path / "t", tmp_path / "t.previous"
    write_whole(path, b"first", previous)
    assert not previous.exists()
    write_whole(path, b"second", previous)
    assert (path.read_bytes(), previous.read_bytes()) == (b"second", b"first")
    replace, there = os.replace, []

    def seen(*names):
        there.append({p.read_bytes() for p in (path, previous) if p.exists()})
        replace(*names)

    monkeypatch.setattr(os, "replace", seen)
    write_whole(path, b"third", previous)
    assert there == [{b"second", b"first"}, {b"second"}]
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(AktError, match="no space left"):
        write_whole(path, b"fourth", previous)
    assert (path.read_bytes(), previous.read_bytes()) == (b"third", b"second")


def test_what_does_not_fit_a_network_is_one_line(tmp_path):
    network = torch.nn.Linear(2, 3)
    for tensors in ({}, {**network.state_dict(), "c": torch.ones(1)}, {"weight": torch.ones(1)}):
        with pytest.raises(DamagedError, match=r"^[^\n]*path is damaged \(it does not fit: .*: do"):
            fill(network, tensors, tmp_path / "path", "do that")


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
