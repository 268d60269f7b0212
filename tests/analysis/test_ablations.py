"""One thing changed at a time: what changes and what is compared with what."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from akt_lab.analysis import ablations
from akt_lab.errors import AktError, UsageError
from akt_lab.runs.folder import Run, find_runs
from akt_lab.runs.jobs import demo_settings
from akt_lab.runs.training import train
from akt_lab.settings import Settings, check_read


def test_one_thing_is_changed_and_it_is_read(tmp_path):
    jobs = ablations.jobs(tmp_path, 3, [0, 1])
    assert len({job.folder for job in jobs}) == 2 * len(ablations.CHANGES)
    for job, change in zip(jobs, 2 * list(ablations.CHANGES.values()), strict=True):
        base = asdict(demo_settings(change["method"], 3, job.settings.seed))
        differs = {k: v for k, v in asdict(job.settings).items() if base[k] != v}
        assert differs == {k: v for k, v in change.items() if k != "method"}
        assert len(differs) <= 1
        check_read([job.settings], change)


def test_gains_are_paired(tmp_path):
    accuracy = {"neither": 90.0, "both": 92.0, "temperature-4": 80.0, "temperature-4-neither": 85.0}
    for seed in (0, 1):
        for name, value in accuracy.items():
            folder = tmp_path / f"{name}-3-{seed}"
            folder.mkdir()
            record = {"status": "done", "settings": {"weight_bits": 3, "seed": seed}, "lam": None,
                      "accuracy": {"last": value + 5 * seed}}  # fmt: skip
            (folder / "record.json").write_text(json.dumps(record))
    runs = find_runs(tmp_path)
    gains = ablations.table(runs).groupby("change")["gain"].agg(["min", "max"])
    assert (gains["min"] == gains["max"]).all()  # the seed's 5 points cancel
    assert gains["max"].to_dict() == {
        "neither": 0, "both": 2, "temperature 4": -5, "temperature 4, neither": 0,
    }  # fmt: skip


def test_other_runs_are_no_ablations(tmp_path):
    run = Run.create(tmp_path / "adadfq-3-0")
    with pytest.raises(AktError, match="benchmarks/ablations"):
        ablations.table([run])


@pytest.mark.slow
def test_other_maps_are_distilled(digits, tmp_path):
    base = Settings(epochs=2, steps=2, batch_size=8, warmup_epochs=1, weight_bits=3, act_bits=3)
    changes = [{}, {"maps": "sum"}, {"maps": "relu"}, {"last_maps": 1}]
    spatial = []
    for number, change in enumerate(changes):
        run = Run.create(tmp_path / str(number))
        training = train(digits, replace(base, **change), run, progress=False)
        names = training.layers
        assert len(names) == (1 if change.get("last_maps") else len(names)) > 0
        features = run.history()[["student/spatial", "student/channel"]].dropna()
        assert len(features) == base.steps
        assert (features > 0).all(axis=None)
        spatial.append(features.iloc[0, 0])
    assert len(np.unique(spatial)) == len(changes)


def test_maps_of_hast_are_its_own():
    with pytest.raises(UsageError, match="hast\\+akt compares the maps of all bodies itself"):
        Settings(method="hast+akt", maps="sum")
    with pytest.raises(UsageError, match="last_maps must be 0"):
        Settings(last_maps=-1)
