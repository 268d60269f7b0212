import json
from copy import deepcopy
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from akt_lab.benches import images as images_module
from akt_lab.benches.bench import BenchSpec, _images, load_bench
from akt_lab.benches.digits import DigitsNet
from akt_lab.benches.images import FolderImages
from akt_lab.benches.known import KNOWN
from akt_lab.errors import AktError, DamagedError, UsageError
from akt_lab.files import save_tensors
from akt_lab.methods import METHODS
from tests.faults import JSON, one_line


def write_images(folder, classes=("cat", "dog"), size=(8, 8), mode="RGB", count=3):
    rng = np.random.default_rng(0)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for i in range(count):
            shape = size if mode == "L" else (*size, 3)
            Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8), mode).save(
                folder / name / f"{i}.png"
            )
    return folder


def own(tmp_path, **changes):
    data = write_images(tmp_path / "data")
    torch.manual_seed(0)
    save_file(tiny_teacher().state_dict(), tmp_path / "w.safetensors")
    values = {
        "bench": None,
        "teacher": "tests.benches.test_bench:tiny_teacher",
        "weights": str(tmp_path / "w.safetensors"),
        "data": str(data),
        "mean": (0.5, 0.5, 0.5),
        "std": (0.25, 0.25, 0.25),
    }
    return BenchSpec(**{**values, **changes})


def tiny_teacher():
    return DigitsNet(4, 3, 2)


def tiny_logits_of_three():
    return DigitsNet(4, 3, 3)


def not_a_network():
    return 3


def test_one_s_own(tmp_path):
    bench = load_bench(own(tmp_path), progress=False)
    assert bench.classes == ("cat", "dog")
    assert bench.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert (bench.channels, bench.image_size) == (3, 8)
    images, _ = next(bench.batches())
    expected = (bench.images.float() / 255 - 0.5) / 0.25
    assert torch.allclose(images, expected)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"teacher": "tiny_teacher"}, UsageError, "module:function"),
        ({"teacher": "no_such_module:f"}, AktError, "No module named 'no_such_module'"),
        ({"teacher": "tests.benches.test_bench:absent"}, AktError, "absent"),
        ({"teacher": "tests.benches.test_bench:not_a_network"}, AktError, "returned a int"),
        (
            {"teacher": "tests.benches.test_bench:tiny_logits_of_three"},
            AktError,
            "classifier.weight is",
        ),
        ({"mean": None}, UsageError, "--mean and --std"),
        ({"mean": (0.5,)}, UsageError, "one number each"),
        ({"std": (0.0, 1.0, 1.0)}, UsageError, "from 0.001 to 1, not 0"),
        ({"mean": (0.5,), "std": (0.2,)}, AktError, "takes 3 channels"),
        ({"data": None}, UsageError, "needs --data DIR"),
        ({"data": "/nowhere"}, AktError, "no such folder"),
        ({"weights": "/nowhere/w.safetensors"}, AktError, "no file"),
    ],
)
def test_mistakes(tmp_path, changes, error, words):
    with pytest.raises(error, match=words) as caught:
        load_bench(own(tmp_path, **changes), progress=False)
    assert "\n" not in str(caught.value)


def test_a_bench_by_its_name(digits):
    for bench in (load_bench(), load_bench("digits"), load_bench(BenchSpec(bench="digits"))):
        assert bench.name == "digits"
        assert digits.differs_from(bench.fingerprints) is None
    with pytest.raises(UsageError, match="did you mean 'digits'"):
        load_bench("digit")


def test_unknown_bench():
    with pytest.raises(UsageError, match="did you mean 'cifar10'"):
        load_bench(BenchSpec(bench="cifar11"))
    with pytest.raises(UsageError, match="--bench imagenet-resnet18 needs --data DIR"):
        load_bench(BenchSpec(bench="imagenet-resnet18"))
    with pytest.raises(UsageError, match="drop --data"):
        load_bench(BenchSpec(data="x"))


