"""What cannot be right: one line that says why and what to do, with exit code 1 or 2, at once.

Command lines, images, weights and networks, each by `akt-lab` as a user calls it.
"""

import io
import json
import os
import re
import shlex
import shutil
import socket
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from akt_lab.commands import main
from tests.faults import brought

BARE = "evaluate --teacher tests.faults.brought:tiny --weights w.pth --data data"
MEAN, STD = "--mean .5 .5 .5", "--std .25 .25 .25"
OWN = f"{BARE.removeprefix('evaluate ')} {MEAN} {STD}"
TRAIN = f"quantize {OWN} --epochs 2 --steps 1 --batch-size 2 --out out"
PROGRESS = re.compile(
    r"^\s*$|%\||\d(image|batch|step)/s|\?(image|batch|step)/s|\d(image|batch|step) \["
)
NAN = float("nan")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with images of two classes, weights, and a file; the tests add to it."""
    folder = tmp_path_factory.mktemp("place")
    rng = np.random.default_rng(0)
    for name, brightness in (("cat", 60), ("dog", 190)):
        (folder / "data" / name).mkdir(parents=True)
        for i in range(2):
            pixels = rng.integers(0, 50, (8, 8, 3)) + brightness
            Image.fromarray(pixels.astype("u1")).save(folder / "data" / name / f"{i}.png")
    torch.save(brought.tiny().state_dict(), folder / "w.pth")
    (folder / "file").write_text("not a folder")
    return folder


@pytest.fixture
def refused(place, monkeypatch, capsys):
    """Checks that a command is refused in one line with these words, and leaves no run."""
    monkeypatch.chdir(place)

    def check(code, words, command):
        arguments = shlex.split(command) if isinstance(command, str) else command
        try:
            got = main(arguments)
        except SystemExit as stop:  # argparse's
            got = stop.code
        out, error = capsys.readouterr()
        lines = [line for line in re.split("[\r\n]", error) if not PROGRESS.search(line)]
        assert len(lines) == 1, error
        assert lines[0].startswith("akt-lab")
        assert words in lines[0]
        assert got == code
        assert not out
        assert not (place / "runs").exists()
        assert not (place / "out").exists()

    return check


# ---- command lines -------------------------------------------------------------------------------

LONG = "n" * 300
COMMANDS = [
    (2, "unrecognized arguments: --bitz", "quantize --bitz 3"),
    (2, "invalid choice: 'quantise'", "quantise"),
    (2, "arguments are required", ""),
    (2, "whole number value: 'three'", "quantize --bits three"),
    (2, "whole number value: '1e3'", "quantize --epochs 1e3"),
    (2, "whole number value: '0x10'", "quantize --epochs 0x10"),
    (2, "whole number value: '2.5'", "quantize --steps 2.5"),
    (2, "whole number value", f"quantize --seed {'9' * 5000}"),
    (2, "2 to 8, not 9", "quantize --bits 9"),
    (2, "2 to 8, not -3", "quantize --bits -3"),
    (2, "seed must be at most 9223372036854775807", "quantize --seed 99999999999999999999"),
    (2, "seed must be of 64 bits", "quantize --seed -99999999999999999999"),
    (2, "seed must be at most", "sweep --out s --seeds 0 99999999999999999999"),
    (2, "batch_size must be at most 1000000", "quantize --batch-size 1000000000000"),
    (2, "batch_size must be at least 1", "quantize --batch-size -4"),
    (2, "pool must be at most 1000000", "quantize --method hast --pool 1000000000000"),
    (2, "epochs must be at most 1000000", "quantize --epochs 1000000001"),
    (2, "steps must be at least 1", "quantize --steps 0"),
    (2, "eval_every must be at least 1", "quantize --eval-every 0"),
    (2, "temperature must be at most 1000", "quantize --temperature 1e300"),
    (2, "temperature must be at least 0.01", "quantize --temperature nan"),
    (2, "temperature must be at least 0.01", "quantize --temperature 0"),
    (2, "temperature must be at least 0.01", "quantize --temperature -20"),
    (2, "student_lr must be positive", "quantize --student-lr nan"),
    (2, "student_lr must be positive", "quantize --student-lr inf"),
    (2, "student_lr must be at most 1000000", "quantize --student-lr 1e300"),
    (2, "generator_lr must be positive", "quantize --generator-lr=-1e-3"),
    (2, "momentum must be at least 0, and less than 1", "quantize --momentum -1"),
    (2, "weight_decay must be 0 or more", "quantize --weight-decay nan"),
    (2, "alpha must be between 0 and 1", "quantize --alpha 1.5"),
    (2, "lam must be 0 or more", "quantize --lam -1"),
    (2, "milestones must be at least 1, not -5", "quantize --milestones -5 100"),
    (2, "milestones must be at most", f"quantize --milestones {10**30}"),
    (2, "--milestones is not read by adadfq: it ends after 8 epochs",
     "quantize --method adadfq --epochs 8 --milestones 300"),
    (2, "warmup_epochs (8) leaves nothing", "quantize --epochs 8 --warmup-epochs 8"),
    (2, "unknown method ''", "quantize --method ''"),
    (2, "unknown ranges", "quantize --ranges 'a\nb'"),
    (2, "unknown preset", "quantize --preset fast"),
    (2, "did you mean 'fp32'", "quantize --precision fp23"),
    (2, "--threads must be at most 1024, not 100000", "quantize --threads 100000"),
    (2, "--threads must be at least 1", "evaluate --threads -1"),
    (2, "--threads must be at most 1024", "sweep --out s --threads 100000"),
    (2, "--device: must name something", "quantize --device ''"),
    (2, "--device takes cpu or cuda, not 'gpu'", "evaluate --device gpu"),
    (2, "--bench: must name something", "quantize --bench ''"),
    (2, "unknown bench", "quantize --bench \udcff"),
    (2, "--teacher: must name something", "quantize --teacher ''"),
    (2, "--teacher: must name something, not '--'", "quantize --teacher=--"),
    (2, "--weights: must name something", "quantize --bench cifar10 --weights ''"),
    (2, "--data: must name something", "quantize --bench cifar10 --data ''"),
    (2, "--data: must name something", "evaluate --bench cifar10 --data 'a\0b'"),
    (2, "at most 255 bytes", f"quantize --bench cifar10 --data {LONG}"),
    (2, "at most 255 bytes", f"quantize --bench cifar10 --weights x/{LONG}.pth"),
    (2, "--out: must name something", "quantize --out ''"),
    (2, "--out: must name something", "quantize --out 'a\0b'"),
    (2, "at most 255 bytes", f"quantize --out {LONG}"),
    (1, ". already exists", "quantize --out ."),
    (1, "/ already exists", "quantize --out /"),
    (1, "file already exists", "quantize --out file"),
    (1, "is not a run folder", "quantize --resume --out file"),
    (1, "file is a file, not a folder", f"{TRAIN} --out file/run"),
    (2, "--scheduler: must name something", "sweep --out s --scheduler ''"),
    (2, "--scheduler: must name something", "sweep --out s --scheduler 'a\0b'"),
    (2, "whole number value: 'many'", "sweep --out s --workers many"),
    (2, "arguments are required: --out", "sweep"),
    (1, "is not a run folder", "evaluate nowhere"),
    (1, "is not a run folder", "evaluate file"),
    (2, "at most 255 bytes", f"evaluate {LONG}"),
    (2, "unknown figure 'UNKNOWN'", "figures UNKNOWN"),
    (2, "unknown figure", "figures accuracy_by_bits 'a\nb'"),
    (1, "no runs under nowhere", "figures method --runs nowhere --out file-not-there"),
    (1, "--out file: it is a file, not a folder", "figures method --out file"),
    (1, "--out file/x: Not a directory", "figures method --out file/x"),
    (1, "file/x: Not a directory", "demo --figures file/x"),
    (1, "nowhere", "table --results nowhere"),
    (1, "no results/*.jsonl here", "table"),
    (1, "--plot file: it is a file, not a folder", "table --results nowhere --plot file"),
    (1, "--plot file/x: Not a directory", "table --results nowhere --plot file/x"),
    (2, "at most 255 bytes", f"table --results {LONG}"),
    (2, "invalid choice: 'html'", "table --format html"),
    (2, "--image-size: invalid whole number of at least 1", f"evaluate {OWN} --image-size 0"),
    (2, "--image-size must be from 1 to 4096 pixels", f"evaluate {OWN} --image-size 1000000"),
    (2, "has its own images, of 32 x 32: drop --image-size",
     "evaluate --bench cifar10 --image-size 64"),
    (2, "drop --image-size", "evaluate --bench digits --image-size 64"),
    (2, "drop --mean", "evaluate --mean 0.5 --std 0.5"),
    (2, "invalid number value: 'a'", "evaluate --mean a"),
    (1, "a step is too little: --batch-size 2", f"{TRAIN} --image-size 4 --batch-size 1"),
    (1, "not enough memory: images of 1024 x 1024, 1000000 a step",
     f"{TRAIN} --image-size 1024 --batch-size 1000000"),
    (2, "divides by 4, not 6", f"{TRAIN} --image-size 6"),
    (2, "did you mean 123.675/255 = 0.485", f"{BARE} {STD} --mean 123.675 116.28 103.53"),
    *((2, "--mean is of pixels on the scale 0 to 1", f"{BARE} {STD} --mean {x} .5 .5")
      for x in ("125", "77", "-0.1", "nan", "inf", "1e300", "1.01")),
    (2, "did you mean 58.395/255 = 0.229", f"{BARE} {MEAN} --std 58.395 57.12 57.375"),
    *((2, "--std is of pixels on the scale 0 to 1", f"{BARE} {MEAN} --std .2 {x} .2")
      for x in ("58", "0", "-0.2", "1e-9", "nan", "inf", "1.5")),
    (2, "one number each (grey) or three each", f"{BARE} --mean .5 .5 --std .5 .5"),
    (2, "one number each (grey) or three each", f"{BARE} {STD} --mean .5"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("code", "words", "command"), COMMANDS, ids=[repr(c[2])[:70] for c in COMMANDS]
)
def test_command_lines(refused, code, words, command):
    refused(code, words, command)


# ---- images --------------------------------------------------------------------------------------


def huge_png(width, height):
    """A PNG of that size, but for its pixels."""
    data = b"\x89PNG\r\n\x1a\n"
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    for chunk in (b"IHDR" + header, b"IDAT" + zlib.compress(bytes(1000)), b"IEND"):
        data += struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return data


def image(**options):
    """Bytes of a small image."""
    file = io.BytesIO()
    options.setdefault("image", Image.new("RGB", (8, 8), (200, 100, 50))).save(
        file, options.get("format", "png")
    )
    return file.getvalue()


def floats(low, high):
    values = np.linspace(low, high, 64, dtype="f4").reshape(8, 8)
    return image(image=Image.fromarray(values), format="tiff")


WIDE = image(image=Image.fromarray(np.full((8, 8), 70000, "i4")), format="tiff")
IMAGES = {  # name -> what lies there, and the words
    "dog/2.png": [
        (b"", "dog/2.png is not an image that can be read (it is empty)"),
        (b"version https://git-lfs.github.com/spec/v1", "`git lfs pull` brings it"),
        (b"<html>404", "it is a web page"),
        (b"no picture", "2.png is not an image that can be read (of no format that Pillow knows)"),
        (image()[:50], "dog/2.png is not an image that can be read"),
        (image(format="jpeg")[:-300], "dog/2.png is not an image that can be read"),
        (huge_png(13_000, 13_000), "13000 x 13000 pixels are too many"),
        (huge_png(60_000, 60_000), "exceeds limit"),
        (image(image=Image.new("L", (9, 8))), "dog/2.png is 9 x 8: images must be square"),
        (image(image=Image.new("L", (9, 9))), "as large as the first; give --image-size"),
        (image(image=Image.new("L", (1, 20_000))), "dog/2.png is 1 x 20000"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", "of no format that Pillow knows"),
    ],
    "dog/2.tif": [
        (
            floats(0, 255),
            "dog/2.tif is not an image that can be read (floating point from 0 to 255",
        ),
        (floats(-1, 1), "floating point from -1 to 1, where 0 to 1 was expected"),
        (floats(0, NAN), "floating point from nan"),
        (WIDE, "32-bit numbers from 70000 to 70000"),
    ],
    "dog/2.avif": [(b"", "dog/2.avif is not an image")],
    "dog/2.JFIF": [(b"", "dog/2.JFIF is not an image")],
    "bird/note.txt": [(b"no bird", "no image is in bird; left out: 1 .txt")],
    "bird/.1.png": [(image(), "no image is in bird; left out: 1 hidden")],
    "bird/1.heic": [(b"\0\0\0\x18ftypheic", "no image is in bird; left out: 1 .heic")],
    "bird/1.png": [(image(), "knows 2 classes, --data holds 3 folders (bird, cat, dog)")],
}


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [(name, *case) for name, cases in IMAGES.items() for case in cases],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_images(refused, tmp_path, place, name, data, words):
    folder = copied(place / "data", tmp_path / "data")
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(data)
    refused(1, words, f"evaluate {OWN.replace('--data data', f'--data {folder}')}")


def copied(data, folder):
    for file in data.glob("*/*.png"):
        (folder / file.parent.name).mkdir(parents=True, exist_ok=True)
        os.link(file, folder / file.parent.name / file.name)
    return folder


def test_strips(refused, tmp_path, place):
    folder = copied(place / "data", tmp_path / "data")
    (folder / "cat" / "x.png").write_bytes(image(image=Image.new("L", (1, 60_000))))
    own = OWN.replace("--data data", f"--data {folder} --image-size 8")
    refused(1, "1 x 60000 pixels are a strip", f"evaluate {own}")


FOLDERS = [
    ("data/cat", "it holds 2 images itself: name its parent"),
    ("data/cat/0.png", "is not a folder"),
    ("nowhere", "no such folder"),
    ("data.zip", "is an archive: unpack it"),
    ("data.tar.gz", "is an archive: unpack it"),
    ("nothing", "expected one folder of images for each class"),
    ("parent", "name one of them, such as"),
    ("empty", "no image is in cat"),
    ("/", "no image is in "),
    ("twice", "folders 01 and 1 are the same number"),
    ("links", "no image is in dog; left out: 2 links to images that are read anyway"),
    ("pipes", "no image is in cat; left out: 2 pipes, sockets or devices"),
    ("one", "knows 2 classes, --data holds 1 folders (cat)"),
]


@pytest.mark.parametrize(("name", "words"), FOLDERS, ids=[name for name, _ in FOLDERS])
def test_folders(refused, tmp_path, place, name, words):
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as packed:
        packed.write(place / "file", "data/cat/1.png")
    with tarfile.open(tmp_path / "data.tar.gz", "w:gz") as packed:
        packed.add(place / "file", "data/cat/1.png")
    for made in ("nothing", "empty/cat", "empty/dog", "twice/1", "twice/01", "pipes/cat"):
        (tmp_path / made).mkdir(parents=True)
    copied(place / "data", tmp_path / "data")
    copied(place / "data", tmp_path / "parent" / "train")
    copied(place / "data", tmp_path / "parent" / "val")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "cat").symlink_to(tmp_path / "data" / "cat")
    (tmp_path / "links" / "dog").symlink_to(tmp_path / "data" / "cat")
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "cat").symlink_to(tmp_path / "data" / "cat")
    os.mkfifo(tmp_path / "pipes" / "cat" / "1.png")
    with socket.socket(socket.AF_UNIX) as listening:
        os.chdir(tmp_path / "pipes" / "cat")  # such a path has to be short
        listening.bind("2.png")
        os.chdir(place)
    refused(1, words, f"evaluate {OWN.replace('--data data', f'--data {tmp_path / name}')}")


# ---- weights -------------------------------------------------------------------------------------


def pth(found):
    file = io.BytesIO()
    torch.save(found, file)
    return file.getvalue()


def state(**changes):
    """The state dict of `tiny`, changed."""
    tensors = {**brought.tiny().state_dict(), **changes}
    return {name: t for name, t in tensors.items() if t is not None}


def zipped(**files):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        for name, data in files.items():
            packed.writestr(name.replace("_dot_", "."), data)
    return file.getvalue()


def scripted():
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(brought.tiny().eval(), torch.zeros(1, 3, 8, 8)), file)
    return file.getvalue()


def safe(tensors):
    from safetensors.torch import save

    return save(tensors)


SOME_NAN = torch.tensor([0.0, NAN])
WEIGHTS = {
    "empty": (b"", "it is empty"),
    "text": (b"hello", "not a file of weights (neither .safetensors, nor by torch.save"),
    "a Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\n", "`git lfs pull`"),
    "a web page": (b"<!DOCTYPE html><html>404", "it is a web page"),
    "HDF5": (b"\x89HDF\r\n\x1a\n", "as Keras writes them"),
    "compressed": (b"\x1f\x8b\x08\0", "it is compressed: unpack it"),
    "ONNX": (b"\x08\x08\x12\x07pytorch\x1a\x052.1", "it is an ONNX program"),
    "NumPy": (b"\x93NUMPY\x01\0", "it is a NumPy array"),
    "npz": (zipped(weight_dot_npy=b"\x93NUMPY"), "an archive of NumPy arrays"),
    "a .zip of weights": (zipped(w_dot_pth=pth(state())), "it is a .zip of w.pth: unpack it"),
    "TorchScript": (scripted, "it is a TorchScript program"),
    "a whole network": (lambda: pth(brought.Tiny()), "it holds tests.faults.brought.Tiny"),
    "cut": (pth(state())[:-200], "not a file of weights"),
    "a list": (pth([1, 2]), "holds no state dict"),
    "numbers": (pth({"epoch": 3}), "holds no state dict"),
    "an optimizer alone": (
        lambda: pth(torch.optim.Adam(brought.tiny().parameters()).state_dict()),
        "holds no state dict",
    ),
    "safetensors, cut": (safe(state())[:-20], "not a whole .safetensors file"),
    "missing": (pth(state(**{"head.bias": None})), "head.bias is missing"),
    "extra": (pth(state(**{"head.more": torch.zeros(1)})), "head.more is not in the network"),
    "other classes": (
        lambda: pth(brought.Tiny(classes=5).state_dict()),
        "head.weight is (5, 4), the network's (2, 4)",
    ),
    "NaN": (pth(state(**{"head.bias": SOME_NAN})), "1 of 2 numbers of head.bias are not finite"),
    "NaN in a buffer": (
        pth(state(**{"norm.running_var": torch.tensor([NAN, 1, 1, 1])})),
        "norm.running_var are not finite",
    ),
    "inf": (safe(state(**{"head.bias": torch.tensor([0, torch.inf])})), "head.bias are not finite"),
    "inf of half precision": (
        pth({n: (t * 1e6).half() for n, t in state().items()}),
        "are not finite",
    ),
    "whole numbers": (
        pth(state(**{"head.bias": torch.zeros(2, dtype=torch.int8)})),
        "head.bias is int8, the network's float32",
    ),
    "bools": (pth(state(**{"head.bias": torch.ones(2).bool()})), "head.bias is bool"),
    "complex": (
        pth(state(**{"head.bias": torch.ones(2, dtype=torch.complex64)})),
        "head.bias is complex64, the network's float32",
    ),
    "two networks": (
        pth({"teacher": state(), "student": state(**{"head.bias": torch.ones(2)})}),
        "several networks that fit ('teacher', 'student'): save the one you mean alone",
    ),
    "two prefixes": (
        pth({f"{p}.{n}": t + (p == "b") for p in "ab" for n, t in state().items()}),
        "several networks that fit ('a.', 'b.')",
    ),
    "another network": (lambda: pth(torch.nn.Linear(3, 3).state_dict()), "conv.weight is missing"),
}  # fmt: skip


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_weights(refused, tmp_path, name):
    data, words = WEIGHTS[name]
    for ending in ("pth", "bin"):
        file = tmp_path / f"{ending}.{ending}"
        file.write_bytes(data() if callable(data) else data)
        refused(1, words, f"evaluate {OWN.replace('w.pth', str(file))}")


def test_weights_that_are_no_file(refused, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, words in {
        "data": "data is a folder: name a file in it",
        "nowhere.pth": "no file",
        str(tmp_path / "pipe"): "no file",
    }.items():
        refused(1, words, f"evaluate {OWN.replace('w.pth', name)}")


def test_weights_under_any_name(place, tmp_path, monkeypatch, capsys):
    """What they are is told by what they hold."""
    monkeypatch.chdir(place)
    save_file(brought.tiny().state_dict(), tmp_path / "a.safetensors")
    (tmp_path / "a.safetensors").rename(tmp_path / "a.pth")
    torch.save(brought.tiny().state_dict(), tmp_path / "b.ckpt")
    torch.save(brought.tiny().state_dict(), tmp_path / "c", _use_new_zipfile_serialization=False)
    for name in ("a.pth", "b.ckpt", "c"):
        assert main(shlex.split(f"evaluate {OWN.replace('w.pth', str(tmp_path / name))}")) == 0


# ---- networks ------------------------------------------------------------------------------------

NETWORKS = [
    (1, "softmax", "it ends in a softmax"),
    (1, "softmax_of_double", "it ends in a softmax"),
    (1, "not_finite", "logits are not finite"),
    (1, "some_not_finite", "logits are not finite"),
    (1, "pair", "one tensor, not a tuple of 2"),
    (1, "named", "one tensor, not a dict of 1"),
    (1, "nothing", "one tensor, not a NoneType"),
    (1, "squeezed", "of 1 images it returns (2,)"),
    (1, "maps", "(2, 2, 1, 1) in float32: flatten them"),
    (1, "classes", "(2, 2) in int64"),
    (1, "random", "other logits for the same images each time"),
    (1, "failing", "cannot run on these images (of its own)"),
    (1, "one", "runs on one image, but not on two (one at a time)"),
    (1, "two", "runs on two images, but not on one (one is too few)"),
    (1, "only_224", "size 8 is not supported); it does on 224 x 224: give --image-size 224"),
    (1, "three", "head.weight is (2, 4), the network's (3, 4)"),
    (1, "grey", "conv.weight is (4, 3, 3, 3), the network's (4, 1, 3, 3)"),
    (1, "a_class", "returned a class, not a network"),
    (1, "a_number", "it is of type int, not a function"),
    (1, "absent", "no attribute 'absent'"),
    (1, "Tiny.absent", "no attribute 'absent'"),
    (1, "with_arguments", "it needs arguments (missing a required argument: 'depth')"),
    (1, "that_fails", "FileNotFoundError: weights of its own are not there"),
    (1, "that_exits", "its code ends the program (no GPU, no fun)"),
    (1, "complex_weights", "odd is complex"),
    (1, "on_meta", "conv.weight is not initialised"),
    (1, "lazy", "head.weight is not initialised"),
]


@pytest.mark.parametrize(("code", "name", "words"), NETWORKS, ids=[name for _, name, _ in NETWORKS])
def test_networks(refused, code, name, words):
    own = OWN.replace("brought:tiny", f"brought:{name}")
    refused(code, words, f"evaluate {own}")
    refused(code, words, f"quantize {own} --out out")


def test_a_network_of_other_channels(refused, tmp_path):
    torch.save(brought.grey().state_dict(), tmp_path / "grey.pth")
    own = OWN.replace("w.pth", str(tmp_path / "grey.pth"))
    words = "the teacher takes 1 channels, but --mean and --std describe 3: give 1 numbers each"
    refused(1, words, f"evaluate {own.replace('brought:tiny', 'brought:grey')}")
    torch.save(brought.hyperspectral().state_dict(), tmp_path / "grey.pth")
    words = "cannot run on these images (Given groups=1"
    refused(1, words, f"evaluate {own.replace('brought:tiny', 'brought:hyperspectral')}")


NAMES = [
    (2, "my_nets.py:net", "my_nets:resnet for a function of my_nets.py"),
    (2, "nets/mine:net", "--teacher takes module:function"),
    (2, r"C:\nets\mine.py:net", "--teacher takes module:function"),
    (2, "my_nets", "--teacher takes module:function"),
    (2, ":net", "--teacher takes module:function"),
    (2, "my_nets:", "--teacher takes module:function"),
    (1, "no_such_module_here:net", "No module named 'no_such_module_here'"),
    (1, "\udcff:net", "--teacher"),
    (1, f"{LONG}:net", "No module named"),
    (1, "a\nb:net", "No module named"),
]


@pytest.mark.parametrize(("code", "name", "words"), NAMES, ids=[repr(n)[:30] for _, n, _ in NAMES])
def test_names_of_networks(refused, code, name, words):
    refused(code, words, ["evaluate", "--teacher", name, *shlex.split(OWN)[2:]])


MODULES = {
    "syntax": ("def net(:", "SyntaxError"),
    "its_own_import": ("import no_such_package", "No module named 'no_such_package'"),
    "arguments": (
        "import argparse\np = argparse.ArgumentParser()\np.add_argument('--lr', required=True)\n"
        "p.parse_args()",
        "its code ends the program (akt-lab: error: the following arguments are required: --lr)",
    ),
    "exits": ("import sys; sys.exit()", "its code ends the program (without a word)"),
    "code": ("from tests.faults.brought import tiny as net", "give your code.py another name"),
}


@pytest.mark.parametrize("name", MODULES)
def test_modules(refused, place, monkeypatch, name):
    text, words = MODULES[name]
    file = place / f"{name if name == 'code' else f'module_{name}'}.py"
    file.write_text(text)
    monkeypatch.syspath_prepend(place)
    monkeypatch.setattr(sys, "argv", ["akt-lab", "evaluate"])
    refused(1, words, f"evaluate {OWN.replace('tests.faults.brought:tiny', f'{file.stem}:net')}")
    file.unlink()


# ---- what is not refused -------------------------------------------------------------------------


def test_what_the_table_is_made_from_is_right(place, monkeypatch, capsys):
    """Without its one fault, each of these commands works."""
    monkeypatch.chdir(place)
    assert main(shlex.split(f"evaluate {OWN} --json")) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 4


def test_a_teacher_that_runs_is_evaluated(place, monkeypatch, capsys):
    """Whether or not it can be traced, which a student needs."""
    monkeypatch.chdir(place)
    own = OWN.replace("brought:tiny", "brought:untraceable")
    assert main(shlex.split(f"evaluate {own} --json")) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 4


def test_names_that_are_not_utf_8(place, tmp_path, monkeypatch, capsys):
    """Of a class, an image, the weights and the run's folder; and of two lines."""
    odd = "\udcff\udcfe\n狗"
    folder = copied(place / "data", tmp_path / "data")
    (folder / "dog").rename(folder / odd)
    (folder / "cat" / "0.png").rename(folder / "cat" / f"{odd}.png")
    shutil.copy(place / "w.pth", tmp_path / f"{odd}.pth")
    monkeypatch.chdir(tmp_path)
    own = [*shlex.split(OWN)[:2], "--weights", f"{odd}.pth", *shlex.split(OWN)[4:]]
    small = ["--method", "ptq", "--epochs", "2", "--steps", "1", "--batch-size", "2"]
    assert main(["quantize", *own, *small, "--out", odd]) == 0
    assert main(["quantize", "--out", odd, "--resume"]) == 0
    assert (
        main(["sweep", *own, *small[2:], "--methods", "ptq", "--workers", "0", "--out", "s"]) == 0
    )
    capsys.readouterr()
    assert main(["table", "--results", "s", "--out", odd + ".md"]) == 0


@pytest.mark.parametrize("encoding", ["ascii", pytest.param("cp1252", marks=pytest.mark.slow)])
def test_a_console_without_our_letters(place, tmp_path, encoding):
    """As on Windows; a class has a Chinese name, and the run's folder another."""
    folder = copied(place / "data", tmp_path / "data")
    (folder / "dog").rename(folder / "狗")
    own = OWN.replace("--data data", f"--data {folder}")
    command = TRAIN.replace(OWN, own).replace("--out out", f"--out {tmp_path / '出'}")
    environment = os.environ | {
        "PYTHONIOENCODING": encoding,
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run(
        [sys.executable, "-m", "akt_lab.commands", *shlex.split(command)],
        capture_output=True, cwd=place, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert rb"\u51fa" in done.stdout
    assert rb"1 \u72d7" in done.stderr
