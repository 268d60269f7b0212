"""The names among which a setting chooses; what each stands for is said where it is used."""

VARIANTS = ("paper", "code", "published")  # of AKT: attention.py
PARTS = ("both", "spatial", "channel")  # of its features: losses.py
PLACES = ("body", "sum", "relu")  # of the feature maps: graph.py
RANGES = ("ema", "ema_legacy", "minmax", "per_channel_dynamic")  # of activations: quantizer.py
GRADIENTS = ("identity", "clipped")  # straight-through rules: quantizer.py
PRECISIONS = ("fp32", "bf16")
PRESETS = ("paper", "code", "quick")
