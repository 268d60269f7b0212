import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from akt_lab.benches import bench as benches
from akt_lab.benches.bench import BenchSpec, load_bench, load_weights
from akt_lab.benches.digits import DigitsNet, digits_split
from akt_lab.benches.images import read_image_folder
from akt_lab.errors import AktError, UsageError
from akt_lab.runs.training import evaluate


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


def test_digits(digits):
    assert digits.images.shape == (540, 1, 16, 16)
    assert digits.images.dtype == torch.uint8
    assert digits.num_classes == 10
    counts = digits.labels.bincount()
    assert counts.min() >= 50  # stratified
    assert evaluate(digits.teacher, digits) >= 98
    assert not digits.teacher.training
    (train, _), (test, _) = digits_split()
    assert len(train) + len(test) == 1797
    batch = torch.cat([images for images, _ in digits.batches()])
    assert len(batch) == 540
    assert batch.mean().abs() < 0.1
    assert (digits.pixels(batch[:3]) * 255 - digits.images[:3]).abs().max() < 1e-3


def test_the_teacher_is_kept(digits, cache, monkeypatch):
    monkeypatch.setattr(benches, "train_digits_teacher", None)  # calling it would fail
    again = load_bench(BenchSpec(), progress=False)
    for a, b in zip(digits.teacher.parameters(), again.teacher.parameters(), strict=True):
        assert torch.equal(a, b)


def own(tmp_path, **changes):
    data = write_images(tmp_path / "data")
    torch.manual_seed(0)
    save_file(tiny_teacher().state_dict(), tmp_path / "w.safetensors")
    values = {
        "bench": None,
        "teacher": "tests.test_benches:tiny_teacher",
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
        ({"teacher": "tests.test_benches:absent"}, AktError, "absent"),
        ({"teacher": "tests.test_benches:not_a_network"}, AktError, "returned a int"),
        ({"teacher": "tests.test_benches:tiny_logits_of_three"}, AktError, "classifier.weight is"),
        ({"mean": None}, UsageError, "--mean and --std"),
        ({"mean": (0.5,)}, UsageError, "one number each"),
        ({"std": (0.0, 1.0, 1.0)}, UsageError, "positive"),
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


def test_unknown_bench():
    with pytest.raises(UsageError, match="did you mean 'cifar10'"):
        load_bench(BenchSpec(bench="cifar11"))
    with pytest.raises(UsageError, match="--bench imagenet-resnet18 needs --data DIR"):
        load_bench(BenchSpec(bench="imagenet-resnet18"))
    with pytest.raises(UsageError, match="drop --data"):
        load_bench(BenchSpec(data="x"))


def test_weights_that_do_not_fit(tmp_path):
    net, path = nn.Linear(2, 3), tmp_path / "w.safetensors"
    save_file({"weight": torch.zeros(3, 5), "extra": torch.zeros(1)}, path)
    with pytest.raises(AktError) as caught:
        load_weights(net, path)
    for part in ("bias is missing", "extra is not in the network", r"weight is (3, 5)", "(3, 2)"):
        assert part in str(caught.value)
    path.write_bytes(b"not tensors at all")
    with pytest.raises(AktError, match="not a whole"):
        load_weights(net, path)


def test_image_folders(tmp_path):
    with pytest.raises(AktError, match="one folder of images for each class"):
        read_image_folder(tmp_path, 3, progress=False)
    (tmp_path / "empty" / "cat").mkdir(parents=True)
    with pytest.raises(AktError, match="one folder of images for each class"):
        read_image_folder(tmp_path / "empty", 3, progress=False)
    mixed = write_images(tmp_path / "mixed")
    write_images(tmp_path / "mixed" / "more", classes=("x",), size=(9, 9))
    with pytest.raises(AktError, match="give --image-size"):
        read_image_folder(mixed, 3, progress=False)
    images, labels, names = read_image_folder(mixed, 3, image_size=4, progress=False)
    assert images.shape == (9, 3, 4, 4)
    assert names == ("cat", "dog", "more")
    assert labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    grey, _, _ = read_image_folder(mixed, 1, image_size=4, progress=False)
    assert grey.shape == (9, 1, 4, 4)
    (mixed / "cat" / "broken.png").write_bytes(b"no picture")
    with pytest.raises(AktError, match=r"broken\.png is not an image"):
        read_image_folder(mixed, 3, image_size=4, progress=False)
