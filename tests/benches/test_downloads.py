"""Downloads against a real server on this machine; no other is ever asked."""

import hashlib
import io
import random
import socket
import subprocess
import sys
import time
import zipfile

import pytest

from akt_lab.benches import downloads
from akt_lab.benches.downloads import Source, fetch
from akt_lab.errors import AktError
from akt_lab.files import LOCK
from tests.benches.serving import Behaviour, serving

BODY = random.Random(0).randbytes(300_000)
MD5 = "md5:" + hashlib.md5(BODY).hexdigest()


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """No proxy, and little patience."""
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(downloads, "STALL", 0.4)
    monkeypatch.setattr(downloads, "WINDOW", 0.2)


def source(*urls, **changes):
    return Source(**{"urls": urls, "checksum": MD5, "size": len(BODY), **changes})


def held(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != LOCK}


def fails(wanted, path, *words):
    with pytest.raises(AktError) as caught:
        fetch(wanted, path, progress=False)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    return message


def test_whole_and_with_progress(tmp_path, capsys):
    with serving(a=Behaviour(BODY)) as at:
        assert fetch(source(f"{at}/a"), tmp_path / "f.bin") == tmp_path / "f.bin"
        shown = capsys.readouterr().err
        assert "f.bin from 127.0.0.1" in shown
        assert "300k/300k" in shown
        assert "100%" in shown
        fetch(source(f"{at}/a"), tmp_path / "f.bin")
        fetch(source(f"{at}/a"), tmp_path / "quiet.bin", progress=False)
    assert capsys.readouterr().err == ""
    assert held(tmp_path) == {"f.bin": BODY, "quiet.bin": BODY}


def test_what_is_there_is_not_asked_for(tmp_path):
    (tmp_path / "f.bin").write_bytes(BODY)
    fetch(source("http://127.0.0.1:9/never"), tmp_path / "f.bin", progress=False)
    (tmp_path / "f.bin").write_bytes(b"another file, put there by hand")
    fails(source("http://127.0.0.1:9/never"), tmp_path / "f.bin", "is not the file it should be")
    assert held(tmp_path) == {"f.bin": b"another file, put there by hand"}


def test_a_broken_download_goes_on_where_it_ended(tmp_path):
    cut = Behaviour(BODY, cut=100_000)
    with serving(a=cut) as at:
        words = ["broke off after 100,000 of 300,000 bytes", "try again", "--data DIR"]
        fails(source(f"{at}/a"), tmp_path / "f", *words, f"{at}/a", str(tmp_path / "f"))
        assert held(tmp_path) == {"f.part": BODY[:100_000]}
        cut.cut, before = None, len(cut.asked)
        fetch(source(f"{at}/a"), tmp_path / "f", progress=False)
    assert cut.asked[before:] == ["bytes=100000-"]
    assert cut.sent[before:] == [200_000]  # the missing bytes and no others
    assert held(tmp_path) == {"f": BODY}


def test_within_one_call_too(tmp_path):
    flaky = Behaviour(BODY, each=100_000)
    with serving(a=flaky) as at:
        fetch(source(f"{at}/a"), tmp_path / "f", progress=False)
    assert flaky.asked == [None, "bytes=100000-", "bytes=200000-"]
    assert held(tmp_path) == {"f": BODY}


def test_a_server_that_ignores_ranges(tmp_path):
    plain = Behaviour(BODY, ranges=False)
    (tmp_path / "f.part").write_bytes(BODY[:100_000])
    with serving(a=plain) as at:
        fetch(source(f"{at}/a"), tmp_path / "f", progress=False)
    assert plain.asked == ["bytes=100000-"]
    assert plain.sent == [300_000]
    assert held(tmp_path) == {"f": BODY}


def test_a_part_of_another_file_is_begun_anew(tmp_path):
    (tmp_path / "f.part").write_bytes(b"x" * 1000)
    with serving(a=Behaviour(BODY)) as at:
        fetch(source(f"{at}/a"), tmp_path / "f", progress=False)
        (tmp_path / "g.part").write_bytes(b"x" * 400_000)  # longer than the file
        fetch(source(f"{at}/a"), tmp_path / "g", progress=False)
        (tmp_path / "h.part").write_bytes(BODY)  # whole: stopped before it got its name
        fetch(source("http://127.0.0.1:9/never"), tmp_path / "h", progress=False)
    assert held(tmp_path) == {"f": BODY, "g": BODY, "h": BODY}


