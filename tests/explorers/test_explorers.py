"""The explorers: what they draw, by numbers and by image, and what they say when it cannot be."""

import datetime
import io
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from akt_lab.analysis.gradients import Case, make_student, study, synthetic_batches
from akt_lab.attention import attention_divergences
from akt_lab.benches import BenchSpec
from akt_lab.benches.images import decode_image
from akt_lab.errors import AktError, UsageError
from akt_lab.explorers import (
    attention,
    attention_explorer,
    generator,
    generator_explorer,
    gradient_explorer,
    gradients,
    quantizer_playground,
)
from akt_lab.explorers import images as sources
from akt_lab.explorers import quantizer as playground
from akt_lab.explorers.picture import KEPT
from akt_lab.explorers.students import OBSERVED, ROUNDED, Kept, Students, by_name
from akt_lab.graph import capture_bn_inputs, capture_maps, residual_bodies, trace
from akt_lab.losses import bns_loss
from akt_lab.quantizer import affine_parameters, fake_quantize
from akt_lab.runs.folder import CHECKPOINT, HISTORY, Run
from akt_lab.runs.jobs import Job, do
from akt_lab.runs.networks import load_generator
from akt_lab.settings import Settings

TINY = {"batch_size": 8, "epochs": 3, "steps": 3, "warmup_epochs": 1}


@pytest.fixture(scope="module")
def runs(digits, tmp_path_factory):
    """Watched runs: plain at 2 and 3 bits, AKT at 3."""
    folder, made = tmp_path_factory.mktemp("runs"), []
    for method, bits in (("adadfq", 2), ("adadfq", 3), ("adadfq+akt", 3)):
        settings = Settings(method=method, weight_bits=bits, act_bits=bits, **TINY)
        run = Run.create(folder / f"{method}-{bits}")
        do(Job(settings, BenchSpec(), run.folder, watch=True), run, digits, 99.0, progress=False)
        made.append(run)
    return made


@pytest.fixture(scope="module")
def norms(digits):
    images = synthetic_batches(digits, 3, 8)
    return study(digits, [Case(0, "ce"), Case(2, "ce"), Case(3, "kd")], images, progress=False)


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def screen(explorer):
    return re.search(r"base64,([^\"]+)", explorer.picture.value)[1]


@pytest.fixture(params=["quantizer", "attention", "gradients", "generator"])
def explorer(request, digits, runs):
    made = {
        "quantizer": lambda: quantizer_playground(digits),
        "attention": lambda: attention_explorer(runs, digits),
        "gradients": lambda: gradient_explorer(runs),
        "generator": lambda: generator_explorer(runs, digits),
    }
    plt.close("all")  # what other tests left open
    return made[request.param]()


# ---- all of them ---------------------------------------------------------------------------------


