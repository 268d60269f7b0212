"""Benches: a teacher, the images to evaluate on, and their normalisation.

`digits` works offline and trains its own teacher on first use; `cifar10` and `cifar100` are the
paper's networks, downloaded on first use; `imagenet-resnet18` and `imagenet-mobilenet_v2` need a
folder of ImageNet's validation images; and a bench of your own is any function that returns a
network, with weights and a folder of images.
"""

from akt_lab.benches.bench import Bench, BenchSpec, load_bench

__all__ = ["Bench", "BenchSpec", "load_bench"]