@pytest.mark.parametrize(
    "first",
    [
        None,
        Behaviour(BODY, status=404),
        Behaviour(BODY, status=503),
        Behaviour(bytes(300_000)),  # another file of the same size
        Behaviour(b"<html>log in to this network</html>"),
        Behaviour(BODY, cut=100_000),
        Behaviour(BODY, pause=5, hang=100_000),  # then not a byte
        Behaviour(BODY, pause=0.01),  # 100 kB/s
    ],
    ids=["unreachable", "missing", "busy", "wrong", "portal", "broken", "hanging", "slow"],
)
def test_the_second_source(tmp_path, first):
    second, began = Behaviour(BODY), time.monotonic()
    with serving(a=first, b=second) as at:
        urls = (f"{at}/a" if first else "http://127.0.0.1:9/a"), f"{at}/b"
        fetch(source(*urls), tmp_path / "f", progress=False)
    assert held(tmp_path) == {"f": BODY}
    assert len(second.asked) == 1
    assert first is None or len(first.asked) == 1
    got = first.sent[0] if first and not first.status and first.body == BODY else 0
    assert sum(second.sent) >= len(BODY) - got  # what came from the first is not asked for again
    assert (second.asked[0] is None) == (got == 0)
    assert time.monotonic() - began < 3


def test_slow_is_better_than_nothing(tmp_path):
    slow = Behaviour(BODY, pause=0.007)
    with serving(a=slow) as at:
        fetch(source(f"{at}/a", "http://127.0.0.1:9/b"), tmp_path / "f", progress=False)
    assert len(slow.asked) == 2  # left for the other, and asked again when that failed
    assert slow.asked[1] is not None
    assert held(tmp_path) == {"f": BODY}


def test_wrong_everywhere(tmp_path):
    wrong = Behaviour(bytes(300_000))
    with serving(a=wrong) as at:
        fails(source(f"{at}/a", size=None), tmp_path / "f", "has a wrong checksum")
        assert len(wrong.asked) == 1
        (tmp_path / "f.part").write_bytes(BODY[:1000])
        fails(source(f"{at}/a"), tmp_path / "f", "has a wrong checksum")
    assert wrong.asked[1:] == ["bytes=1000-", None]  # the beginning might have been what was wrong
    assert held(tmp_path) == {}


def test_offline(tmp_path, monkeypatch):
    def no_such_name(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    wanted = source("https://one.org/f.tar.gz", "https://two.org/f", instead="--weights FILE")
    monkeypatch.setattr(socket, "getaddrinfo", no_such_name)
    words = [f"{name}.org: not reachable, Name or service not known" for name in ("one", "two")]
    by_hand = f"get https://one.org/f.tar.gz elsewhere and put it at {tmp_path / 'f'}"
    message = fails(wanted, tmp_path / "f", *words, by_hand, "or give --weights FILE")
    assert "try again" not in message  # nothing came
    monkeypatch.undo()
    fails(source("http://127.0.0.1:9/a"), tmp_path / "f", "not reachable, Connection refused")
    assert held(tmp_path) == {}


def test_a_zip_is_judged_by_its_member(tmp_path):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w.pth", BODY)
    data = packed.getvalue()
    zipped = {"checksum": MD5[:12], "size": None, "member": "w.pth"}
    with serving(a=Behaviour(b"no zip"), b=Behaviour(data)) as at:
        fetch(source(f"{at}/a", f"{at}/b", **zipped), tmp_path / "w.zip", progress=False)
        other = {**zipped, "member": "other.pth"}
        fails(source(f"{at}/b", **other), tmp_path / "v.zip", "has a wrong checksum")
    assert held(tmp_path) == {"w.zip": data}


def test_a_full_disk(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(downloads.os, "fsync", full)
    with serving(a=Behaviour(BODY)) as at:
        fails(source(f"{at}/a"), tmp_path / "f", "cannot write", "No space left on device")
    assert list(held(tmp_path)) == ["f.part"]


def test_two_processes_download_once(tmp_path):
    slow = Behaviour(BODY, pause=0.005)
    with serving(a=slow) as at:
        command = (
            "from pathlib import Path; from akt_lab.benches.downloads import Source, fetch\n"
            f"fetch(Source(('{at}/a',), '{MD5}'), Path({str(tmp_path / 'f')!r}))"
        )
        both = [
            subprocess.Popen([sys.executable, "-c", command], stderr=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        shown = [process.communicate(timeout=60)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], shown
    assert slow.sent == [len(BODY)]
    assert held(tmp_path) == {"f": BODY}
