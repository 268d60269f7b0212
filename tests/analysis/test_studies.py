import math

import numpy as np
import pytest
import torch

from akt_lab.analysis import gradients, kept, studies
from akt_lab.attention import attention_divergences
from akt_lab.benches import BenchSpec
from akt_lab.equalize import equalize
from akt_lab.errors import AktError, DamagedError
from akt_lab.files import save_tensors
from akt_lab.graph import capture_maps, residual_bodies, trace
from akt_lab.image_pool import ImagePool
from akt_lab.quantizer import freeze_ranges, quantize_model
from akt_lab.runs.folder import Run
from akt_lab.runs.jobs import Job
from akt_lab.runs.sweep import run_grid
from akt_lab.settings import Settings
from tests.analysis.conftest import SHORT
from tests.conftest import fake_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory, digits):
    """Real runs, of a step or two."""
    folder = tmp_path_factory.mktemp("runs")
    wished = {
        "plain": {"method": "adadfq", "weight_bits": 2, "act_bits": 2},
        "akt": {},
        "code": {"variant": "code"},
        "wide": {"method": "adadfq", "act_bits": 8, "first_bits": 8},
        "live": {"method": "granq"},
        "equal": {"method": "gdfq", "equalize": True},
        "ptq": {"method": "ptq"},
        "pool": {"method": "zeroq", "pool": 25, "pool_steps": 2},
    }
    jobs = [
        Job(Settings(**SHORT | changes), BenchSpec(), folder / name)
        for name, changes in wished.items()
    ]
    found = run_grid(jobs, workers=0, progress=False)
    assert all(run.record["status"] == "done" for run in found)
    return dict(zip(wished, found, strict=True))


@pytest.fixture
def small(monkeypatch):
    less = {"STEPS": 4, "SHOWN": 20, "COST_BITS": (3,), "PROBES": 2, "POINTS": 3}
    for name, value in less.items():
        monkeypatch.setattr(studies, name, value)
    monkeypatch.setattr(gradients, "DRAWN_AFTER", 2)


# ---- what is kept -------------------------------------------------------------------------------


def test_before_training_a_student_is_rounded_as_its_run_does(runs, digits, small):
    chosen = [runs[name] for name in ("akt", "wide", "live", "equal")]
    found = studies.attention(chosen, progress=False)
    layers = residual_bodies(trace(digits.teacher))
    x, images = digits.normalise(digits.images[:20]), studies.synthetic(chosen, digits)

    def maps(network):
        with torch.inference_mode(), capture_maps(network, layers) as captured:
            network(x)
        return captured

    for method, how in {
        "gdfq": {},
        "adadfq+akt": {},
        "adadfq": {"act_bits": 8, "first_bits": 8},
        "granq": {"ranges": "per_channel_dynamic"},
    }.items():
        teacher = equalize(digits.teacher) if method == "gdfq" else trace(digits.teacher)
        seen, student = maps(teacher), quantize_model(teacher, 3, **{"act_bits": 3, **how})
        if method != "granq":
            for batch, _ in images:
                student(batch)
            freeze_ranges(student)
        rows = found[(found["method"] == method) & ~found["trained"]].set_index("layer")
        for layer, own in maps(student).items():
            spatial, channel = attention_divergences([own], [seen[layer]])
            assert rows.loc[layer, "spatial"] == pytest.approx(spatial.item(), rel=1e-5)
            assert rows.loc[layer, "channel"] == pytest.approx(channel.item(), rel=1e-5)


def test_runs_that_come_later_enter(runs, small, monkeypatch):
    first, later = [runs["plain"], runs["akt"]], [runs["plain"], runs["akt"], runs["code"]]
    assert set(studies.attention(first)["method"]) == {"adadfq", "adadfq+akt"}
    assert set(studies.surface(first)["network"]) == {"teacher", "adadfq+akt, 3 bits"}
    costs = studies.error_cost(first)
    assert set(studies.attention(later)["method"]) == {"adadfq", "adadfq+akt", "adadfq+akt code"}
    assert "adadfq+akt code, 3 bits" in set(studies.surface(later)["network"])
    with monkeypatch.context() as patch:
        patch.setattr(kept, "load_bench", None)  # a second making would fail
        assert studies.error_cost(later).equals(costs)  # of the bench alone
        studies.attention(later), studies.surface(later)
    monkeypatch.setattr(studies, "COST_BITS", (3, 8))
    monkeypatch.setattr(studies, "COST_SEEDS", (0, 4))
    fewer = studies.error_cost(later)
    assert set(fewer["bits"]) == {3, 8}
    of_seed = fewer.pivot_table(index=["layer", "bits", "part"], columns="seed", values="cost")
    assert (of_seed[0] != of_seed[4]).all()


def test_attention_needs_a_student_that_was_trained_to_its_end(tmp_path):
    half = fake_run(tmp_path / "half", status="running")
    rounded = fake_run(tmp_path / "ptq", method="ptq")
    with pytest.raises(AktError, match="needs a run that trained a student to its end"):
        studies.attention([half, rounded])
    assert not (tmp_path / "studies").exists()  # so that it is made once there is one


def test_a_study_refuses_several_benches_before_it_begins(tmp_path):
    runs = [fake_run(tmp_path / b, bench={"bench": b}) for b in ("digits", "cifar10")]
    for study in (studies.attention, studies.gradients, studies.error_cost, studies.surface):
        with pytest.raises(AktError, match="several benches"):
            study(runs)


# ---- a run as it trained ------------------------------------------------------------------------