def test_an_import_says_nothing():
    words = [sys.executable, "-c", "import akt_lab.explorers"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")  # a notebook would show it


def test_each_control_has_a_label_and_changes_the_picture(explorer):
    silent = {"source", "file"}  # test_images_from_everywhere
    assert explorer.message.value == ""
    if "kind" in explorer.controls:
        explorer.controls["kind"].value = "activations"  # of a weight all batches are the same
    for name, control in explorer.controls.items():
        assert control.description
        assert control.tooltip
        if name in {"kind", *silent} or len(control.options) == 1:
            continue
        before, moved, first = screen(explorer), set(), control.index
        for index in range(min(4, len(control.options))):
            control.index = index
            assert explorer.message.value == ""
            moved.add(screen(explorer))
        assert len(moved | {before}) > 1, name
        control.index = first
    assert not plt.get_fignums()


def test_alt_text_and_reading_say_something(explorer):
    alt = re.search(r'alt="([^"]+)"', explorer.picture.value)[1]
    assert len(alt) > 60
    assert re.search(r"\d", alt)
    assert "<figcaption" in explorer.picture.value


def test_what_goes_wrong_is_said_and_the_picture_stays(explorer):
    before = screen(explorer)

    def broken(**_):
        raise ZeroDivisionError("by <nothing>")

    explorer.show = broken
    explorer.refresh()
    assert "ZeroDivisionError: by &lt;nothing&gt;" in explorer.message.value
    assert 'role="alert"' in explorer.message.value
    assert screen(explorer) == before


def test_a_complaint_is_taken_back_before_the_new_picture_comes(explorer):
    explorer.say("something went wrong")
    explorer.picture.value = ""
    seen = []
    explorer.picture.observe(lambda _: seen.append(explorer.message.value), "value")
    explorer.refresh()
    assert seen == [""]


def test_a_value_can_be_set_that_another_one_brings(digits):
    made = {bits: Students(digits, []).load(ROUNDED, bits) for bits in (2, 3, 5)}
    own = {"mine": {2: made[2], 3: made[3]}, "other": {5: made[5], 3: made[3]}}
    explorer = attention_explorer(bench=digits, students=own)
    show, drawn = explorer.show, []
    explorer.show = lambda **values: drawn.append(values) or show(**values)
    explorer.set(method="other", bits=5)
    assert [(values["method"], values["bits"]) for values in drawn] == [("other", 5)]
    explorer.controls["bits"].value = 3  # and each change is drawn again
    assert len(drawn) == 2


# ---- pictures ------------------------------------------------------------------------------------


def test_a_kept_frame_gives_the_picture_that_is_drawn_whole(digits):
    values = playground.layer_values(digits, "unit2.body.3", "weights")
    picture, drawn = playground.PICTURE, []
    for bits in (3, 2, 4):
        view = playground.look(values, bits, "ema", 10, 0.7, "clipped")
        figure = playground.draw(view)
        figure.canvas.draw()
        whole = np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(int)
        apart = np.abs(whole - pixels(picture.png(view)))
        assert (apart > 40).mean() < 0.01  # lines over ticks, where the frame's come first
        drawn.append(whole)
    assert (np.abs(drawn[0] - drawn[1]) > 40).mean() > 0.01  # and two views differ


def test_frames_are_drawn_once_and_few_are_kept(digits, monkeypatch):
    calls = []
    picture = playground.Picture(
        (2, 1), lambda figure, view: calls.append(view), lambda figure, view: [], key=lambda v: v
    )
    for view in (1, 1, 2, 1, 2):
        picture.png(view)
    assert calls == [1, 2]
    for view in range(20):
        picture.png(view)
    assert len(picture._frames) == KEPT


def test_half_a_filling_is_not_kept():
    def fill(figure, view):
        yield figure.text(0.5, 0.5, f"{len(figure.texts)} before")
        if view == "broken":
            raise ZeroDivisionError

    picture = playground.Picture((2, 1), lambda figure, view: None, fill, key=lambda view: 0)
    first = picture.png("whole")
    with pytest.raises(ZeroDivisionError):
        picture.png("broken")
    assert picture.png("whole") == first


# ---- 1: quantizer --------------------------------------------------------------------------------


def test_playground_without_such_a_layer(digits):
    for kind in ("weights", "activations"):
        with pytest.raises(UsageError, match=r"unknown layer 'unit2\.body\.9': did you mean"):
            playground.layer_values(digits, "unit2.body.9", kind)


def test_activations_are_what_flows_into_the_layer(digits):
    values = playground.layer_values(digits, "unit2.body.3", "activations")
    seen = []
    convolution = digits.teacher.get_submodule("unit2.body.3")
    handle = convolution.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    with torch.no_grad():
        for x in playground._batches(digits):
            digits.teacher(x)
    handle.remove()
    extremes = [max(float(x.max()) for x in seen[: n + 1]) for n in range(20)]
    assert values.ranges["minmax"][:, 1].tolist() == pytest.approx(extremes)
    assert float(values.rows.min()) >= 0


def test_playground_by_numbers(digits):
    values = playground.layer_values(digits, "unit2.body.3", "activations")
    view = playground.look(values, 3, "minmax", 20, 0.5, "identity")
    low, high = 0.5 * values.ranges["minmax"][-1]
    direct = fake_quantize(values.rows, *affine_parameters(low, high, 3), 3)
    assert np.array_equal(view.x_hat, direct.flatten().numpy())
    error = (direct - values.rows).square().mean() / values.rows.square().mean()
    assert view.error == pytest.approx(100 * error.item())
    assert view.errors[list(playground.CLIPS).index(0.5)] == pytest.approx(view.error)
    assert view.beyond == pytest.approx(100 * (values.rows > high).float().mean().item())
    assert 0 < view.used <= 3 < view.effective
    assert len(view.levels) == 8


def test_the_faulty_range_runs_away_and_live_ranges_cost_bits(digits):
    values = playground.layer_values(digits, "unit2.body.3", "activations")

    def at(rule, seen=20):
        return playground.look(values, 3, rule, seen, 1.0, "identity")

    assert at("ema_legacy").error > 10 * at("ema").error
    assert at("ema_legacy", 1).error == pytest.approx(at("ema", 1).error)
    assert at("per_channel_dynamic").error < at("ema").error
    assert at("per_channel_dynamic").effective > 3.1 > at("ema").effective
    assert 0 < at("per_channel_dynamic").used <= 3  # of each row's own grid


def test_where_the_gradient_gets_through(digits):
    values = playground.layer_values(digits, "unit2.body.3", "weights")
    open_, closed = (playground.look(values, 3, "ema", 1, 0.5, g) for g in ("identity", "clipped"))
    assert open_.passes == open_.span
    assert closed.passes[0] > closed.span[0]
    axis = torch.linspace(*closed.span, 4001, requires_grad=True)
    grid = affine_parameters(*0.5 * values.ranges["ema"][0], 3)
    fake_quantize(axis, *grid, 3, "clipped").sum().backward()
    through = axis.detach()[axis.grad == 1][[0, -1]].tolist()
    assert closed.passes == pytest.approx(through, abs=axis.diff()[0].item())


# ---- 2: attention --------------------------------------------------------------------------------


def test_attention_by_numbers(digits, runs):
    teacher, student = trace(digits.teacher), Students(digits, runs).load("adadfq", 2)
    layers, x = residual_bodies(teacher), digits.normalise(digits.images[:1])
    view = attention.look(digits, teacher, student, x, layers[1])
    maps = []
    for network in (student, teacher):
        with torch.no_grad(), capture_maps(network, layers) as found:
            network(x)
        maps.append(list(found.values()))
    one = attention_divergences([maps[0][1]], [maps[1][1]])
    assert view.divergences[:, 1] == pytest.approx([v.item() for v in one])
    assert np.linalg.norm(view.spatial, axis=(1, 2)) == pytest.approx([1, 1], abs=1e-5)
    assert view.channel.sum(axis=1) == pytest.approx([1, 1], abs=1e-5)
    assert view.most_different == view.divergences.sum(axis=0).argmax()
    assert view.says[0] == digits.classes[int(digits.teacher(x).argmax())]
    assert view.says[1] == digits.classes[int(student(x).argmax())]
    same = attention.look(digits, teacher, teacher, x, layers[1])
    assert np.abs(same.divergences).max() < 1e-6
    with pytest.raises(UsageError, match=r"unknown layer 'unit9'"):
        attention.look(digits, teacher, student, x, "unit9")


def test_a_jump_to_the_layer_that_disagrees_most(digits):
    explorer = attention_explorer(bench=digits)
    c = explorer.controls
    teacher, student = trace(digits.teacher), Students(digits, []).load(ROUNDED, 2)
    explorer.set(bits=2, layer=c["layer"].options[0])
    x = digits.normalise(digits.images[[int((digits.labels == 0).nonzero()[0])]])
    (jump,) = (w for row in explorer.children for w in getattr(row, "children", ())
               if w.description == "Most different layer")  # fmt: skip
    jump.click()
    worst = attention.look(digits, teacher, student, x, c["layer"].value).most_different
    assert c["layer"].options[worst] == c["layer"].value


def upload(data):
    when = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    return ({"name": "x", "type": "", "size": len(data), "content": memoryview(data),
             "last_modified": when},)  # fmt: skip


def test_images_from_everywhere(digits, runs):
    explorer = attention_explorer(runs, digits)
    c, seen = explorer.controls, {screen(explorer)}
    c["source"].value = sources.SYNTHETIC
    seen.add(screen(explorer))
    c["source"].value = sources.FILE
    assert "choose an image file" in explorer.message.value
    assert c["label"].disabled
    file = io.BytesIO()
    Image.effect_noise((40, 30), 90).save(file, "png")
    c["file"].value = upload(file.getvalue())
    assert explorer.message.value == ""
    seen.add(screen(explorer))
    assert len(seen) == 3
    c["file"].value = upload(b"no image at all")
    assert "not an image that can be read" in explorer.message.value


def test_an_image_is_upright():
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6  # a camera held on its side: shown turned by a quarter, clockwise
    side = Image.new("L", (40, 40))
    side.paste(255, (0, 0, 20, 40))  # its left comes to the top
    side.save(file, "jpeg", exif=exif)
    (image,) = decode_image(file.getvalue(), 1, 16).int()
    assert image[:6].min() > 200 > 50 > image[-6:].max()


def test_a_strip_is_no_image():
    for size in ((1, 100_000), (100_000, 1)):
        file = io.BytesIO()
        Image.new("L", size).save(file, "png")
        with pytest.raises(AktError, match="not an image that can be read"):
            decode_image(file.getvalue(), 3, 224)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_broken_image_is_told_in_a_sentence():
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112], exif[0x010F] = 6, "maker"
    Image.effect_noise((40, 30), 90).save(file, "jpeg", exif=exif)
    data = file.getvalue()
    for place in range(data.index(b"Exif"), data.index(b"maker")):
        with suppress(AktError):
            decode_image(data[:place] + b"\0" + data[place + 1 :], 1, 16)


