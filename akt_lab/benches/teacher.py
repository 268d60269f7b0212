"""A bench's teacher: a function of one's own that returns it, and files of weights that fill it."""

import copy
import importlib
import inspect
import os
import sys
from collections.abc import Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from akt_lab.benches import weights
from akt_lab.benches.downloads import Source
from akt_lab.benches.foreign import no_trace
from akt_lab.errors import AktError, UsageError

UNREAD = ("num_batches_tracked",)  # old files lack it


def call_factory(name: str) -> nn.Module:
    """The network that `module:function` returns, the current folder searched first.

    A class will do, and a network that the module holds, which is copied. Whatever its code
    changes in Python and PyTorch is put back; of what it may print, see `foreign.no_trace`.

    Raises:
        UsageError: if the name is not of that form.
        AktError: if there is no such module or function, or it does not return a network.
    """
    module_name, _, function_name = name.partition(":")
    if not module_name or not function_name or {*"/\\"} & {*name} or module_name.endswith(".py"):
        raise UsageError(
            "--teacher takes module:function, for example my_nets:resnet for a function of "
            f"my_nets.py in the current folder, not {name!r}"
        )
    if sys.path[:1] not in ([os.getcwd()], [""]):
        sys.path.insert(0, os.getcwd())
    try:
        with no_trace() as said:
            network = _call(module_name, function_name)
    except AktError as error:
        raise AktError(f"--teacher {name}: {error}") from error
    except SystemExit as error:
        said_last = said.getvalue().strip() or error.code
        last = str(said_last or "without a word").splitlines()[-1]
        raise AktError(
            f"--teacher {name}: its code ends the program ({last}): let what only a script needs "
            "stand below `if __name__ == '__main__':`"
        ) from error
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise AktError(f"--teacher {name}: {reason}{_shadowed(module_name)}") from error
    if not isinstance(network, nn.Module):
        kind = "class" if isinstance(network, type) else type(network).__name__
        raise AktError(f"--teacher {name} returned a {kind}, not a network")
    for tensor_name, t in network.state_dict(keep_vars=True).items():
        if not isinstance(t, Tensor) or t.layout != torch.strided:
            raise AktError(f"--teacher {name}: {tensor_name} is no dense tensor: leave it out")
        if is_lazy(t) or t.is_meta or t.is_complex():
            kind = "complex" if t.is_complex() else "not initialised"
            raise AktError(f"--teacher {name}: {tensor_name} is {kind}, not of real numbers")
    return network.cpu().float()


def _call(module_name: str, function_name: str) -> Any:
    """What the function returns, out of what training may have wrapped it in."""
    found = attrgetter(function_name)(importlib.import_module(module_name))
    if isinstance(found, nn.Module):
        network: Any = copy.deepcopy(found)  # each bench fills its own
    elif not callable(found):
        raise AktError(
            f"it is of type {type(found).__name__}, not a function that returns a network"
        )
    else:
        try:
            inspect.signature(found).bind()
        except TypeError as error:
            raise AktError(
                f"it needs arguments ({error}): write a function without, such as "
                f"def mine(): return {function_name}(…), and name that"
            ) from error
        network = found()
    if isinstance(network, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        network = network.module
    return getattr(network, "_orig_mod", network)  # torch.compile's


def _shadowed(module_name: str) -> str:
    """Says so where the current folder's file was not read, as another has its name."""
    loaded = getattr(sys.modules.get(module_name), "__file__", None)
    own = Path(os.getcwd(), *module_name.split(".")).with_suffix(".py")
    if not loaded or not own.exists() or own.samefile(loaded):
        return ""
    return f" ({module_name} is {loaded}: give your {own.name} another name)"


def load_weights(network: nn.Module, path: Path, source: Source | None = None) -> list[str]:
    """Load weights into a network: a .safetensors file, or a state dict as `torch.save` writes it.

    Of a file that was downloaded from `source`, what the network has not is left out.

    Returns:
        what to say of it: what it was wrapped in, numbers that were converted.

    Raises:
        AktError: if they do not fit, or are not finite; names the tensors.
    """
    tensors, notes = read_weights(network.state_dict(), path, source)
    for t in network.state_dict(keep_vars=True).values():
        if 0 in t.stride() and t.numel() > 1:  # expanded: all its numbers are one
            t.data = t.data.contiguous()
    network.load_state_dict(tensors, strict=False)
    check_finite(network, path)
    return notes


def read_weights(
    expected: Mapping[str, Tensor],
    path: Path,
    source: Source | None = None,
    *,
    whose: str = "teacher",
    unread: Sequence[str] = UNREAD,
) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors in a file of weights that a network's state dict asks for.

    Args:
        expected: names, with tensors of the shapes and kinds that they must have.
        path: the file's.
        source: where it was downloaded from: what is not asked for is left out.
        whose: weights they are, for messages.
        unread: last parts of names of those that may be missing: nobody reads them.

    Returns:
        those that are there, and what to say of them.

    Raises:
        AktError: if they do not fit; names the tensors.
    """
    found = weights.read(path, source.member if source else None)
    tensors, more, notes = weights.fitted(found, expected, path, whose)
    needless = {name for name in expected if name.rpartition(".")[2] in unread}
    problems = [
        f"{name} is missing" for name in expected if name not in tensors and name not in needless
    ]
    problems += [] if source else [f"{name} is not in the network" for name in more]
    for name, t in tensors.items():
        if (shape := tuple(t.shape)) != (wanted := tuple(expected[name].shape)):
            problems.append(f"{name} is {shape}, the network's {wanted}")
        elif t.is_meta or t.layout != torch.strided:
            problems.append(f"{name} is {'empty' if t.is_meta else 'sparse'}: save it dense")
        elif name in needless:
            pass
        elif t.is_floating_point() != expected[name].is_floating_point() or t.is_quantized:
            problems.append(f"{name} is {_type(t)}, the network's {_type(expected[name])}")
    if problems:
        several = f"; and {len(problems) - 4} more" if len(problems) > 4 else ""
        raise AktError(f"{path} does not fit the {whose}: {'; '.join(problems[:4])}{several}")
    kinds = {_type(t) for t in tensors.values() if t.is_floating_point()} - {"float32"}
    if kinds:
        notes.append(f"weights are {' and '.join(sorted(kinds))} in the file, used as float32")
    return tensors, notes


def _type(t: Tensor) -> str:
    return str(t.dtype).removeprefix("torch.")


def check_finite(network: nn.Module, path: Path) -> None:
    """Refuse NaN anywhere, and infinities but in buffers, where masks of attention hold them."""
    parameters = {name for name, _ in network.named_parameters(remove_duplicate=False)}
    for name, t in network.state_dict().items():
        bad = t.isnan() | (t.isinf() if name in parameters else False)
        if bad.any():
            raise AktError(
                f"{path}: {int(bad.sum())} of {t.numel()} numbers of {name} are not finite (NaN or "
                "inf): the training that wrote them diverged, or it was saved in too few bits"
            )
