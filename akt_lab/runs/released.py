"""A student that GDFQ's code, or one of its descendants, has saved, as a run here.

In that code (github.com/xushoukai/GDFQ, hfutqian/AdaDFQ, lihuantong/HAST; the quantizer is ZeroQ's)
every nn.Sequential numbers its layers, and behind every nn.ReLU and nn.ReLU6 stands a `QuantAct`:
the ReLU `features.init_block.activ` is `features.0.activ.0`, and its activation's range lies in
`features.0.activ.1.x_min` and `.x_max`. Convolutions and linear layers, the first and the last one
too, keep float weights and round them at every pass, by each output channel's extremes. A file does
not say its bits. With n = 2**bits - 1 and s = n / (high - low) both are rounded by

    x_hat = (clamp(round(s x - z), 0, n) + z) / s,    z = round(s low)

(there with both z and the whole numbers shifted by 2^(bits-1), which changes nothing). That is
`quantizer.grid`'s with scale 1 / s and zero point -z, where -n <= z <= 0: there zero lies on the
grid, as on all of ours. Beyond that only exact ties differ: s x - z is rounded there, s x here.
"""

import math
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, fx, nn

from akt_lab.benches import Bench, BenchSpec
from akt_lab.benches.teacher import UNREAD, check_finite, read_weights
from akt_lab.errors import AktError
from akt_lab.files import save_tensors
from akt_lab.graph import QUANTIZERS
from akt_lab.graph.operations import layer
from akt_lab.methods import get_method
from akt_lab.quantizer import effective_bits, quantized_activations
from akt_lab.quantizer.layers import ActivationQuantizer, QuantizedWeight
from akt_lab.runs.folder import STUDENT, Run, provenance
from akt_lab.runs.networks import make_networks
from akt_lab.runs.training import evaluate
from akt_lab.settings import Settings, with_preset

LEAST_RANGE = 1e-8  # theirs
APART = 0.01  # of a step: no rounding of float32


def settings_of(method: str, weight_bits: int, act_bits: int) -> Settings:
    """Those of the released code; of the student's own training nothing is known but these."""
    given = {"method": method, "weight_bits": weight_bits, "act_bits": act_bits}
    return Settings(**with_preset({"preset": "code", **given}))


def load_released(path: Path, bench: Bench, settings: Settings) -> tuple[fx.GraphModule, list[str]]:
    """The student in such a file, in eval mode, its ranges frozen; and what to say of it.

    Args:
        path: a state dict, whatever it is wrapped in (`state_dict`, `module.`, ...).
        bench: whose teacher it is a student of.
        settings: `settings_of` it.

    Raises:
        AktError: if the file does not fit the student, or is not finite; if an activation here is
            no nn.ReLU there, has observed no image, or lies on a grid without zero.
    """
    _, student = make_networks(bench, settings)
    there = names_there(bench.teacher)
    held = [name for name in student.state_dict() if not name.startswith(f"{QUANTIZERS}.")]
    places = {name: _join(there, *name.rpartition(".")[::2]) for name in held}
    ranges = _ranges_there(student, there)
    expected = {places[name]: student.state_dict()[name] for name in held}
    for place in ranges.values():
        entries = ("x_min", "x_max", "beta", "beta_t")
        expected |= {f"{place}.{entry}": torch.zeros(1) for entry in entries}
    unread = (*UNREAD, "beta", "beta_t")
    tensors, notes = read_weights(expected, path, whose="student", unread=unread)
    student.load_state_dict({n: tensors[p] for n, p in places.items() if p in tensors}, False)
    for name, place in ranges.items():
        quantizer = student.get_submodule(name)
        assert isinstance(quantizer, ActivationQuantizer)
        low, high = (float(tensors[f"{place}.{entry}"]) for entry in ("x_min", "x_max"))
        low, high = range_here(low, high, quantizer.bits, place)
        quantizer.low.fill_(low)
        quantizer.high.fill_(high)
        quantizer.updates.fill_(1)
        quantizer.observing = False
    student.eval().requires_grad_(False)
    check_finite(student, path)
    return student, notes + rounded_otherwise(student)


def names_there(teacher: nn.Module) -> dict[str, str]:
    """What each module of `teacher`, by its name, is called in such a file."""
    found = {"": ""}
    for name, module in teacher.named_modules():
        for number, (child, _) in enumerate(module.named_children()):
            own = str(number) if type(module) is nn.Sequential else child
            found[f"{name}.{child}".lstrip(".")] = f"{found[name]}.{own}".lstrip(".")
    return found


