from dataclasses import replace

import pytest
import torch

from akt_lab.errors import AktError
from akt_lab.runs import found, training
from akt_lab.runs.networks import look
from akt_lab.settings import Settings


def test_bench_and_networks_in_five_lines(digits):
    settings = Settings(weight_bits=4, act_bits=4)
    networks = look(digits, settings)
    lines = found.about(digits, 98.7654) + found.about_networks(networks, settings)
    assert lines == [
        "teacher   digits, right on 98.77% of 540 images",
        f"images    16 x 16 in grey, mean {digits.mean[0]:.4g}, std {digits.std[0]:.4g}",
        "classes   10: 0 0, 1 1, 2 2, …, 9 9",
        f"networks  10 layers and {len(networks.activations)} activations quantized, 4w4a; "
        "batch norms matched: 9 of 9",
        "maps      3 distilled: unit1.body.4, unit2.body.4, unit3.body.4",
    ]
    assert found.in_float("digits", networks) == []
    equalized = replace(settings, equalize=True)
    first, _ = found.about_networks(look(digits, equalized), equalized)
    assert first.endswith("batch norms matched: 9 of 9; channels of 6 streams equalized")
    plain = Settings(method="gdfq")
    assert found.about_networks(look(digits, plain), plain)[1] == "maps      none distilled by gdfq"


def test_real_images_are_told_and_read_at_once(digits):
    real = Settings(method="real")
    told = ["training  1257 real images: a ceiling, not zero-shot"]
    assert found.about_training(digits, real) == told
    assert found.about_training(digits, Settings()) == []
    without = replace(digits, read_training=None)
    found.check_sizes(without, Settings())
    with pytest.raises(AktError, match="give --train-data DIR"):
        found.check_sizes(without, real)


def test_what_is_not_quantized(digits):
    networks = look(digits, Settings())
    odd = ["a.weight", "b"], ["mul into c", "mul into d", "add into e", "mul into f"]
    assert found.in_float("mine", changed(networks, *odd)) == [
        "mine: stays in float: a.weight, b",
        "mine: 4 reach a layer unrounded: mul into c, mul into d, add into e, …",
    ]


def changed(networks, weights, activations):
    return replace(networks, float_weights=weights, float_activations=activations)


def with_teacher(digits, change):
    """The digits bench, its teacher's logits changed."""

    class Changed(torch.nn.Module):
        def forward(self, x):
            return change(digits.teacher(x))

    return replace(digits, teacher=Changed().eval())


def test_a_teacher_that_guesses_is_told(digits, capsys):
    cases = {
        "those of guessing among 10": lambda logits: logits.roll(1, 1),
        "logits are the same for every image": lambda logits: logits * 0 + torch.arange(10.0),
    }
    for words, change in cases.items():
        bench = with_teacher(digits, change)
        training.judge(bench, progress=True)
        (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("digits: ")]
        assert words in line
        for cause in ("order of classes", "--mean and --std", "--image-size"):
            assert cause in line
    assert training.judge(digits, progress=True) == training.evaluate(digits.teacher, digits)
    assert "digits: " not in capsys.readouterr().err


def test_a_teacher_that_ends_in_a_sigmoid_is_told(digits, capsys):
    training.judge(with_teacher(digits, lambda logits: logits.sigmoid()), progress=True)
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("digits: ")]
    assert "all logits lie between 0 and 1" in line


def test_nan_in_whichever_batch(digits):
    def late(logits):
        return logits if len(logits) == digits.batch_size else logits * torch.nan

    with pytest.raises(AktError, match="logits are not finite"):
        training.judge(with_teacher(digits, late))


def test_sizes_that_no_memory_holds(digits, monkeypatch):
    found.check_sizes(digits, Settings(batch_size=10**6 // 100))
    assert 1e8 < found._memory(torch.device("cpu")) < 1e16
    monkeypatch.setattr(found, "_memory", lambda device: 1e9)
    words = r"1000000 a step.* 3 GB at least, and cpu has 1 GB: choose a smaller --batch-size"
    with pytest.raises(AktError, match=words):
        found.check_sizes(digits, Settings(batch_size=10**6))
    with pytest.raises(AktError, match=r"smaller .*--pool"):
        found.check_sizes(digits, Settings(method="hast", pool=10**6))
    small = replace(digits, images=digits.images[..., :4, :4])
    with pytest.raises(AktError, match=r"one image of 4 x 4 a step is too little: --batch-size 2"):
        found.check_sizes(small, Settings(batch_size=1))