def test_training_is_every_step_of_every_student(runs):
    found = studies.training(list(runs.values()))
    steps = found.groupby(["label", "bits"])["step"].agg(list)
    assert set(steps.index.get_level_values(0)) == {
        "adadfq", "adadfq+akt", "adadfq+akt code", "gdfq", "granq"
    }  # fmt: skip
    assert all(each in ([1, 2], [1, 2, 1, 2]) for each in steps)
    assert (found["loss_above_floor"] > -1e-3).all()  # a floor is a floor
    assert (found["gradient_norm"] > 0).all()
    assert found.groupby("label")["variant"].first().to_dict()["adadfq+akt code"] == "code"
    with pytest.raises(AktError, match="`ptq` alone does not"):
        studies.training([runs["ptq"], runs["pool"]])


def test_a_step_that_is_not_finite_is_not_left_out(tmp_path):
    run = fake_run(tmp_path / "burst", status="failed")
    rows = [{"epoch": 1, "step": 49, "generator/bns": 1.0}]
    rows += [
        {"epoch": 2, "step": n, "student/difference_entropy": -900.0, "student/gradient_norm": norm}
        for n, norm in enumerate((1.0, 2.0, math.nan))
    ]
    run.append_history(rows)
    found = studies.training([run])
    assert found["step"].tolist() == [1, 2, 3]
    assert found["loss_above_floor"].tolist() == pytest.approx([400 * math.log(10) - 900] * 3)
    assert gradients.explosion(found["gradient_norm"]).step == 2


# ---- one run's student and images ---------------------------------------------------------------


def test_teacher_and_student_side_by_side(runs):
    found = studies.side_by_side([runs["ptq"], runs["plain"], runs["akt"], runs["code"]])
    assert "of digits, adadfq+akt, 3 bits, seed 0, after training" in found.title
    assert list(found.labels) == ["0", "1", "2", "3"]
    assert found.images.shape == (4, 16, 16)
    assert 0 <= found.images.min() < found.images.max() <= 1
    for spatial, channel in zip(found.spatial, found.channel, strict=True):
        assert (spatial**2).sum(axis=(1, 2)) == pytest.approx(1, abs=1e-5)  # of unit length
        assert channel.sum(axis=1) == pytest.approx(1, abs=1e-5)
    assert (np.array(found.divergences) > 0).all()
    assert np.shape(found.divergences) == (4, 2)


def test_an_unfinished_run_is_called_so(runs, tmp_path):
    folder = tmp_path / "half"
    Run.create(folder)
    for file in runs["akt"].folder.iterdir():
        if file.name != "student.safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    run = Run(folder)
    run.update_record(status="running")
    assert studies.side_by_side([run]).title.endswith("at the checkpoint of epoch 2")
    assert studies.side_by_side([run, runs["akt"]]).title.endswith("after training")
    with pytest.raises(AktError, match="no runs"):
        studies.side_by_side([])


def test_images_stand_in_the_row_of_their_class(runs):
    found = studies.synthetic_images([runs["akt"]])
    assert found.images.shape == (10, 10, 16, 16)
    assert found.confidence.shape == (10, 10)
    assert ((found.confidence >= 0) & (found.confidence <= 1)).all()
    assert list(found.classes) == list("0123456789")
    assert found.title == "Synthetic images for digits: adadfq+akt, 3 bits, seed 0"
    assert studies.synthetic_images([runs["pool"]]).images.shape == (10, 2, 16, 16)  # of 25
    labels = torch.tensor([2, 0, 1, 0, 2, 1, 0])
    images = labels.view(-1, 1, 1, 1).expand(-1, 1, 4, 4).float()
    shown, y = studies._of_classes(ImagePool(images, labels, augment=False), 3, 10)
    assert y.tolist() == [0, 0, 1, 1, 2, 2]  # as many as the rarest class has
    assert (shown[:, 0, 0, 0] == y).all()
    real = fake_run(runs["akt"].folder.parent / "real", method="real+akt")
    assert studies.synthetic_images([real, runs["akt"]]).title == found.title
    with pytest.raises(AktError, match="these train on real ones"):
        studies.synthetic_images([real])
    with pytest.raises(AktError, match="no image of some class"):
        studies._of_classes(ImagePool(images, labels, augment=False), 4, 10)


def test_damaged_images_of_a_study_are_refused_by_name(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(
        studies, "synthetic_batches", lambda *_, **__: [(torch.ones(2, 1, 4, 4),) * 2]
    )
    runs = [fake_run(tmp_path / "a")]
    ((x, _),) = studies.synthetic(runs, digits)
    assert x.equal(torch.ones(2, 1, 4, 4))
    (path,) = (tmp_path / "studies").glob("images-*")
    path.write_bytes(path.read_bytes()[:-1] + b"9")
    with pytest.raises(DamagedError, match=r"images-0.* is damaged .*: delete it, and it is made"):
        studies.synthetic(runs, digits)
    save_tensors(path, {"x": x}, {})
    with pytest.raises(DamagedError, match="it holds no images"):
        studies.synthetic(runs, digits)


def test_steps_keep_their_numbers_where_a_history_begins_late(tmp_path):
    rows = [{"epoch": n // 50, "step": n % 50, "student/kd": 1.0, "student/gradient_norm": 1.0}
            for n in range(130, 160)]  # fmt: skip
    run = fake_run(tmp_path / "a", history=rows)
    assert studies.training([run])["step"].tolist() == list(range(31, 61))  # after the warm-up
