"""AKT Lab: see zero-shot quantization happen, and test its claims."""

import warnings

__version__ = "0.1.0"

# PyTorch's own, in torch.func and whatever imports it: nothing that a user could change.
warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
