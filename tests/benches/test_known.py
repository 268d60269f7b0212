"""The benches with a name, from a server on this machine that has stand-ins of their files."""

import hashlib
import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from akt_lab.benches import images as images_module
from akt_lab.benches import known
from akt_lab.benches.bench import BenchSpec, load_bench
from akt_lab.benches.downloads import Source
from akt_lab.benches.images import read_cifar
from akt_lab.benches.known import KNOWN
from akt_lab.benches.teacher import load_weights
from akt_lab.commands import main
from akt_lab.errors import AktError
from akt_lab.files import LOCK
from tests.benches.serving import Behaviour, serving


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("AKT_LAB_CACHE", str(folder))
    monkeypatch.setenv("no_proxy", "*")
    return folder


class Python2(pickle._Pickler):
    """Writes strings as Python 2 did, which packed CIFAR's archives."""

    def save_string(self, value):
        data = value if isinstance(value, bytes) else value.encode()
        self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)
        self.memoize(value)

    dispatch = {**pickle._Pickler.dispatch, str: save_string, bytes: save_string}  # noqa: RUF012


def pickled(**entries):
    file = io.BytesIO()
    Python2(file, 2).dump(entries)
    return file.getvalue()


def archive(**files):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(f"cifar/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return packed.getvalue()


CIFAR = {  # files in the archive, and the entries that hold labels and names
    "cifar10": ("test_batch", "batches.meta", "labels", "label_names", 10),
    "cifar100": ("test", "meta", "fine_labels", "fine_label_names", 100),
}
BATCHES = {  # those that hold training images, in order
    "cifar10": [f"data_batch_{number}" for number in range(1, 6)],
    "cifar100": ["train"],
}


def stand_ins(name):
    """An archive, zipped weights, and what they hold."""
    test, meta, labels_entry, names_entry, classes = CIFAR[name]
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (20, 3072), dtype=np.uint8)
    labels = rng.integers(0, classes, 20).tolist()
    names = [f"class{i}" for i in range(classes)]
    files = {
        "data_batch_1": b"training images are not looked at",
        "train": b"nor here",
        test: pickled(data=pixels, coarse_labels=[0], **{labels_entry: labels}),
        meta: pickled(**{names_entry: names}),
    }
    torch.manual_seed(1)
    weights = KNOWN[name].build().state_dict()
    file, zipped = io.BytesIO(), io.BytesIO()
    kept = {k: v for k, v in weights.items() if not k.endswith("num_batches_tracked")}
    torch.save({**kept, "more.than.is.needed": torch.zeros(1)}, file)
    with zipfile.ZipFile(zipped, "w") as packed:
        packed.writestr("w.pth", file.getvalue())
    return archive(**files), zipped.getvalue(), file.getvalue(), (pixels, labels, names, kept)


@pytest.mark.parametrize("name", BATCHES)
def test_cifar_s_training_images_come_from_its_archive_when_they_are_asked_for(
    name, own_cache, monkeypatch
):
    test, meta, labels_entry, names_entry, classes = CIFAR[name]
    rng = np.random.default_rng(1)
    names = [f"class{i}" for i in range(classes)]
    made = {
        batch: (rng.integers(0, 256, (4, 3072), dtype=np.uint8), rng.integers(0, classes, 4))
        for batch in [test, *BATCHES[name]]
    }
    files = {b: pickled(data=p, **{labels_entry: y.tolist()}) for b, (p, y) in made.items()}
    backwards = dict(reversed(files.items()))  # their order in the archive does not matter
    data = archive(**backwards, **{meta: pickled(**{names_entry: names})})
    own_cache.mkdir()
    (own_cache / "c.tar.gz").write_bytes(data)
    source = Source(("http://127.0.0.1:9/c.tar.gz",), sha("md5", data))
    monkeypatch.setitem(known.KNOWN, name, replace(KNOWN[name], archive=source))
    torch.save(KNOWN[name].build().state_dict(), own_cache / "w.pth")
    spec = BenchSpec(bench=name, weights=str(own_cache / "w.pth"))
    bench = load_bench(spec, progress=False)
    assert not (own_cache / "c-train.safetensors").exists()
    assert len(bench.training[1]) == 4 * len(BATCHES[name])
    (own_cache / "c.tar.gz").unlink()
    for each in (bench, load_bench(spec, progress=False)):  # kept beside the archive
        images, labels = each.training
        pixels = np.concatenate([made[batch][0] for batch in BATCHES[name]])
        assert np.array_equal(images.flatten(1).numpy(), pixels)
        expected = np.concatenate([made[batch][1] for batch in BATCHES[name]])
        assert labels.tolist() == expected.tolist()