def test_students_of_one_s_own(digits):
    own = {2: Students(digits, []).load(ROUNDED, 2), 8: Students(digits, []).load(ROUNDED, 8)}
    explorer = attention_explorer(bench=digits, students={"mine": own})
    assert explorer.controls["method"].options == ("mine",)
    assert explorer.controls["epoch"].disabled  # there is only the end
    assert explorer.controls["bits"].options == (2, 8)
    assert explorer.message.value == ""


def test_without_a_run_there_are_no_synthetic_images(digits):
    explorer = attention_explorer(bench=digits)
    assert explorer.controls["source"].options == (sources.BENCH, sources.FILE)


def test_a_run_that_was_deleted(digits, runs, tmp_path):
    moved = Run(shutil.copytree(runs[0].folder, tmp_path / "gone"))
    pair = [runs[2], moved]
    for make in (attention_explorer, generator_explorer):
        explorer = make(pair, digits)
        shutil.rmtree(moved.folder, ignore_errors=True)
        name = "method" if make is attention_explorer else "run"
        explorer.controls[name].value = "adadfq"
        assert f"{moved.folder} is no longer there" in explorer.message.value
        shutil.copytree(runs[0].folder, moved.folder)


def test_runs_of_two_benches_are_not_mixed(digits, runs, tmp_path):
    other = Run(shutil.copytree(runs[1].folder, tmp_path / "other"))
    other.update_record(bench={**other.entry("bench"), "bench": "cifar10"})
    for make in (attention_explorer, generator_explorer):
        with pytest.raises(AktError, match="different benches"):
            make([runs[0], other], digits)


