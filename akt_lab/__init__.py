"""AKT Lab: see zero-shot quantization happen, and test its claims."""

__version__ = "0.1.0"
