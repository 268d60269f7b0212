"""Which files count as images, each once, in the order of torchvision's ImageFolder."""

import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.datasets import ImageFolder

from akt_lab.benches import folders
from akt_lab.benches.bench import load_bench
from akt_lab.benches.digits import DigitsNet
from akt_lab.benches.folders import list_images
from akt_lab.errors import AktError
from tests.benches.test_bench import own, write_images


def put(folder, *names):
    """Images of these names; the ending does not have to be of their format."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(folder / name, "png")
    return folder


def names_of(folder):
    listed = list_images(folder)
    return [os.path.relpath(path, folder) for path in listed.paths], listed.notes


def test_as_torchvisions_image_folder(tmp_path):
    names = ["b/1.png", "b/sub/0.png", "b/sub-2/0.png", "b/sub/deep/3.JPG", "b/x.png/0.png"]
    put(
        tmp_path,
        *names,
        "b/10.png",
        "b/2.png",
        "A/x.webp",
        "a/y.tiff",
        "Z/0.jpeg",
        "é/0.bmp",
        "a b/0.ppm",
    )
    theirs, ours = ImageFolder(str(tmp_path)), list_images(tmp_path)
    assert ours.paths == [path for path, _ in theirs.samples]
    assert ours.labels == theirs.targets
    assert list(ours.classes) == theirs.classes
    assert ours.notes == []


def test_every_ending_that_pillow_reads(tmp_path):
    images = ["0.jfif", "1.avif", "2.gif", "3.PNG", "4.Jpe", "5.jp2", "6", "7.image", "8.tga"]
    put(tmp_path / "cat", *images)
    (tmp_path / "cat" / "a.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (tmp_path / "cat" / "b.heic").write_bytes(b"\0\0\0\x18ftypheic")
    for name in ("note.txt", "Thumbs.db", "README", ".DS_Store", "x.h5", "x.eps"):
        (tmp_path / "cat" / name).write_bytes(b"%!PS-Adobe-3.0 EPSF\n\x89HDF")
    (tmp_path / "index.csv").write_text("")
    put(tmp_path, ".cache/0.png", "__MACOSX/._0.png")
    found, (note,) = names_of(tmp_path)
    assert found == [f"cat/{name}" for name in images]
    for words in ("2 .heic", "1 .txt", "1 .db", "1 hidden", "3 beside the class folders"):
        assert words in note


def test_each_file_once(tmp_path):
    put(tmp_path, "cat/0.png", "cat/1.png", "dog/0.png", "elsewhere/ape/0.png")
    data = tmp_path / "data"
    data.mkdir()
    for name in ("cat", "dog"):
        (tmp_path / name).rename(data / name)
    (data / "cat" / "up").symlink_to("..")
    (data / "cat" / "dogs").symlink_to("../dog")
    (data / "cat" / "self").symlink_to(".")
    (data / "cat" / "a.png").symlink_to("0.png")
    (data / "cat" / "gone.png").symlink_to("nowhere.png")
    (data / "dog" / "0.PNG").symlink_to("../cat/1.png")
    (data / "dog" / "ape.png").symlink_to("../../elsewhere/ape/0.png")
    (data / "ape").symlink_to("../elsewhere/ape")
    found, (note,) = names_of(data)
    assert found == ["ape/0.png", "cat/0.png", "cat/1.png", "dog/0.png"]
    for words in ("3 links to folders", "3 links to images", "1 broken links"):
        assert words in note


def test_links_to_a_store_are_images(tmp_path):
    put(tmp_path, "store/0.png", "store/1.png")
    for name, target in (("cat", "0.png"), ("dog", "1.png")):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "x.png").symlink_to(tmp_path / "store" / target)
    assert names_of(tmp_path / "data") == (["cat/x.png", "dog/x.png"], [])


def test_hard_links_are_files_of_their_own(tmp_path):
    put(tmp_path, "cat/0.png").joinpath("dog").mkdir()
    os.link(tmp_path / "cat" / "0.png", tmp_path / "dog" / "0.png")
    assert names_of(tmp_path) == (["cat/0.png", "dog/0.png"], [])


def test_numbers_are_in_their_order(tmp_path):
    put(tmp_path, *(f"{n}/0.png" for n in range(12)))
    listed = list_images(tmp_path)
    assert listed.classes == tuple(map(str, range(12)))
    assert [os.path.basename(os.path.dirname(path)) for path in listed.paths] == [*listed.classes]
    (note,) = listed.notes
    assert "in the order of numbers (0, 1, 2, 3, …), not of text (0, 1, 10, 11, …)" in note
    assert "put a letter before each name" in note
    for n in range(12):
        (tmp_path / str(n)).rename(tmp_path / f"{n:02}")
    assert list_images(tmp_path).notes == []
    for n in range(12):
        (tmp_path / f"{n:02}").rename(tmp_path / f"c{n}")  # the way back that the note names
    listed = list_images(tmp_path)
    assert listed.classes[:4] == ("c0", "c1", "c10", "c11")
    assert "in the order of text (c0, c1, c10, c11, …)" in listed.notes[0]
    assert "not of numbers (c0, c1, c2, c3, …)" in listed.notes[0]


def test_an_older_run_notices_the_new_order(tmp_path, monkeypatch):
    """What it recorded was made with classes in the order of text."""
    data = write_images(tmp_path / "twelve", classes=[str(n) for n in range(12)], count=1)
    spec = own(tmp_path, data=str(data), teacher="tests.benches.test_folders:teacher_of_12")
    torch.save(teacher_of_12().state_dict(), tmp_path / "w.pth")
    spec = replace(spec, weights=str(tmp_path / "w.pth"))
    now = load_bench(spec, progress=False)
    monkeypatch.setattr(folders, "_ordered", lambda folder, names: (names, []))
    then = load_bench(spec, progress=False)
    assert now.differs_from(then.fingerprints) == "the evaluation images"


def teacher_of_12():
    return DigitsNet(4, 3, 12)


def test_what_was_left_out_is_said(tmp_path, capsys):
    spec = own(tmp_path)
    (tmp_path / "data" / "cat" / "note.txt").write_text("")
    bench = load_bench(spec)
    assert bench.notes == (f"--data {tmp_path / 'data'}; left out: 1 .txt",)
    assert capsys.readouterr().err.count("left out: 1 .txt") == 1


def test_a_folder_that_may_not_be_read(tmp_path, monkeypatch):
    put(tmp_path, "cat/0.png", "dog/sub/0.png")
    real = os.scandir

    def refuse(path):
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(AktError, match=r"dog/sub cannot be read: Permission denied"):
        list_images(tmp_path)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=20), min_size=1, max_size=5))
def test_any_names(tmp_path_factory, names):
    """Of files and folders: those that are not UTF-8, too."""
    folder = os.fsencode(tmp_path_factory.mktemp("data"))
    image = put(Path(os.fsdecode(folder)), "class/z.png").joinpath("class", "z.png").read_bytes()
    for name in names:
        with suppress(OSError, ValueError):
            os.makedirs(os.path.join(folder, b"class", name.replace(b"/", b"")))
        with suppress(OSError, ValueError):
            Path(os.fsdecode(os.path.join(folder, b"class", name + b".x"))).write_bytes(image)
    listed = list_images(Path(os.fsdecode(folder)))
    assert listed.classes == ("class",)
