import io
from contextlib import suppress

import numpy as np
import pytest
import torch
from PIL import Image

from akt_lab.benches import images as images_module
from akt_lab.benches import load_bench
from akt_lab.benches.images import FolderImages, decode_image, read_image_folder
from akt_lab.errors import AktError
from akt_lab.runs.training import evaluate
from tests.benches.test_bench import own, write_images


@pytest.fixture
def _never_held(monkeypatch):
    monkeypatch.setattr(images_module, "IN_MEMORY", 0)


@pytest.mark.parametrize("tiny", [0, images_module.TINY])
def test_order_and_values(tmp_path, tiny, monkeypatch):
    """The fast reader, with and without threads, against PIL, one image after the other."""
    monkeypatch.setattr(images_module, "TINY", tiny)
    write_images(tmp_path / "data", count=100)  # more than a thread's share
    images, labels, _ = read_image_folder(tmp_path / "data", 3, progress=False)
    paths = sorted((tmp_path / "data").glob("*/*.png"))
    assert labels.tolist() == [0] * 100 + [1] * 100
    for image, path in zip(images, paths, strict=True):
        assert np.array_equal(image.permute(1, 2, 0).numpy(), np.array(Image.open(path)))


@pytest.mark.usefixtures("_never_held")
@pytest.mark.parametrize("channels", [1, 3])
def test_decoded_when_used(tmp_path, channels):
    folder = write_images(tmp_path / "data", size=(9, 11))
    lazy, _, _ = read_image_folder(folder, channels, 8, progress=False)
    assert isinstance(lazy, FolderImages)
    assert lazy.shape == (6, channels, 8, 8)
    images_module.IN_MEMORY = 10**6
    held, _, _ = read_image_folder(folder, channels, 8, progress=False)
    assert isinstance(held, torch.Tensor)
    for chosen in (slice(2, 5), [5, 0], slice(None), 3):
        assert torch.equal(lazy[chosen], held[chosen])
    for size in (1, 4, 6, 100):
        parts = zip(lazy.split(size), held.split(size), strict=True)
        assert all(torch.equal(a, b) for a, b in parts)


@pytest.mark.usefixtures("_never_held")
def test_a_bench_works_the_same(tmp_path):
    spec = own(tmp_path)
    lazy = load_bench(spec, progress=False)
    images_module.IN_MEMORY = 10**6
    held = load_bench(spec, progress=False)
    assert isinstance(lazy.images, FolderImages)
    assert isinstance(held.images, torch.Tensor)
    assert lazy.num_batches == held.num_batches == 1
    assert evaluate(lazy.teacher, lazy) == evaluate(held.teacher, held)
    pairs = zip(lazy.batches(), held.batches(), strict=True)
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in pairs)


@pytest.mark.usefixtures("_never_held")
def test_an_image_that_breaks_later(tmp_path):
    folder = write_images(tmp_path / "data", count=40)
    lazy, _, _ = read_image_folder(folder, 3, progress=False)
    (folder / "dog" / "39.png").write_bytes(b"no picture")
    assert lazy[:40].shape == (40, 3, 8, 8)
    with pytest.raises(AktError, match=r"39\.png is not an image"):
        list(lazy.split(20))
    Image.new("RGB", (9, 9)).save(folder / "dog" / "39.png")
    with pytest.raises(AktError, match="give --image-size"):
        list(lazy.split(20))


def test_progress(tmp_path, capsys):
    read_image_folder(write_images(tmp_path / "data"), 3)
    assert "reading images: 100%" in capsys.readouterr().err


def test_image_folders(tmp_path):
    with pytest.raises(AktError, match="one folder of images for each class"):
        read_image_folder(tmp_path, 3, progress=False)
    (tmp_path / "empty" / "cat").mkdir(parents=True)
    with pytest.raises(AktError, match="one folder of images for each class"):
        read_image_folder(tmp_path / "empty", 3, progress=False)
    mixed = write_images(tmp_path / "mixed")
    write_images(tmp_path / "mixed" / "more", classes=("x",), size=(9, 9))
    with pytest.raises(AktError, match="give --image-size"):
        read_image_folder(mixed, 3, progress=False)
    images, labels, names = read_image_folder(mixed, 3, image_size=4, progress=False)
    assert images.shape == (9, 3, 4, 4)
    assert names == ("cat", "dog", "more")
    assert labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    grey, _, _ = read_image_folder(mixed, 1, image_size=4, progress=False)
    assert grey.shape == (9, 1, 4, 4)
    (mixed / "cat" / "broken.png").write_bytes(b"no picture")
    with pytest.raises(AktError, match=r"broken\.png is not an image"):
        read_image_folder(mixed, 3, image_size=4, progress=False)


def test_an_image_is_upright():
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6  # a camera held on its side: shown turned by a quarter, clockwise
    side = Image.new("L", (40, 40))
    side.paste(255, (0, 0, 20, 40))  # its left comes to the top
    side.save(file, "jpeg", exif=exif)
    (image,) = decode_image(file.getvalue(), 1, 16).int()
    assert image[:6].min() > 200 > 50 > image[-6:].max()


def test_a_strip_is_no_image():
    for size in ((1, 100_000), (100_000, 1)):
        file = io.BytesIO()
        Image.new("L", size).save(file, "png")
        with pytest.raises(AktError, match="not an image that can be read"):
            decode_image(file.getvalue(), 3, 224)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_broken_image_is_told_in_a_sentence():
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112], exif[0x010F] = 6, "maker"
    Image.effect_noise((40, 30), 90).save(file, "jpeg", exif=exif)
    data = file.getvalue()
    for place in range(data.index(b"Exif"), data.index(b"maker")):
        with suppress(AktError):
            decode_image(data[:place] + b"\0" + data[place + 1 :], 1, 16)
