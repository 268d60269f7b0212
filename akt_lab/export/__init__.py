"""A student as a file that runs elsewhere, in integers: weights, builder, forms, files, check."""

from akt_lab.export.builder import needed
from akt_lab.export.check import Agreement, agreement
from akt_lab.export.exported import Exported, measured, of_run
from akt_lab.export.onnx_file import check_exportable, check_target, to_onnx
from akt_lab.export.pt2_file import TorchExport, to_pt2
from akt_lab.export.runtimes import OnnxRuntime, OpenVino, here, medians
from akt_lab.export.sums import with_rounded_sums
from akt_lab.export.weights import STORAGES, Codes, accounted_bytes, codes_of, entropy

__all__ = [
    "STORAGES",
    "Agreement",
    "Codes",
    "Exported",
    "OnnxRuntime",
    "OpenVino",
    "TorchExport",
    "accounted_bytes",
    "agreement",
    "check_exportable",
    "check_target",
    "codes_of",
    "entropy",
    "here",
    "measured",
    "medians",
    "needed",
    "of_run",
    "to_onnx",
    "to_pt2",
    "with_rounded_sums",
]
