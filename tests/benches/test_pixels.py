"""Pictures of every mode, against what they show."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from akt_lab.benches.images import decode_image, read_image_folder
from akt_lab.errors import AktError
from tests.faults import one_line

RAMP = np.linspace(0, 1, 32 * 32).reshape(32, 32)
BYTES = np.rint(RAMP * 255).astype("u1")


def png16(values, kind):
    """A PNG of 16 bits, which Pillow does not write in colour: `kind` 0, 2, 4 or 6 as in PNG."""
    count = {0: 1, 2: 3, 4: 2, 6: 4}[kind]
    pixels = np.repeat(values[..., None], count, 2).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    data = b"\x89PNG\r\n\x1a\n"
    header = struct.pack(">IIBBBBB", *values.shape[::-1], 16, kind, 0, 0, 0)
    for chunk in (b"IHDR" + header, b"IDAT" + zlib.compress(rows), b"IEND"):
        data += struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return data


def saved(picture, form="png", **options):
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def palette():
    picture = Image.fromarray(BYTES).convert("P")
    picture.info["transparency"] = bytes(range(256))
    return picture


def rgba(alpha):
    return Image.merge("RGBA", [*[Image.fromarray(BYTES)] * 3, alpha])


BLACK = [Image.new("L", (32, 32))]
WIDE = np.rint(RAMP * 65535).astype("u2")
MODES = {
    "8-bit grey": (saved(Image.fromarray(BYTES)), None),
    "16-bit grey PNG": (saved(Image.fromarray(WIDE)), "16 bits of grey become 8"),
    "16-bit grey TIFF": (saved(Image.fromarray(WIDE), "tiff"), "16 bits"),
    "16-bit grey PGM": (
        b"P5 32 32 65535\n" + WIDE.astype(">u2").tobytes(), "16 bits of grey become 8"
    ),
    "12-bit grey PGM": (
        b"P5 32 32 4095\n" + np.rint(RAMP * 4095).astype(">u2").tobytes(), "16 bits"
    ),
    "16-bit colour PNG": (png16(WIDE, 2), None),
    "16-bit grey and alpha PNG": (png16(WIDE, 4), "transparency is ignored"),
    "16-bit colour and alpha PNG": (png16(WIDE, 6), "transparency is ignored"),
    "float TIFF": (saved(Image.fromarray(RAMP.astype("f4")), "tiff"), "floating point from 0 to 1"),
    "bytes in 32 bits": (saved(Image.fromarray(BYTES.astype("i4")), "tiff"), None),
    "palette": (saved(Image.fromarray(BYTES).convert("P")), None),
    "palette with transparency": (saved(palette()), "transparency is ignored"),
    "LA": (saved(rgba(Image.new("L", (32, 32), 0)).convert("LA")), "transparency is ignored"),
    "RGBA, invisible": (saved(rgba(Image.new("L", (32, 32), 0))), "transparency is ignored"),
    "CMYK": (saved(Image.fromarray(BYTES).convert("CMYK"), "tiff"), None),
    "YCbCr": (saved(Image.fromarray(BYTES).convert("YCbCr"), "tiff"), None),
    "animated GIF": (
        saved(Image.fromarray(BYTES), "gif", save_all=True, append_images=BLACK),
        "of several frames the first counts",
    ),
    "pages of a TIFF": (
        saved(Image.fromarray(BYTES), "tiff", save_all=True, append_images=BLACK),
        "of several frames the first counts",
    ),
}  # fmt: skip


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", MODES)
def test_what_it_shows(tmp_path, name, channels):
    data, said = MODES[name]
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "0").write_bytes(data)
    notes = []
    images, _, _ = read_image_folder(tmp_path, channels, progress=False, notes=notes)
    for image in (images[0], decode_image(data, channels, 32)):
        difference = image.int() - torch.from_numpy(BYTES).int()
        assert difference.abs().max() <= 1
    assert len(notes) == (said is not None)
    assert all(said in note for note in notes)


def test_one_bit(tmp_path):
    data = saved(Image.fromarray(BYTES).convert("1", dither=Image.Dither.NONE))
    assert decode_image(data, 1, 32).unique().tolist() == [0, 255]


def test_a_folders_image_is_as_stored_and_said(tmp_path):
    """As torchvision's ImageFolder, on which teachers are trained, and unlike what is uploaded."""
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "a").mkdir()
    data = saved(Image.fromarray(BYTES), "jpeg", exif=exif, quality=95)
    (tmp_path / "a" / "0.jpg").write_bytes(data)
    notes = []
    images, _, _ = read_image_folder(tmp_path, 1, progress=False, notes=notes)
    assert (images[0, 0].int() - torch.from_numpy(BYTES).int()).abs().float().mean() < 3
    assert "that EXIF turns are taken as they are stored" in notes[0]


@pytest.mark.parametrize(
    ("values", "form", "words"),
    [
        (RAMP.astype("f4") * 255, "tiff", "floating point from 0 to 255, where 0 to 1"),
        (RAMP.astype("f4") - 0.5, "tiff", "floating point from -0.5"),
        (np.where(RAMP > 0.5, np.nan, RAMP).astype("f4"), "tiff", "floating point from nan"),
        ((RAMP * 1e6).astype("i4"), "tiff", "32-bit numbers from 0 to 1e"),
        ((RAMP * 99 - 50).astype("i4"), "tiff", "32-bit numbers from -50"),
    ],
)
def test_a_scale_that_cannot_be_known(values, form, words):
    with pytest.raises(AktError, match=words):
        decode_image(saved(Image.fromarray(values), form), 1, 32)


# ---- damaged files -------------------------------------------------------------------------------

GOOD = {
    "png": saved(Image.fromarray(BYTES).convert("RGB")),
    "jpeg": saved(Image.fromarray(BYTES).convert("RGB"), "jpeg"),
    "gif": MODES["animated GIF"][0],
    "tiff": saved(Image.fromarray(WIDE), "tiff"),
    "webp": saved(Image.fromarray(BYTES).convert("RGB"), "webp"),
    "bmp": saved(Image.fromarray(BYTES).convert("P"), "bmp"),
}


@settings(max_examples=300, deadline=None)
@given(
    form=st.sampled_from([*GOOD]),
    flips=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), max_size=6),
    length=st.floats(0, 1),
    cut=st.booleans(),
)
@pytest.mark.filterwarnings("ignore")  # Pillow warns of what it can still read
def test_only_akt_errors_from_damaged_files(tmp_path_factory, form, flips, length, cut):
    data = bytearray(GOOD[form])
    for place, change in flips:
        data[int(place * (len(data) - 1))] ^= change
    data = bytes(data[: int(length * len(data))] if cut else data)
    folder = tmp_path_factory.getbasetemp() / "damaged"
    (folder / "a").mkdir(parents=True, exist_ok=True)
    (folder / "a" / "0.png").write_bytes(data)
    with one_line():
        decode_image(data, 3, 16)
    with one_line():
        read_image_folder(folder, 1, 16, progress=False)


@settings(max_examples=100, deadline=None)
@given(
    st.binary(max_size=300),
    st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"II*\0"]),
)
@pytest.mark.filterwarnings("ignore")
def test_only_akt_errors_from_any_bytes(data, start):
    with one_line():
        decode_image(start + data, 3, 16)
