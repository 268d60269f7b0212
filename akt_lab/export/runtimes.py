"""ONNX Runtime and OpenVINO on one thread: run a file, time it, ask what runs in integers."""

import json
import statistics
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from akt_lab.export.builder import IMAGES, needed

SECONDS = 3.0  # of timing, for all that take turns
Arrays = dict[str, np.ndarray]
IN_INTEGERS = frozenset(  # ONNX Runtime's operations
    "QLinearConv ConvInteger QGemm QLinearMatMul MatMulInteger MatMulIntegerToFloat "
    "DynamicQuantizeMatMul NhwcQLinearConv QLinearConvNhwc".split()
)
WEIGHTED = ("Conv", "Gemm", "MatMul")


class Runtime(ABC):
    """A file loaded by a runtime, on one thread of the processor.

    Attributes:
        package: as pip calls it.
        rounds_sums: whether it rounds layers' outputs where a file says so. OpenVINO (2026.4) does
            not, where another rounding follows: it goes from sum to activation in one step.
    """

    package: str
    rounds_sums = True

    @abstractmethod
    def __init__(self, content: bytes) -> None:
        """Load the content of an ONNX file."""

    @abstractmethod
    def run(self, images: np.ndarray) -> Arrays:
        """Every output, by name, for images (B, channels, H, W), float32."""

    @abstractmethod
    def layers(self, images: np.ndarray) -> dict[str, bool]:
        """Whether each layer with a weight runs in integers, as the runtime itself reports it."""

    @classmethod
    def installed(cls) -> str | None:
        """Its version; None where it is not installed."""
        try:
            return version(cls.package)
        except PackageNotFoundError:
            return None


class OnnxRuntime(Runtime):
    """Microsoft's; its profile names the kernel that ran for each operation."""

    package = "onnxruntime"

    def __init__(self, content: bytes) -> None:
        """Raises AktError where it is not installed."""
        self.content = content
        self.session = self._session()

    def _session(self, profile: str = "") -> Any:
        runtime = needed("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        if profile:
            options.enable_profiling, options.profile_file_prefix = True, profile
        return runtime.InferenceSession(self.content, options, providers=["CPUExecutionProvider"])

    def run(self, images: np.ndarray) -> Arrays:
        """Every output, by name."""
        names = [output.name for output in self.session.get_outputs()]
        return dict(zip(names, self.session.run(names, {IMAGES: images}), strict=True))

    def layers(self, images: np.ndarray) -> dict[str, bool]:
        """By the operations in the profile of a pass."""
        with tempfile.TemporaryDirectory() as folder:
            session = self._session(str(Path(folder) / "profile"))
            session.run(None, {IMAGES: images})
            events = json.loads(Path(session.end_profiling()).read_text())
        known = weighted(self.content)
        found = dict.fromkeys(known.values(), False)
        for event in events:
            name = event["name"].removesuffix("_kernel_time")
            if event.get("args", {}).get("op_name") in IN_INTEGERS and name != event["name"]:
                named = [layer for layer in known if name.startswith(layer)]  # and a number
                found[known[max(named, key=len)] if named else name] = True
        return found


class OpenVino(Runtime):
    """Intel's; the network that it compiled names the type in which each operation runs."""

    package = "openvino"
    rounds_sums = False
    # Left to itself, it multiplies in bfloat16 where the processor can, and rounds what a linear
    # layer reads to 8 bits.
    options: Mapping[str, Any] = {
        "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
    }  # fmt: skip

    def __init__(self, content: bytes) -> None:
        """Raises AktError where it is not installed."""
        openvino, self.content = needed("openvino"), content
        core = openvino.Core()
        model = core.read_model(content)
        self.compiled = core.compile_model(model, "CPU", dict(self.options))
        self.request = self.compiled.create_infer_request()

    def run(self, images: np.ndarray) -> Arrays:
        """Every output, by each of its names."""
        self.request.infer({IMAGES: images})
        outputs = enumerate(self.compiled.outputs)  # one may have several names
        made = ((output, self.request.get_output_tensor(i).data.copy()) for i, output in outputs)
        return {name: values for output, values in made for name in output.get_names()}

    def layers(self, images: np.ndarray) -> dict[str, bool]:
        """By the types in the compiled network."""
        known = weighted(self.content)
        found = dict.fromkeys(known.values(), False)
        for node in self.compiled.get_runtime_model().get_ops():
            names = [name for name in _about(node, "originalLayersNames") if name in known]
            if names and _about(node, "runtimePrecision")[0] in ("i8", "u8"):
                # One whose weight alone is whole says so, too: what it reads must be as well.
                source = node.inputs()[0].get_source_output().get_node()
                whole = _about(source, "outputPrecisions")[0] in ("i8", "u8")
                found |= {known[name]: whole for name in names}
        return found


def _about(node: Any, entry: str) -> list[str]:
    """What OpenVINO notes of a node that it compiled."""
    return node.get_rt_info()[entry].astype(str).split(",")


def weighted(content: bytes) -> dict[str, str]:
    """The layers with a weight, in the order in which they run, by all names that they may have.

    A runtime calls one by its own name, or by that of what it gives, its shift added or not.
    """
    nodes = needed("onnx").load_from_string(content).graph.node
    found: dict[str, str] = {}
    for node in nodes:
        if node.op_type in WEIGHTED and node.name:
            found |= {node.name: node.name, node.output[0]: node.name}
        elif node.op_type == "Add" and node.input[0] in found:
            found[node.output[0]] = found[node.input[0]]
    return found


RUNTIMES: tuple[type[Runtime], ...] = (OnnxRuntime, OpenVino)


def medians(
    loaded: Mapping[str, Runtime], images: np.ndarray, seconds: float | None = None
) -> dict[str, float]:
    """Milliseconds that each takes for `images`: the median of many rounds, all in turns.

    Args:
        loaded: what takes turns, by name.
        images: (B, channels, H, W).
        seconds: how long, at least five rounds; `SECONDS` where None.
    """
    times: dict[str, list[float]] = {name: [] for name in loaded}
    for runtime in loaded.values():
        for _ in range(3):
            runtime.run(images)
    until = time.perf_counter() + (SECONDS if seconds is None else seconds)
    while time.perf_counter() < until or len(next(iter(times.values()), [0])) < 5:
        for name, runtime in loaded.items():
            started = time.perf_counter()
            runtime.run(images)
            times[name].append(1e3 * (time.perf_counter() - started))
    return {name: statistics.median(each) for name, each in times.items()}


def here() -> Sequence[type[Runtime]]:
    """The runtimes that are installed."""
    return [runtime for runtime in RUNTIMES if runtime.installed()]
