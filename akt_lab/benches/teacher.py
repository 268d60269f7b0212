"""A bench's teacher: a function of one's own that returns it, and files of weights that fill it."""

import importlib
import io
import os
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from akt_lab.benches.downloads import Source
from akt_lab.errors import AktError, UsageError
from akt_lab.files import load_tensors


def call_factory(name: str) -> nn.Module:
    """The network that `module:function` returns, the current folder searched first.

    Raises:
        UsageError: if the name is not of that form.
        AktError: if there is no such module or function, or it does not return a network.
    """
    module_name, _, function_name = name.partition(":")
    if not module_name or not function_name:
        raise UsageError(
            f"--teacher takes module:function, for example my_nets:resnet, not {name!r}"
        )
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        network = getattr(importlib.import_module(module_name), function_name)()
    except Exception as error:
        raise AktError(f"--teacher {name}: {type(error).__name__}: {error}") from error
    if not isinstance(network, nn.Module):
        raise AktError(f"--teacher {name} returned a {type(network).__name__}, not a network")
    return network


def load_weights(network: nn.Module, path: Path, source: Source | None = None) -> None:
    """Load a .safetensors file into a network, or a .pth file of a state dict.

    Of a file that was downloaded from `source`, what the network has not is left out.

    Raises:
        AktError: if they do not fit; names the tensors.
    """
    expected, member = network.state_dict(), source.member if source else None
    safe = path.suffix == ".safetensors"
    tensors = load_tensors(path)[0] if safe else _load_pth(path, member)
    problems = [
        f"{name} is missing"
        for name in expected
        if name not in tensors and not name.endswith("num_batches_tracked")  # old files lack it
    ]
    for name in list(tensors):
        if name not in expected and source:
            del tensors[name]
        elif name not in expected:
            problems.append(f"{name} is not in the network")
        elif (found := tuple(tensors[name].shape)) != (wanted := tuple(expected[name].shape)):
            problems.append(f"{name} is {found}, the network's {wanted}")
    if problems:
        more = f"; and {len(problems) - 4} more" if len(problems) > 4 else ""
        raise AktError(f"{path} does not fit the teacher: {'; '.join(problems[:4])}{more}")
    network.load_state_dict(tensors, strict=False)


def _load_pth(path: Path, member: str | None) -> dict[str, Tensor]:
    """A state dict as PyTorch saves it; nothing that its pickle could call is called."""
    try:
        data = path.read_bytes()
        if member:
            data = zipfile.ZipFile(io.BytesIO(data)).read(member)
        found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a broken or a hostile file can raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise AktError(f"{path} is not a file of weights ({reason})") from error
    if not isinstance(found, Mapping) or not all(isinstance(t, Tensor) for t in found.values()):
        raise AktError(f"{path} holds no state dict: save one by torch.save(net.state_dict(), …)")
    return dict(found)