def sha(algorithm, data):
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


@pytest.mark.parametrize("name", CIFAR)
def test_cifar_from_nothing(name, own_cache, monkeypatch, capsys):
    images, zipped, weights, (pixels, labels, names, kept) = stand_ins(name)
    served = {"c-python.tar.gz": Behaviour(images), "w.zip": Behaviour(zipped)}
    with serving(**served) as at:
        bench_sources = {
            "archive": Source((f"{at}/missing", f"{at}/c-python.tar.gz"), sha("md5", images)),
            "weights": Source((f"{at}/w.zip",), sha("sha1", weights), member="w.pth"),
        }
        monkeypatch.setitem(known.KNOWN, name, replace(KNOWN[name], **bench_sources))
        bench = load_bench(BenchSpec(bench=name))
    assert "w.zip from 127.0.0.1" in capsys.readouterr().err
    assert main(["evaluate", "--bench", name, "--json"]) == 0  # the server is gone
    assert json.loads(capsys.readouterr().out)["images"] == 20
    again = load_bench(BenchSpec(bench=name), progress=False)
    for loaded in (bench, again):
        assert np.array_equal(loaded.images.flatten(1).numpy(), pixels)
        assert loaded.labels.tolist() == labels
        assert loaded.classes == tuple(names)
        assert all(torch.equal(loaded.teacher.state_dict()[k], v) for k, v in kept.items())
        assert not loaded.teacher.training
    assert {*os.listdir(own_cache)} == {LOCK, "missing", "missing-test.safetensors", "w.zip"}


