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
