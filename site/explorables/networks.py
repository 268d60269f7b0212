"""A network as the page reads it: the nodes of its ONNX file, and its constants in base64."""

import base64
from typing import Any

import numpy as np
from onnx import helper, load_model_from_string, numpy_helper
from torch import Tensor

from akt_lab.benches import Bench
from akt_lab.export import OnnxRuntime, of_run
from akt_lab.runs.folder import Run

BATCH = 100  # images at once


def packed(values: Any, kind: str) -> dict[str, Any]:
    """An array for the page: kind, shape, and its numbers in base64, the smallest byte first."""
    array = np.ascontiguousarray(values, dtype=np.dtype(kind).newbyteorder("<"))
    text = base64.b64encode(array.tobytes()).decode()
    return {"kind": kind, "shape": list(array.shape), "data": text}


def as_graph(content: bytes) -> dict[str, Any]:
    """An ONNX file's nodes [operation, inputs, output, attributes], and its constants, by name."""
    graph = load_model_from_string(content).graph
    nodes = []
    for node in graph.node:
        given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        nodes.append([node.op_type, list(node.input), node.output[0], given])
    constants = {}
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        constants[tensor.name] = packed(values, values.dtype.name)
    return {"nodes": nodes, "constants": constants}


def of(run: Run, bench: Bench, teacher: bool = False) -> dict[str, Any]:
    """A run's student, or its teacher, with maps: graph, and what it answers to test images."""
    file = of_run(run, bench, "int8", maps=True, teacher=teacher)
    answers = logits(file.content, bench.normalise(bench.images)).argmax(1)
    right = answers == bench.labels.numpy()
    return {
        "graph": as_graph(file.content),
        "maps": list(file.maps),
        "accuracy": round(100 * float(right.mean()), 2),
        "wrong": np.flatnonzero(~right).tolist(),
    }


def logits(content: bytes, images: Tensor) -> np.ndarray:
    """What ONNX Runtime makes of normalised images, (N, classes)."""
    file = OnnxRuntime(content)
    parts = images.contiguous().split(BATCH)
    return np.concatenate([file.run(part.numpy())["logits"] for part in parts])
