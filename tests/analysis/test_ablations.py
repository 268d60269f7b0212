"""One thing changed at a time: what changes and what is compared with what."""

from dataclasses import replace

import numpy as np
import pytest

from akt_lab.analysis import ablations
from akt_lab.errors import AktError
from akt_lab.runs.folder import Run
from akt_lab.runs.jobs import demo_settings
from akt_lab.runs.training import train
from akt_lab.settings import Settings, check_read
from tests.conftest import fake_run


def test_one_thing_is_changed_and_it_is_read(tmp_path):
    jobs = ablations.jobs(tmp_path, 3, [0, 1])
    assert len({job.folder for job in jobs}) == 2 * len(ablations.CHANGES)
    for job, change in zip(jobs, 2 * list(ablations.CHANGES.values()), strict=True):
        base = demo_settings(change["method"], 3, job.settings.seed).to_dict()
        differs = {k: v for k, v in job.settings.to_dict().items() if base[k] != v}
        assert differs == {k: v for k, v in change.items() if k != "method"}
        assert len(differs) <= 1
        check_read([job.settings], change)


def ablation(folder, change, seed, last, **others):
    settings = {**ablations.CHANGES[change], "seed": seed, **others}
    name = f"{ablations._slug(change)}-3-{seed}"
    return fake_run(folder / name, last=last, **settings)


def test_gains_are_paired(tmp_path):
    accuracy = {"neither": 90, "both": 92, "temperature 4": 80, "temperature 4, neither": 85}
    runs = [ablation(tmp_path, c, s, v + 5 * s) for s in (0, 1) for c, v in accuracy.items()]
    runs.append(ablation(tmp_path / "copy", "both", 1, 97))  # of one that is there
    found = ablations.table(runs)
    assert len(found) == 8
    gains = found.groupby("change")["gain"].agg(["min", "max"])
    assert (gains["min"] == gains["max"]).all()  # the seed's 5 points cancel
    assert gains["max"].to_dict() == {
        "neither": 0, "both": 2, "temperature 4": -5, "temperature 4, neither": 0,
    }  # fmt: skip
    alone = ablations.table([ablation(tmp_path / "alone", "both", 0, 92)])
    assert np.isnan(alone["gain"].item())


@pytest.mark.parametrize(
    ("others", "words"),
    [
        ({"steps": 70}, "differ in more .*steps: 50, and 70 of"),
        ({"act_bits": 8}, "differ in more .*act_bits: 3, and 8"),
        ({"weight_bits": 4, "act_bits": 4}, "differ in more .*weight_bits: 3, and 4"),
        ({"alpha": 0.75}, "is named for 'both', but its alpha is 0.75, not 0.5"),
        ({"lam": 2.0}, "is named for 'both', but its lam is 2.0, not None"),
        ({"method": "gdfq+akt"}, "is named for 'both', but its method is gdfq"),
        ({"bench": {"bench": "cifar10"}}, "several benches"),
    ],
)
def test_other_things_changed_are_no_seeds(tmp_path, others, words):
    runs = [ablation(tmp_path, "neither", 0, 90), ablation(tmp_path, "both", 0, 92, **others)]
    with pytest.raises(AktError, match=words):
        ablations.table(runs)


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