def test_offline_says_what_to_do(own_cache, monkeypatch, capsys):
    nowhere = "http://127.0.0.1:9"
    changed = {
        "archive": replace(KNOWN["cifar10"].archive, urls=(f"{nowhere}/c.tar.gz",)),
        "weights": replace(KNOWN["cifar10"].weights, urls=(f"{nowhere}/w.pth.zip",)),
    }
    monkeypatch.setitem(known.KNOWN, "cifar10", replace(KNOWN["cifar10"], **changed))
    assert main(["evaluate", "--bench", "cifar10"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    for part in (f"{nowhere}/w.pth.zip", str(own_cache / "w.pth.zip"), "or give --weights FILE"):
        assert part in line
    assert os.listdir(own_cache) == [LOCK]


def test_sources_are_those_of_the_packages():
    from pytorchcv.models.common.model_store import get_model_metainfo_dict
    from torchvision import datasets, models

    for name, dataset in {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}.items():
        bench, store = KNOWN[name], get_model_metainfo_dict()
        assert bench.archive.urls[0] == dataset.url
        assert bench.archive.checksum == f"md5:{dataset.tgz_md5}"
        assert all(dataset.filename in url for url in bench.archive.urls)
        _, error, sha1, release = store[bench.architecture]
        assert bench.weights.checksum == f"sha1:{sha1}"
        assert bench.weights.member == f"{bench.architecture}-{error}-{sha1[:8]}.pth"
        assert bench.weights.urls[0].endswith(f"/{release}/{bench.weights.member}.zip")
    for name, choices in {
        "imagenet": models.ResNet18_Weights,
        "imagenet-resnet18": models.ResNet18_Weights,
        "imagenet-mobilenet_v2": models.MobileNet_V2_Weights,
    }.items():
        weights, bench = choices.IMAGENET1K_V1, KNOWN[name]
        assert bench.weights.urls == (weights.url,)
        assert weights.url.endswith(f"-{bench.weights.checksum.removeprefix('sha256:')}.pth")
        transform = weights.transforms()
        assert (transform.resize_size, transform.crop_size) == ([bench.resize], [bench.crop])
        assert (tuple(transform.mean), tuple(transform.std)) == (bench.mean, bench.std)


# ---- nothing is ever executed -------------------------------------------------------------------


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("executed",)


@pytest.mark.parametrize("protocol", range(6))
def test_no_pickle_is_executed(protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hostile = pickle.dumps({"data": Hostile()}, protocol)
    (tmp_path / "c.tar.gz").write_bytes(archive(test_batch=hostile))
    with pytest.raises(AktError, match="mkdir has no place in it"):
        read_cifar(tmp_path / "c.tar.gz")
    (tmp_path / "w.pth").write_bytes(hostile)
    with pytest.raises(AktError, match="not a file of weights") as caught:
        load_weights(torch.nn.Linear(1, 1), tmp_path / "w.pth")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "executed").exists()


def test_archives_that_cannot_be_used(tmp_path):
    path, meta = tmp_path / "c.tar.gz", pickled(label_names=["a"])
    for data, message in {
        b"no archive": "cannot be read",
        archive(meta=meta)[:60]: "cannot be read",
        archive(meta=meta): "does not hold CIFAR's test images",
        archive(meta=meta, test=pickled(data=[1])): "does not hold CIFAR's test images",
    }.items():
        path.write_bytes(data)
        with pytest.raises(AktError, match=message) as caught:
            read_cifar(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(AktError, match="does not hold CIFAR's train images"):
        read_cifar(path, "train")


# ---- ImageNet -----------------------------------------------------------------------------------


def image_net(folder, classes):
    """One image a class: four different ones, none square, under many names."""
    rng, made = np.random.default_rng(0), []
    for i, size in enumerate([(300, 400), (333, 280), (256, 257), (90, 120)]):
        coarse = rng.integers(0, 256, (size[0] // 8, size[1] // 8, 3), dtype=np.uint8)
        made.append(folder / f"{i}.jpg")
        Image.fromarray(coarse).resize(size[::-1]).save(made[-1])
    for i in range(classes):
        (folder / "val" / f"n{i:08}").mkdir(parents=True)
        os.link(made[i % 4], folder / "val" / f"n{i:08}" / "x.JPEG")
    return folder / "val", made


def test_imagenet(own_cache, tmp_path, monkeypatch):
    from torchvision.models import MobileNet_V2_Weights

    name = "imagenet-mobilenet_v2"
    data, pictures = image_net(tmp_path, 1000)
    file = io.BytesIO()
    torch.save(KNOWN[name].build().state_dict(), file)
    with serving(w=Behaviour(file.getvalue())) as at:
        source = Source((f"{at}/w",), sha("sha256", file.getvalue())[:15])
        monkeypatch.setitem(known.KNOWN, name, replace(KNOWN[name], weights=source))
        monkeypatch.setattr(images_module, "IN_MEMORY", 10**8)  # 1000 images take 1.5e8 bytes
        bench = load_bench(BenchSpec(bench=name, data=str(data)), progress=False)
    assert bench.images.shape == (1000, 3, 224, 224)
    assert not isinstance(bench.images, torch.Tensor)
    assert (bench.image_size, bench.channels, bench.num_classes) == (224, 3, 1000)
    theirs = MobileNet_V2_Weights.IMAGENET1K_V1.transforms()
    expected = torch.stack([theirs(Image.open(path)) for path in pictures])
    batches = bench.batches()
    images, labels = next(batches)
    batches.close()
    assert len(images) == bench.batch_size < 250
    assert labels.tolist() == list(range(len(images)))
    assert torch.allclose(images[:4], expected, atol=1e-5)
    assert -(-1000 // len(images)) == bench.num_batches


def test_imagenet_with_the_wrong_folder(own_cache, tmp_path):
    data, _ = image_net(tmp_path, 3)
    torch.save(KNOWN["imagenet"].build().state_dict(), tmp_path / "mine.pth")
    spec = BenchSpec(bench="imagenet", weights=str(tmp_path / "mine.pth"), data=str(data))
    with pytest.raises(AktError, match="knows 1000 classes, --data holds 3 folders"):
        load_bench(spec, progress=False)
