"""A picture of any mode in bytes of red, green and blue; on which scale its numbers are."""

from typing import Any

import numpy as np
from PIL import Image

ORIENTATION = 0x0112  # in EXIF
TRANSPARENT = "transparency is ignored, and the colours below it count"
FRAMES = "of several frames the first counts"
TURNED = "those that EXIF turns are taken as they are stored"
SIXTEEN = "16 bits of grey become 8 (65535 is white)"
FLOATS = "floating point from 0 to 1 becomes 0 to 255"


def in_colour(picture: Image.Image, seen: set[str]) -> Any:
    """The picture in mode RGB, as torchvision's ImageFolder has it; but wide grey is scaled.

    Args:
        picture: as opened, its pixels not yet read.
        seen: to which is added what is to be said of it.

    Raises:
        ValueError: numbers on a scale that cannot be known.
        OSError, and others of Pillow's: pixels that cannot be read.
    """
    if getattr(picture, "is_animated", False):
        seen.add(FRAMES)
    mode = picture.mode
    if mode.startswith("I") or mode == "F":
        return Image.fromarray(_bytes(picture, seen), "L").convert("RGB")
    transparent = "transparency" in picture.info or mode in ("RGBA", "LA", "PA", "RGBa", "La")
    if transparent:
        seen.add(TRANSPARENT)
    if transparent and mode in ("P", "PA"):
        picture = picture.convert("RGBA")  # without, Pillow warns
    pixels = picture.convert("RGB")
    if _is_turned(picture):
        seen.add(TURNED)
    return pixels


def _bytes(picture: Image.Image, seen: set[str]) -> np.ndarray:
    """Grey of more than 8 bits (H, W) in bytes."""
    values, floats = np.asarray(picture), picture.mode == "F"
    if picture.mode.startswith("I;16") or picture.format in ("PNG", "PPM"):
        seen.add(SIXTEEN)
        return ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    if not floats and values.min() >= 0 and values.max() <= 255:
        return values.astype(np.uint8)  # bytes in wider numbers
    if floats and values.min() >= 0 and values.max() <= 1:  # neither holds of NaN
        seen.add(FLOATS)
        return np.rint(values * 255).astype(np.uint8)
    kind, range_ = ("floating point", "0 to 1") if floats else ("32-bit numbers", "0 to 255")
    raise ValueError(
        f"{kind} from {values.min():g} to {values.max():g}, where {range_} was expected: save it "
        "with 8 bits"
    )


def _is_turned(picture: Image.Image) -> bool:
    if "exif" not in picture.info:  # a TIFF is turned when it is read
        return False
    try:
        return picture.getexif().get(ORIENTATION, 1) != 1
    except Exception:  # EXIF is often broken, and nothing hangs on it
        return False