def test_runs_on_ready_images_have_no_generator(digits, runs, tmp_path):
    pooled = Run(shutil.copytree(runs[0].folder, tmp_path / "pooled"))
    pooled.update_record(settings={**pooled.entry("settings"), "method": "zeroq"})
    offered = attention_explorer([pooled], digits).controls["source"].options
    assert offered == (sources.BENCH, sources.FILE)
    with pytest.raises(AktError, match="akt-lab demo"):
        generator_explorer([pooled], digits)


def test_a_run_that_went_on_is_loaded_anew(digits, runs, tmp_path):
    run = Run(shutil.copytree(runs[0].folder, tmp_path / "run"))
    students = Students(digits, [run])
    first = students.load("adadfq", 2)
    assert students.load("adadfq", 2) is first
    run.update_record(status="running")
    second = students.load("adadfq", 2)
    assert second is not first
    touch(run / CHECKPOINT)  # the record is written before the networks
    assert students.load("adadfq", 2) is not second


def touch(path):
    """As if it was written a minute from now."""
    later = path.stat().st_mtime_ns + 60 * 10**9
    os.utime(path, ns=(later, later))


def test_a_generator_that_went_on_is_loaded_anew_and_one_that_was_deleted_is_missed(
    digits, runs, tmp_path
):
    run = Run(shutil.copytree(runs[0].folder, tmp_path / "run"))
    explorer = attention_explorer([run], digits)
    explorer.controls["source"].value = sources.SYNTHETIC
    before = screen(explorer)
    shutil.copy(runs[2] / CHECKPOINT, run / CHECKPOINT)
    touch(run / CHECKPOINT)
    explorer.refresh()
    assert explorer.message.value == ""
    assert screen(explorer) != before
    shutil.rmtree(run.folder)
    explorer.set(method=ROUNDED)
    assert f"the run {run.folder} is no longer there" in explorer.message.value