def test_fingerprints_name_what_changed(digits):
    recorded = digits.fingerprints
    assert list(recorded) == ["teacher", "images"]
    assert digits.fingerprints is recorded  # made once
    flat = deepcopy(digits.teacher).to(memory_format=torch.contiguous_format)
    assert replace(digits, teacher=flat).fingerprints == recorded
    assert replace(digits, mean=tuple(m * (1 + 1e-7) for m in digits.mean)).fingerprints == recorded
    assert digits.differs_from({}) is None  # of a record that is older than they are

    weights = deepcopy(digits.teacher)
    with torch.no_grad():
        weights.classifier.bias[3] += 1e-6
    assert replace(digits, teacher=weights).differs_from(recorded) == "the teacher's weights"
    images = digits.images.clone()
    images[539, 0, 8, 8] += 1
    for changes in (
        {"images": images},
        {"labels": digits.labels.flip(0)},
        {"classes": digits.classes[::-1]},
        {"std": (0.3187,)},
    ):
        assert replace(digits, **changes).differs_from(recorded) == "the evaluation images"
    both = replace(digits, teacher=weights, images=images)
    assert both.differs_from(recorded) == "the teacher's weights and the evaluation images"


def test_fingerprint_of_images_that_are_not_held(tmp_path, monkeypatch):
    """Wherever the folder lies; a file's name or size tells."""
    monkeypatch.setattr(images_module, "IN_MEMORY", 0)
    first = load_bench(own(tmp_path), progress=False)
    assert isinstance(first.images, FolderImages)
    moved = own(tmp_path / "elsewhere")
    assert load_bench(moved, progress=False).differs_from(first.fingerprints) is None
    file = tmp_path / "elsewhere" / "data" / "cat" / "2.png"
    file.rename(file.with_name("3.png"))
    renamed = load_bench(moved, progress=False)
    assert renamed.differs_from(first.fingerprints) == "the evaluation images"
    file.with_name("3.png").rename(file)
    file.write_bytes(file.read_bytes() + b"more")
    longer = load_bench(moved, progress=False)
    assert longer.differs_from(first.fingerprints) == "the evaluation images"


NAMES = st.sampled_from([f.name for f in fields(BenchSpec)]) | st.text(max_size=9)


@settings(max_examples=300, deadline=None)
@given(JSON | st.dictionaries(NAMES, JSON, max_size=3))
def test_a_record_s_bench_is_right_or_refused(values):
    with one_line():
        spec = BenchSpec.from_dict(values)
        assert BenchSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_values_of_another_kind():
    for values, words in (
        ({"image_size": "8"}, "image_size of a bench cannot be '8'"),
        ({"mean": 0.5}, "mean of a bench cannot be 0.5"),
        ({"mean": [0.5, None]}, "mean of a bench"),
        ({"teacher": 3}, "teacher of a bench cannot be 3"),
        ({"wieghts": "x"}, "did you mean 'weights'"),
        ([1], "a bench is names and values"),
    ):
        with pytest.raises(UsageError, match=words):
            BenchSpec.from_dict(values)


def test_damaged_test_arrays_are_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.setenv("AKT_LAB_CACHE", str(tmp_path))
    known = KNOWN["cifar10"]
    path = tmp_path / known.archive.file.replace(".tar.gz", "-test.safetensors")
    arrays = {"images": torch.zeros(2, 3, 4, 4).byte(), "labels": torch.arange(2)}
    words = r"-test.safetensors is damaged .*: delete it, and it is made again"
    save_tensors(path, arrays, {"classes": ["a", "b"]})
    assert _images(BenchSpec("cifar10"), known, 3, False, [])[2] == ("a", "b")
    path.write_bytes(path.read_bytes()[:-1] + b"9")
    with pytest.raises(DamagedError, match=words):
        _images(BenchSpec("cifar10"), known, 3, False, [])
    for tensors, state in ((arrays, {}), ({}, {"classes": []}), (arrays, {"classes": 3})):
        save_tensors(path, tensors, state)
        with pytest.raises(DamagedError, match=words):
            _images(BenchSpec("cifar10"), known, 3, False, [])


class AsksForALayout(torch.nn.Module):
    """LeNet's way: `view` after a map of more than one place."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(4 * 36, 2)

    def forward(self, x):
        x = self.conv(x).relu()
        return self.head(x.view(x.size(0), -1))


def test_a_teacher_that_asks_for_a_layout_runs_as_it_is(tmp_path):
    torch.manual_seed(0)
    network = AsksForALayout()
    save_file(network.state_dict(), tmp_path / "v.safetensors")
    weights, teacher = str(tmp_path / "v.safetensors"), "tests.benches.test_bench:AsksForALayout"
    bench = load_bench(own(tmp_path, teacher=teacher, weights=weights), progress=False)
    images, _ = next(bench.batches())
    assert torch.allclose(bench.teacher(images), network(images.contiguous()), atol=1e-6)
    assert list(bench.teacher.state_dict()) == list(network.state_dict())


# ---- training images, for what is not zero-shot -------------------------------------------------

REAL, PLAIN = METHODS["real"], METHODS["adadfq"]


def with_training(tmp_path, **how):
    """One's own bench, and its training images in a folder of other pixels."""
    spec = own(tmp_path)
    folder = write_images(tmp_path / "train", **{"count": 5, **how})
    return replace(spec, train_data=str(folder))


