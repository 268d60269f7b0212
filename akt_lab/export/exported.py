"""From a run to a file: what it holds, what it weighs, how long it takes, whether it is right."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Self

from torch import Tensor, fx
from tqdm.auto import tqdm

from akt_lab import __version__
from akt_lab.benches import Bench
from akt_lab.errors import AktError, unknown
from akt_lab.export.check import Agreement, agreement, as_array, refuse
from akt_lab.export.onnx_file import check_exportable, to_onnx
from akt_lab.export.pt2_file import TorchExport, to_pt2
from akt_lab.export.runtimes import Runtime, here, medians
from akt_lab.export.sums import with_rounded_sums
from akt_lab.export.weights import accounted_bytes
from akt_lab.graph import map_layers, trace
from akt_lab.quantizer import effective_bits, quantized_layers
from akt_lab.runs import networks
from akt_lab.runs.checkpoint import last_whole
from akt_lab.runs.folder import Run, provenance

SUMS = ("float", "8")
IN_FLOAT = ": a runtime may err in whole numbers, of which --storage float has none"
FORMS = ("onnx", "pt2")


@dataclass(frozen=True)
class Exported:
    """A network that is to be a file.

    Attributes:
        network: the student, or the teacher's graph.
        bench: on which it is checked.
        source: what the network is, in words.
        sums: `float`, or `8` where layers' outputs and residual sums are rounded to 8 bits, too.
        storage: how its weights are held, one of `STORAGES`.
        maps: layers whose outputs the file gives, too.
        metadata: what goes with it.
        form: of the file, one of `FORMS`; a .pt2 file has float weights, float sums and no maps.
        answers: the network's logits, once a check has computed them: of it in any storage.
    """

    network: fx.GraphModule
    bench: Bench
    source: str
    sums: str
    storage: str
    maps: tuple[str, ...]
    metadata: dict[str, str]
    form: str = "onnx"
    answers: list[Tensor] = field(default_factory=list)

    def _written(self, rounded: bool = False) -> bytes:
        how: dict[str, Any] = {"metadata": self.metadata, "rounded": rounded}
        if self.form == "onnx":
            how |= {"storage": self.storage, "maps": self.maps}
        return self._write(self.network, **how)

    def _write(self, network: fx.GraphModule, **how: Any) -> bytes:
        shape = (self.bench.channels, self.bench.image_size, self.bench.image_size)
        return (to_pt2 if self.form == "pt2" else to_onnx)(network, shape, **how)

    @cached_property
    def content(self) -> bytes:
        """The file's."""
        return self._written()

    def stored_as(self, storage: str) -> Self:
        """The same network, its weights held another way: what is known of it is kept."""
        return replace(self, storage=storage, metadata={**self.metadata, "storage": storage})

    @property
    def is_student(self) -> bool:
        """And no teacher."""
        return bool(quantized_layers(self.network))

    def check(self, runtime: type[Runtime], progress: bool = False) -> Agreement:
        """Run it on every evaluation image beside the network.

        Raises:
            AktError: if the file, made for this runtime, does not give the same; says where.
        """

        def with_roundings() -> Runtime:
            return runtime(self._written(rounded=True))

        file, batches = runtime(self.content), self.bench.batches()
        look: dict[str, Any] = {"unit": "image", "disable": not progress, "leave": False}
        with tqdm(total=len(self.bench.images), desc=runtime.package, **look) as bar:
            found = agreement(self.network, batches, file, with_roundings, bar.update, self.answers)
        if self.sums == "float" or runtime.rounds_sums:
            whole = self.is_student and self.form == "onnx" and self.storage != "float"
            refuse(found, runtime.package, IN_FLOAT if whole else "")
        return found

    def sizes(self) -> dict[str, int]:
        """Bytes: the file's; what its network takes at its bits, and coded; float32's file."""
        found = {"file": len(self.content)}
        if self.is_student:
            found["accounted"] = round(accounted_bytes(self.network))
            found["entropy_coded"] = round(accounted_bytes(self.network, coded=True))
            found["float32"] = len(self.in_float)
        return found

    @cached_property
    def in_float(self) -> bytes:
        """The content of the teacher's file, to compare with."""
        return self._write(trace(self.bench.teacher))

    @property
    def runtimes(self) -> Sequence[type[Runtime]]:
        """Those that are installed, of the file's form."""
        return (TorchExport,) if self.form == "pt2" else here()

    def bits(self) -> dict[str, float]:
        """That a weight and an activation take, their ranges counted."""
        if not self.is_student:
            return {}
        image = self.bench.normalise(self.bench.images[:1]).to(self.bench.device)
        each = effective_bits(self.network, image)
        return dict(zip(("weights", "activations"), (round(b, 3) for b in each), strict=True))

    def speed(self) -> dict[str, dict[str, Any]]:
        """For each runtime: milliseconds for one image, of float32 and of the file; its layers.

        Medians of rounds in turns, on one thread.
        """
        image = as_array(self.bench.normalise(self.bench.images[:1]))
        found: dict[str, dict[str, Any]] = {}
        for runtime in here():
            file = runtime(self.content)
            loaded = {"ms": file}
            if self.is_student:
                loaded["ms_float32"] = runtime(self.in_float)
            times = {name: round(ms, 4) for name, ms in medians(loaded, image).items()}
            layers = file.layers(image)
            found[runtime.package] = {
                **times,
                "in_integers": [name for name, whole in layers.items() if whole],
                "in_float": [name for name, whole in layers.items() if not whole],
            }  # fmt: skip
        return found