def test_few_networks_are_kept(runs):
    loaded = []
    kept = Kept(lambda run, epoch: loaded.append(epoch) or object())
    for epoch in ("end", *range(12), 11):
        kept(runs[0], epoch)
    assert loaded == [None, *range(12)]
    kept(runs[0])
    assert loaded[-1] is None


def test_ranges_of_a_rounded_student_are_those_of_many_batches(digits):
    chosen = torch.linspace(0, len(digits.images) - 1, OBSERVED).long()
    images = digits.normalise(digits.images[chosen])
    many = make_student(digits.teacher, Case(3), [(images, images)]).state_dict()
    once = Students(digits, []).load(ROUNDED, 3).state_dict()
    changed = {name.rpartition(".")[2] for name in many if not many[name].equal(once[name])}
    assert changed == {"updates"}


def test_students_by_name(runs):
    named = by_name([*runs, runs[0]])
    assert set(named) == {"adadfq", "adadfq+akt paper", "adadfq-2"}
    assert set(named["adadfq"]) == {2, 3}


# ---- 3: gradients --------------------------------------------------------------------------------


def test_norms_of_a_watched_run(runs):
    found = {(n.name, n.bits): n for n in gradients.of_runs(runs)}
    history, one = runs[0].history(), found["adadfq", 2]
    assert one.first == 3  # after the warm-up
    assert one.values.shape == (len(one.layers), 6)
    column = history[f"gradient/{one.layers[2]}.weight"].dropna()
    assert one.of(one.layers[2]) == pytest.approx(column.to_numpy())
    assert (one.of(gradients.ALL) <= history["student/gradient_norm"].dropna() * 1.0001).all()


def test_norms_of_a_study(norms):
    found = {(n.name, n.bits): n for n in gradients.of_study(norms)}
    assert set(found) == {("ce", 0), ("ce", 2), ("kd", 3)}
    rows = norms[(norms["bits"] == 2) & (norms["step"] == 1)]
    assert found["ce", 2].values[:, 1] == pytest.approx(rows["norm"].to_numpy())


def test_cases_that_differ_in_what_the_ranges_observed_are_two(norms):
    two = norms[norms["bits"] == 2]
    more = two.assign(observed=20, norm=2 * two["norm"])
    legacy = two.assign(ranges="ema_legacy", norm=3 * two["norm"])
    found = {n.name: n.values for n in gradients.of_study(pd.concat([two, more, legacy]))}
    assert set(found) == {"ce", "ce, ema 20", "ce, ema_legacy 10"}
    assert found["ce, ema 20"] == pytest.approx(2 * found["ce"])
    assert found["ce, ema_legacy 10"] == pytest.approx(3 * found["ce"])


def test_a_run_that_broke_off_is_shown_as_one(runs, tmp_path):
    broken = Run(shutil.copytree(runs[0].folder, tmp_path / "broken"))
    lines = (broken / HISTORY).read_text().splitlines()
    last = json.loads(lines[-1])
    last |= {name: float("nan") for name in last if name.startswith("gradient/")}
    (broken / HISTORY).write_text("\n".join([*lines[:-1], json.dumps(last), '{"epo']))
    (found,) = gradients.of_runs([broken])
    assert found.values.shape[1] == 6
    assert np.isnan(found.values[:, -1]).all()
    view = gradients.View((found, found), gradients.ALL, 8, gradients.limits([found]), (3, 8))
    assert "not finite" in gradients.show(view).alt
    crosses = [line for line in gradients.draw(view).axes[2].lines if line.get_marker() == "X"]
    assert [line.get_xdata()[0] for line in crosses] == [8, 8]