def test_training_images_are_read_as_those_to_evaluate_on_and_not_before(tmp_path, monkeypatch):
    spec = with_training(tmp_path)
    reads = []
    monkeypatch.setattr(
        "akt_lab.benches.bench.read_image_folder",
        lambda *given: reads.append(given[0].name) or images_module.read_image_folder(*given),
    )
    bench = load_bench(spec, progress=False)
    assert set(bench.fingerprints_of(PLAIN)) == {"teacher", "images"}
    assert reads == ["data"]
    images, labels = bench.training
    assert reads == ["data", "train"]
    assert images.shape == (10, 3, 8, 8)
    assert labels.tolist() == [0] * 5 + [1] * 5
    prints = bench.fingerprints_of(REAL)
    assert bench.differs_from(prints) is None
    file = tmp_path / "train" / "cat" / "0.png"
    Image.new("RGB", (8, 8)).save(file)
    assert load_bench(spec, progress=False).differs_from(prints) == "the training images"
    assert load_bench(spec, progress=False).differs_from(bench.fingerprints) is None


def test_digits_brings_its_own_training_images(digits):
    images, labels = digits.training
    assert images.shape == (1257, 1, 16, 16)
    assert len(labels) == 1257
    seen = {image.numpy().tobytes() for image in images}
    assert not any(image.numpy().tobytes() in seen for image in digits.images)
    assert BenchSpec().seen_by(REAL) == BenchSpec()


def other_classes(tmp_path):
    return with_training(tmp_path, classes=("cat", "dgo"))


def empty_folder(tmp_path):
    (tmp_path / "train").mkdir()
    return replace(own(tmp_path), train_data=str(tmp_path / "train"))


def empty_class(tmp_path):
    spec = with_training(tmp_path)
    for file in (tmp_path / "train" / "dog").iterdir():
        file.unlink()
    return spec


def missing_folder(tmp_path):
    return replace(own(tmp_path), train_data=str(tmp_path / "train"))


def other_size(tmp_path):
    return with_training(tmp_path, size=(12, 12))


def the_same_folder(tmp_path):
    spec = own(tmp_path)
    return replace(spec, train_data=spec.data)


def a_copy(tmp_path):
    return with_training(tmp_path, count=3)  # the same numbers


@pytest.mark.parametrize(
    ("made", "error", "words"),
    [
        (own, UsageError, "method real trains on real images: give --train-data DIR, a folder of"),
        (other_classes, AktError, "--train-data .*train: its classes are not .*, dgo is in one"),
        (empty_folder, AktError, "--train-data .*train: expected one folder of images for each"),
        (empty_class, AktError, "--train-data .*train: expected .*; no image is in dog"),
        (missing_folder, AktError, "--train-data .*train: no such folder"),
        (other_size, AktError, "are 12 x 12, those to evaluate on 8 x 8: give --image-size"),
        (the_same_folder, UsageError, "holds the images to evaluate on"),
        (a_copy, UsageError, "holds the images to evaluate on"),
    ],
)
def test_training_images_that_cannot_be_right(tmp_path, made, error, words):
    """Refused where they are asked for: whoever only evaluates does without."""
    bench = load_bench(made(tmp_path), progress=False)
    with pytest.raises(error, match=words) as caught:
        bench.training  # noqa: B018
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "there"),
    [
        ({}, True),
        ({"bench": "cifar10"}, True),  # in its archive
        ({"bench": "cifar10", "data": "d"}, False),
        ({"bench": "cifar10", "data": "d", "train_data": "t"}, True),
        ({"bench": "imagenet", "data": "d"}, False),
        ({"bench": "imagenet", "data": "d", "train_data": "t"}, True),
        ({"bench": None, "teacher": "a:b"}, False),
        ({"bench": None, "teacher": "a:b", "train_data": "t"}, True),
    ],
)
def test_what_a_method_sees_of_a_bench(spec, there):
    spec = BenchSpec(**spec)
    assert spec.seen_by(PLAIN) == replace(spec, train_data=None)
    if there:
        assert spec.seen_by(REAL) == spec
    else:
        with pytest.raises(UsageError, match="give --train-data DIR"):
            spec.seen_by(REAL)
    with pytest.raises(UsageError, match="drop --train-data"):
        load_bench(BenchSpec(train_data="t"))