def of_run(
    run: Run,
    bench: Bench,
    storage: str = "int8",
    *,
    sums: str = "float",
    maps: bool = False,
    teacher: bool = False,
    form: str = "onnx",
) -> Exported:
    """A run's student, to be exported.

    Args:
        run: its folder.
        bench: the run's; its images may be others.
        storage: how its weights are held, one of `STORAGES`.
        sums: `8` rounds layers' outputs and residual sums to 8 bits, too, which ONNX Runtime needs
            to compute in integers: another network, with ranges from the run's synthetic images.
        maps: whether the file gives the feature maps that AKT distils, too.
        teacher: the run's teacher, in float32, in place of its student.
        form: of the file, one of `FORMS`: `storage`, `sums` and `maps` are of ONNX files.

    Raises:
        AktError: if the run left no student, or one that no file can hold: live ranges, say.
    """
    if teacher:
        graph, source = networks.teacher_graph(bench, run.settings.equalize), "the teacher"
    else:
        student, source = networks.load_student(run, bench)
        assert isinstance(student, fx.GraphModule)
        graph = student
        check_exportable(graph)
    settings = run.settings
    for name, value, known in (("sums", sums, SUMS), ("form", form, FORMS)):
        if value not in known:
            raise unknown(name, value, known)
    if form == "pt2":
        storage, sums, maps = "float", "float", False
    shown = tuple(map_layers(graph, settings.maps, settings.last_maps)) if maps else ()
    if sums == "8" and not teacher:
        graph = with_rounded_sums(graph, _synthetic(run).to(bench.device), shown)
        source += ", its sums rounded to 8 bits"
    about = {
        "bench": bench.name,
        "network": "teacher" if teacher else "student",
        "method": settings.label,
        "bits": "32" if teacher else settings.bits,
        "storage": "float" if teacher else storage,
        "sums": "float" if teacher else sums,
        "mean": json.dumps(bench.mean),
        "std": json.dumps(bench.std),
        "classes": json.dumps(bench.classes),
        "run": run.folder.resolve().name,
        "commit": str((run.get("versions") or {}).get("commit")),
        "akt_lab": f"{__version__} {provenance()['commit'] or ''}".strip(),
    }
    return Exported(graph, bench, source, sums, storage, shown, about, form)


def _synthetic(run: Run) -> Tensor:
    """The images that a run set aside to judge its student, (N, channels, H, W): no real ones."""
    tensors, _, path = last_whole(run)
    if "holdout" not in tensors:
        raise AktError(f"{path} holds no synthetic images yet, by which to choose ranges of sums")
    return tensors["holdout"]


def measured(exported: Exported, progress: bool = False) -> dict[str, Any]:
    """Check it in every runtime of its form, then time it if it is ONNX: for a record, or a table.

    Raises:
        AktError: if no runtime is installed, or one gives something else than the network does.
    """
    runtimes = exported.runtimes
    if not runtimes:
        raise AktError(
            "no runtime to check the file with: pip install -e '.[export]', or --no-check"
        )
    checked = {runtime: exported.check(runtime, progress) for runtime in runtimes}
    speed = exported.speed() if exported.form == "onnx" else {}  # PyTorch's is the student's own
    return {
        runtime.package: {"version": runtime.installed()}
        | asdict(found)
        | {"good": found.good}
        | speed.get(runtime.package, {})
        for runtime, found in checked.items()
    }
