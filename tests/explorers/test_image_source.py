"""Where an explorer's image comes from."""

import datetime
import io
import shutil

from PIL import Image

from akt_lab.explorers import attention_explorer
from akt_lab.explorers.image_source import BENCH, FILE, SYNTHETIC
from akt_lab.explorers.students import ROUNDED
from akt_lab.files import load_tensors, save_tensors
from akt_lab.runs.folder import CHECKPOINT, Run
from tests.explorers.conftest import screen, touch


def upload(data):
    when = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    return ({"name": "x", "type": "", "size": len(data), "content": memoryview(data),
             "last_modified": when},)  # fmt: skip


def test_images_from_everywhere(digits, runs):
    explorer = attention_explorer(runs, digits)
    c, seen = explorer.controls, {screen(explorer)}
    c["source"].value = SYNTHETIC
    seen.add(screen(explorer))
    c["source"].value = FILE
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


def test_without_a_run_there_are_no_synthetic_images(digits):
    explorer = attention_explorer(bench=digits)
    assert explorer.controls["source"].options == (BENCH, FILE)


def test_a_generator_that_went_on_is_loaded_anew_and_one_that_was_deleted_is_missed(
    digits, runs, tmp_path
):
    run = Run(shutil.copytree(runs[0].folder, tmp_path / "run"))
    explorer = attention_explorer([run], digits)
    explorer.controls["source"].value = SYNTHETIC
    before = screen(explorer)
    tensors, state = load_tensors(run / CHECKPOINT)
    tensors = {name: -x if name.startswith("generator.") else x for name, x in tensors.items()}
    save_tensors(run / CHECKPOINT, tensors, state)
    touch(run / CHECKPOINT)
    explorer.refresh()
    assert explorer.message.value == ""
    assert screen(explorer) != before
    shutil.rmtree(run.folder)
    explorer.set(method=ROUNDED)
    assert f"the run {run.folder} is no longer there" in explorer.message.value
