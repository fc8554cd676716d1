"""`--views auto`: what is asked of short runs, which views are taken, and what of it survives a stop."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import mec
from mec.cli.main import main
from mec.errors import BadInput, TrainingStopped
from mec.recipes.recipe import changed
from mec.recipes.table import RECIPES
from mec.training import fitting
from mec.training.fitting import FAMILIES, Answers, candidates, in_small, with_fitting_views
from mec.training.options import Options

DIGITS = RECIPES["digits"]


@pytest.fixture(scope="module")
def digits():
    return mec.open_data("digits")


def said(*_: object) -> None: ...


def test_candidates_begin_with_the_recipes_own_and_take_one_of_each_family():
    own = DIGITS.views[0]
    found = candidates(own, 40, seed=0)
    assert found[0] == own
    assert found == candidates(own, 40, seed=0) != candidates(own, 40, seed=1)
    for family in FAMILIES:
        taken = {json.dumps({k: getattr(view, k) for k in family[0]}) for view in found[1:]}
        assert len(taken) == len({json.dumps(values) for values in family})


def fakes(monkeypatch, joint, turns):
    """Short runs that take no time, and what is said of each by its number."""

    def answers(run, images, common):
        return SimpleNamespace(joint=joint[int(run.name)], turns=turns[int(run.name)])

    trained = []

    def train(data, **about):
        assert data.train.labels is None
        trained.append((data, about))
        return about["out"]

    monkeypatch.setattr(fitting, "Answers", answers)
    return train, trained


def test_the_views_that_most_speaks_for_are_taken(monkeypatch, digits, tmp_path):
    train, trained = fakes(monkeypatch, joint=[2, 5, 4, 1], turns=[3, 1, 4, 2])
    recipe, options, _ = with_fitting_views(DIGITS, digits, Options(), train, tmp_path / "run", said, settings=4)
    expected = candidates(trained[0][1]["recipe"].views[0], 4, 0)[2]
    assert replace(recipe.views[0], blur_sigma=expected.blur_sigma) == replace(expected, size=16, copies=2)
    assert recipe == replace(DIGITS, views=recipe.views)
    assert options == Options()
    assert len(trained) == 4
    told = json.loads((tmp_path / "run-views/views.json").read_text())
    assert told["chosen"] == 2
    assert [one["ranks"] for one in told["tried"]] == [[2, 3], [4, 1], [3, 4], [1, 2]]


def test_what_is_told_gives_the_same_views_by_set(monkeypatch, digits, tmp_path):
    train, _ = fakes(monkeypatch, joint=[1, 2, 3], turns=[1, 2, 3])
    recipe, _, why = with_fitting_views(DIGITS, digits, Options(), train, tmp_path / "run", said, settings=3)
    assert changed(DIGITS, why[0].partition("--set ")[2].split()) == recipe


def test_where_nothing_speaks_for_others_the_recipes_own_stay(monkeypatch, digits, tmp_path):
    train, _ = fakes(monkeypatch, joint=[1, 1, 1], turns=[1, 1, 1])
    recipe, _, why = with_fitting_views(DIGITS, digits, Options(), train, tmp_path / "run", said, settings=3)
    assert recipe == DIGITS
    assert "those of the recipe" in why[0]


def test_at_most_half_of_a_time_budget_goes_into_it(monkeypatch, digits, tmp_path):
    train, trained = fakes(monkeypatch, joint=range(12), turns=range(12))
    now = iter(range(0, 10_000, 60))  # a minute between two looks at the clock
    monkeypatch.setattr(fitting.time, "monotonic", lambda: next(now))
    options = Options(time_budget=9.0)
    _, left, why = with_fitting_views(DIGITS, digits, options, train, tmp_path / "run", said)
    assert len(trained) == 4
    assert left == replace(options, time_budget=9.0 - 6)
    assert "3.0 minutes of the time budget are left" in why[1]


@pytest.mark.parametrize(
    ("recipe", "count", "words"),
    [(DIGITS, 99, "99 images"), (RECIPES["imagenet-100ep"], 200, "2 kinds of views"), (DIGITS, None, "0 images")],
)
def test_what_it_cannot_look_at_is_refused(digits, tmp_path, recipe, count, words):
    images = None if count is None else replace(digits, train=digits.train.take(np.arange(count)))
    with pytest.raises(BadInput, match=words):
        with_fitting_views(recipe, images, Options(), said, tmp_path / "run", said)
    assert not (tmp_path / "run-views").exists()


def test_a_stop_says_how_to_go_on(digits, tmp_path):
    def stopped(data, **about):
        raise TrainingStopped("stopped at step 3")

    with pytest.raises(TrainingStopped, match=r"stopped at step 3.*the same command"):
        with_fitting_views(DIGITS, digits, Options(), stopped, tmp_path / "run", said)


def test_held_out_images_are_no_training_images(digits):
    small, held_out = in_small(digits, seed=0)
    assert digits.train.images.pixels is not None
    assert len(small.train) + len(held_out) == len(digits.train)
    parts = [sorted(x.numpy().tobytes() for x in of) for of in (small.train.images.pixels, held_out)]
    assert sorted(parts[0] + parts[1]) == sorted(x.numpy().tobytes() for x in digits.train.images.pixels)


def test_photographs_are_made_small(photographs, tmp_path):
    for i, photograph in enumerate(photographs * 4):
        photograph.save(tmp_path / f"{i}.jpg")
    small, held_out = in_small(mec.open_data(str(tmp_path)), seed=0)
    assert small.train.images.pixels.shape[1:] == held_out.shape[1:] == (3, 48, 48)


def test_answers_tell_a_trained_encoder_from_an_untrained_one(digits, tmp_path):
    """Joint coding of views and turns told: more after thirty steps than before the first."""
    about = {"recipe": "digits", "evaluate": False, "report": False, "quiet": True, "device": "cpu", "keep_every": 1}
    run = mec.pretrain(digits, steps=40, out=tmp_path / "run", **about)
    common = replace(DIGITS.views[0], **fitting.COMMON)
    held_out = digits.test.images.pixels[:300]
    trained, early = (Answers(place, held_out, common) for place in (run, sorted((run / "encoders").iterdir())[0]))
    assert trained.joint > early.joint
    assert trained.turns > 0.5
    assert 0 < trained.joint < 0.02 * np.log(1 + 1 / 0.02) * 64


def test_the_command_trains_with_what_it_finds_and_finds_what_is_finished(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fitting.with_fitting_views, "__defaults__", (3, 2))
    words = [
        "pretrain",
        "digits",
        "--views",
        "auto",
        "--steps",
        "2",
        "--device",
        "cpu",
        "--out",
        "run",
        "--limit",
        "200",
    ]
    words += ["--no-evaluate", "--no-report"]

    def state() -> tuple[list[int], dict, list]:
        runs = sorted((tmp_path / "run-views").glob("0?/encoder.safetensors"))
        views = json.loads((tmp_path / "run/settings.json").read_text())["recipe"]["views"]
        return [p.stat().st_mtime_ns for p in runs], json.loads((tmp_path / "run-views/views.json").read_text()), views

    assert main(words) == 0
    assert "views: short run 3 of 3" in capsys.readouterr().out
    settings = json.loads((tmp_path / "run/settings.json").read_text())
    assert any(line.startswith("views by 3 short runs") for line in settings["why"])
    before = state()
    (tmp_path / "run").rename(tmp_path / "gone")
    assert main(words) == 0
    assert state() == before
    assert len(before[0]) == 3
    assert main(["pretrain", "digits", "--resume", "--device", "cpu", "--out", "run"]) == 0
