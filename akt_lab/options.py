"""The command line's options for what `methods.Settings` holds."""

from typing import Any


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if (number := int(text)) < 1:
        raise ValueError
    return number


def rate(text: str) -> float:
    """A learning rate; 0, which stands for the method's own in `Settings`, is not one."""
    if not 0 < (number := float(text)) < float("inf"):
        raise ValueError
    return number


rate.__name__ = "number above 0"
positive.__name__ = "whole number of at least 1"  # what argparse calls it

SETTING_OPTIONS: dict[str, dict[str, Any]] = {
    "--method": {"help": "see `akt-lab methods` (default: adadfq+akt)"},
    "--preset": {"help": "paper (default), code or quick: what the options below replace"},
    "--bits": {"type": int, "help": "bits of weights and activations, 2 to 8 (default: 3)"},
    "--weight-bits": {"type": int, "help": "bits of weights, where they differ"},
    "--act-bits": {"type": int, "help": "bits of activations, where they differ"},
    "--first-bits": {"type": int, "help": "weight bits of the first layer, where they differ"},
    "--last-bits": {"type": int, "help": "weight bits of the last layer, where they differ"},
    "--epochs": {"type": positive, "help": "epochs (default: the papers' 400)"},
    "--steps": {"type": positive, "help": "steps an epoch (default: the papers' 200)"},
    "--batch-size": {"type": positive, "help": "images a step (default: the method's: 16 or 200)"},
    "--warmup-epochs": {
        "type": positive,
        "help": "epochs of the generator alone (default: 4, or 1/4)",
    },
    "--generator-lr": {"type": rate, "help": "the generator's learning rate (default: 1e-3)"},
    "--student-lr": {
        "type": rate,
        "help": "the student's learning rate (default: 1e-4; hast 1e-5)",
    },
    "--milestones": {"type": int, "nargs": "*", "help": "epochs at which both rates fall x0.1"},
    "--temperature": {"type": float, "help": "of the logit loss (default: 20)"},
    "--variant": {"help": "of AKT: paper (default), code or published"},
    "--parts": {"help": "of AKT's features: both (default), spatial or channel, for an ablation"},
    "--maps": {"help": "AKT compares the maps of each body (default), sum or relu"},
    "--last-maps": {"type": int, "help": "how many of them, from the last one back (0: all)"},
    "--pool": {"type": positive, "help": "images optimised once, for hast and zeroq"},
    "--pool-steps": {"type": positive, "help": "steps of their optimisation (default: 500)"},
    "--alpha": {"type": float, "help": "share of the features in AKT's `paper` (default: 0.5)"},
    "--lam": {"type": float, "help": "weight of AKT's features (default: see the README)"},
    "--ranges": {
        "help": "activation ranges: ema, ema_legacy, minmax or per_channel_dynamic"
        " (default: the method's)"
    },
    "--gradient": {"help": "straight-through gradient: identity or clipped"},
    "--precision": {"help": "fp32 (default) or bf16"},
    "--compile": {
        "action": "store_true",
        "help": "fuse the step into one graph: pays from some thousand steps on",
    },
    "--eval-every": {
        "type": positive,
        "help": "epochs from one evaluation to the next (default: 1)",
    },
    "--seed": {"type": int, "help": "random seed (default: 0)"},
}