def test_nothing_finite_at_all_and_a_long_run(norms):
    calm = gradients.of_study(norms)[1]
    nothing = replace(calm, values=np.full_like(calm.values, np.nan))
    view = gradients.View((nothing, nothing), gradients.ALL, 0, gradients.limits([nothing]), (0, 2))
    assert "not finite" in gradients.show(view).alt
    values = np.ones((3, 5000))
    values[1, 4321] = 99
    thin = gradients._thinned(values)
    assert thin.shape == (3, 385)
    assert thin[1].max() == 99


def test_a_gradient_that_is_zero_at_most_steps_is_finite(norms):
    calm = gradients.of_study(norms)[1]
    values = np.zeros((len(calm.layers), 5))
    values[:, 3] = 1.0
    rare = replace(calm, values=values)
    view = gradients.View((rare, rare), gradients.ALL, 0, gradients.limits([rare]), (0, 4))
    alt = gradients.show(view).alt
    assert "Left, ce, 2 bits: zero at most steps, largest at step 3. Right" in alt
    assert "not finite" not in alt


def test_an_explosion_is_marked(norms):
    calm = gradients.of_study(norms)[1]
    values = np.tile(calm.values[:, :1], 12)
    values[:, 7] *= 30
    wild = replace(calm, name="wild", values=values)
    pair = (wild, replace(wild, values=np.tile(calm.values[:, :1], 12)))
    view = gradients.View(pair, gradients.ALL, 3, gradients.limits(pair), (0, 11))
    first, second = view.bursts()
    assert (first.exploded, first.step, round(first.ratio)) == (True, 7, 30)
    assert not second.exploded
    lines = gradients.draw(view).axes[2].lines
    assert [line.get_xdata()[0] for line in lines if line.get_marker() == "X"] == [7]
    assert "an explosion" in gradients.show(view).alt


def test_a_broken_off_run_can_be_scrubbed_past_its_end(norms):
    whole = gradients.of_study(norms)[1]
    short = replace(whole, values=whole.values[:, :1])
    view = gradients.View(
        (whole, short), gradients.ALL, 2, gradients.limits([whole, short]), (0, 2)
    )
    at = [line.get_ydata() for line in gradients.draw(view).axes[3].lines]
    assert np.isfinite(at[0]).all()
    assert np.isnan(at[1]).all()


def test_gradient_explorer_without_norms(digits, tmp_path):
    with pytest.raises(AktError, match="--watch"):
        gradient_explorer([])


def test_gradient_explorer_from_a_study(norms):
    explorer = gradient_explorer(table=norms)
    assert explorer.message.value == ""
    assert [label for label, _ in explorer.controls["left_bits"].options] == [
        "2 bits", "full",
    ]  # fmt: skip


# ---- 4: generator --------------------------------------------------------------------------------


def test_generator_by_numbers(digits, runs):
    network = load_generator(runs[0], digits)
    real = generator.real_mismatch(digits, 3)
    view = generator.look(digits, network, 3, 5, real)
    z = torch.randn(10, network.latent, generator=torch.Generator().manual_seed(5))
    with torch.no_grad(), capture_bn_inputs(digits.teacher) as statistics:
        t = digits.teacher(network(z, torch.full((10,), 3)))
    assert view.confidence == pytest.approx(t.softmax(1)[:, 3].numpy(), abs=1e-5)
    assert view.mismatch.mean() == pytest.approx(bns_loss(statistics).item(), rel=1e-4)
    assert real.mean() < view.mismatch.mean()  # after nine steps nothing is learned yet
    assert view.images.shape == (10, 16, 16)


def test_generator_needs_a_run(digits):
    with pytest.raises(AktError, match="akt-lab demo"):
        generator_explorer([], digits)