def _join(there: Mapping[str, str], module: str, tensor: str) -> str:
    return f"{there.get(module, module)}.{tensor}".lstrip(".")


def _ranges_there(student: fx.GraphModule, there: Mapping[str, str]) -> dict[str, str]:
    """For each quantizer of an activation, by its name, that of its `QuantAct`."""
    nodes, found = {node.name: node for node in student.graph.nodes}, {}
    for use in quantized_activations(student):
        node = nodes[use]
        if type(layer(student, node)) not in (nn.ReLU, nn.ReLU6):
            raise AktError(
                f"{use}: the activation is no nn.ReLU and no nn.ReLU6, and such a file has ranges "
                "of those alone: give the network that it was trained from"
            )
        found[f"{QUANTIZERS}.{use}"] = f"{there[str(node.target)]}.1"
    return found


def range_here(low: float, high: float, bits: int, name: str) -> tuple[float, float]:
    """The range whose grid here is that of [low, high] there.

    The same, if it holds zero; if it begins above, but so little that z is 0, as long a one from 0.

    Raises:
        AktError: if their grid has no zero, or there is no range.
    """
    if not (low < high and math.isfinite(high - low)):
        raise AktError(
            f"{name} has no range, x_min is {low:g} and x_max {high:g}: it has observed no image"
        )
    if low <= 0 <= high:
        return low, high
    if low > 0 and round((2**bits - 1) / (high - low) * low) == 0:
        return 0.0, high - low
    raise AktError(
        f"{name} rounds to {bits} bits from {low:g} to {high:g}, a grid without zero, which lies "
        "on every grid here: this student cannot be imported"
    )


def rounded_there(weight: Tensor, bits: int) -> Tensor:
    """A weight (C_out, ...) as their layers round it."""
    rows, n = weight.flatten(1), 2**bits - 1
    low, high = rows.aminmax(dim=1, keepdim=True)
    s = n / (high - low).clamp(min=LEAST_RANGE)
    z = (s * low).round()
    return (((s * rows - z).round().clamp(0, n) + z) / s).view_as(weight)


@torch.no_grad()
def rounded_otherwise(student: nn.Module) -> list[str]:
    """A sentence if weights come to another value here than there, none otherwise."""
    count, places = 0, []
    for name, module in student.named_modules():
        if isinstance(module, QuantizedWeight):
            step = module.grid()[0].view(-1, *(1,) * (module.weight.ndim - 1))
            off = module.quantized_weight() - rounded_there(module.weight, module.bits)
            if apart := int((off.abs() > APART * step).sum()):
                count += apart
                places.append(name)
    if not count:
        return []
    return [
        f"{count} weights are rounded otherwise than there, in {', '.join(places)}: a channel's "
        "weights have one sign, and zero lies on every grid here, or they lie between two points"
    ]


def keep(
    student: fx.GraphModule,
    run: Run,
    bench: Bench,
    spec: BenchSpec,
    settings: Settings,
    source: str,
) -> None:
    """Leave a student from `load_released` in an empty run folder, evaluated.

    Its accuracy stands for the last, the label-free and the best one: there is no other.

    Args:
        student: whose.
        run: its folder.
        bench: the student's.
        spec: the bench's.
        settings: `settings_of` the student.
        source: the file's name.
    """
    method = get_method(settings.method)
    made = {"settings": settings.to_dict(), "fingerprints": bench.fingerprints_of(method)}
    save_tensors(run / STUDENT, student.state_dict(), made)
    image = bench.normalise(bench.images[:1]).to(bench.device)
    bits = (round(each, 3) for each in effective_bits(student, image))
    accuracy = evaluate(student, bench, progress=True)
    run.update_record(
        **made,
        status="done",
        imported=source,
        bench=spec.seen_by(method).to_dict(),
        teacher_accuracy=evaluate(bench.teacher, bench, progress=True),
        images=len(bench.images),
        classes=bench.num_classes,
        made_in=os.getcwd(),
        versions=provenance(),
        device=str(bench.device),
        lam=None,
        accuracy=dict.fromkeys(("last", "label_free", "best"), accuracy),
        evaluations=[],
        effective_bits=dict(zip(("weights", "activations"), bits, strict=True)),
        seconds=None,
        steps_done=0,
    )
