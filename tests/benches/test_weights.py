"""State dicts as they are found: loaded right and told, whatever they are wrapped in."""

import argparse
import collections
import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from torch import nn
from torch.optim.swa_utils import AveragedModel

from akt_lab.benches.teacher import load_weights
from akt_lab.benches.weights import fitted, read
from akt_lab.errors import AktError
from tests.faults import one_line


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


RIGHT = net().state_dict()
OTHER = net(1).state_dict()


def under(prefix, tensors=RIGHT):
    return {prefix + name: t for name, t in tensors.items()}


def trained():
    optimizer = torch.optim.SGD(net().parameters(), 0.1, momentum=0.9)
    for parameter in optimizer.param_groups[0]["params"]:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return optimizer.state_dict()


WRAPPED = {  # what a file holds, and what is said
    "plain": (RIGHT, []),
    "state_dict": ({"state_dict": RIGHT}, ["those of 'state_dict'"]),
    "model": ({"model": RIGHT, "epoch": 7, "best": 0.9}, ["those of 'model'"]),
    "net": ({"net": RIGHT, "acc": 93, "optimizer": trained()}, ["those of 'net'"]),
    "deep": ({"state": {"network": RIGHT}}, ["those of 'state.network'"]),
    "ordered": (collections.OrderedDict(RIGHT), []),
    "averaged beside": (
        {"state_dict": RIGHT, "state_dict_ema": OTHER},
        ["those of 'state_dict', not of 'state_dict_ema'"],
    ),
    "averaged alone": ({"ema": RIGHT, "epoch": 3}, ["those of 'ema'"]),
    "the same twice": ({"state_dict": RIGHT, "best": RIGHT}, ["'state_dict', not of 'best'"]),
    "module": (under("module."), ["those of 'module.'"]),
    "compiled": (under("_orig_mod."), []),
    "compiled in parts": ({n.replace("0.", "0._orig_mod."): t for n, t in RIGHT.items()}, []),
    "of Lightning": (
        {"state_dict": under("model.") | {"loss.weight": torch.ones(9)}, "epoch": 1},
        ["those of 'state_dict: model.'", "1 tensors beside them are left out: loss.weight"],
    ),
    "several prefixes": (under("module.model.backbone."), ["'module.model.backbone.'"]),
    "AveragedModel": (AveragedModel(net()).state_dict(), ["'module.'", "left out: n_averaged"]),
    "an epoch among tensors": (RIGHT | {"epoch": 3}, []),
    "arguments": (
        {"state_dict": RIGHT, "args": argparse.Namespace(lr=0.1), "best": np.float64(93.5)},
        ["those of 'state_dict'"],
    ),
    "half": ({n: t.half() if t.is_floating_point() else t for n, t in RIGHT.items()},
             ["float16 in the file, used as float32"]),
    "all half": ({n: t.half() for n, t in RIGHT.items()}, ["float16 in the file"]),
    "bfloat16": ({n: t.bfloat16() for n, t in RIGHT.items()}, ["bfloat16 in the file"]),
    "double": ({n: t.double() for n, t in RIGHT.items()}, ["float64 in the file"]),
    "as old files": ({n: t for n, t in RIGHT.items() if "num_batches" not in n}, []),
    "parameters": (dict(net().named_parameters()) | dict(net().named_buffers()), []),
}  # fmt: skip


@pytest.mark.parametrize("name", WRAPPED)
def test_wrapped(tmp_path, name):
    found, said = WRAPPED[name]
    torch.save(found, tmp_path / "w.pth")
    filled = net(2)
    notes = load_weights(filled, tmp_path / "w.pth")
    assert len(notes) == len(said)
    assert all(words in note for words, note in zip(said, notes, strict=True))
    half = 1e-2 if "alf" in name or name == "bfloat16" else 0
    for n, t in filled.state_dict().items():
        assert t.dtype == RIGHT[n].dtype
        if "num_batches" not in n:
            assert torch.allclose(t, RIGHT[n], rtol=half, atol=half / 10)


def test_what_is_left_out_of_a_prefix_is_not_what_the_network_lacks(tmp_path):
    torch.save(under("a.") | {"a.more": torch.ones(1), "b.more": torch.ones(1)}, tmp_path / "w.pth")
    with pytest.raises(AktError, match=r"a\.more is not in the network$"):
        load_weights(net(), tmp_path / "w.pth")


def test_buffers_that_are_expanded_or_whole_numbers(tmp_path):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(2))
            self.register_buffer("index", torch.arange(4))
            self.register_buffer("mask", torch.ones(1).expand(3))

    right = {"weight": torch.ones(2), "index": torch.arange(4), "mask": torch.tensor([1.0, 2, 3])}
    torch.save(right, tmp_path / "w.pth")
    filled = Odd()
    assert load_weights(filled, tmp_path / "w.pth") == []
    assert all(torch.equal(filled.state_dict()[n], t) for n, t in right.items())


def test_nothing_for_a_network_without_weights(tmp_path):
    torch.save({}, tmp_path / "w.pth")
    assert load_weights(nn.ReLU(), tmp_path / "w.pth") == []


def test_all_that_a_file_may_hold_is_refused_or_loaded_right(tmp_path):
    """A prefix that both of two networks have is no choice."""
    both = {"teacher": RIGHT, "student": under("net.", OTHER)}
    with pytest.raises(AktError, match=r"'teacher', 'student: net\.'"):
        fitted(both, RIGHT, tmp_path)


# ---- damaged files -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    torch.save({"model": RIGHT, "epoch": 1}, folder / "zip.pth")
    torch.save(RIGHT, folder / "old.pth", _use_new_zipfile_serialization=False)
    (folder / "w.safetensors").write_bytes(save(RIGHT))
    return folder


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from(["zip.pth", "old.pth", "w.safetensors"]),
    flips=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), max_size=4),
    length=st.floats(0, 1),
    cut=st.booleans(),
)
def test_only_akt_errors_from_damaged_files(files, name, flips, length, cut):
    data = bytearray((files / name).read_bytes())
    for place, change in flips:
        data[int(place * (len(data) - 1))] ^= change
    path = files / f"damaged-{name}"
    path.write_bytes(data[: int(length * len(data))] if cut else data)
    with one_line(naming=path.name):
        load_weights(net(), path)


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=200), st.sampled_from(["", "PK\3\4", "\x80\2"]))
def test_only_akt_errors_from_any_bytes(files, data, start):
    for path in (files / "any.pth", files / "any.safetensors"):
        path.write_bytes(start.encode("latin1") + data)
        with one_line(naming=path.name):
            read(path)


def test_a_huge_header_is_not_believed(tmp_path):
    (tmp_path / "w.bin").write_bytes(struct.pack("<Q", 2**60) + b"{" + b" " * 100)
    with pytest.raises(AktError, match="not a whole"):
        read(tmp_path / "w.bin")
