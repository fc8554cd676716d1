"""Every number of a recipe, by hypothesis; numbers as people write them; fields of other versions."""

import json
import math
import warnings
from dataclasses import asdict, dataclass, fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mec.errors import BadInput
from mec.recipes.fields import from_file
from mec.recipes.recipe import Linear, Recipe, View, changed
from mec.recipes.table import RECIPES
from mec.version import __version__
from mec.views.views import Draw, augment, crop_batch

BASE = RECIPES["imagenet-100ep-released"]
PARTS = {"": BASE, "views": View(), "network": BASE.network, "optimizer": BASE.optimizer}


def numeric(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


# (part, field, place in a tuple or None) of every number of a recipe.
NUMBERS = [
    (part, field.name, place)
    for part, whole in PARTS.items()
    for field in fields(whole)
    for value in [getattr(whole, field.name)]
    for place in ([None] if numeric(value) else range(len(value)) if isinstance(value, tuple) else [])
    if place is None or numeric(value[place])
] + [("", "micro_batch_size", None), ("optimizer", "base_lr_1d", None)]
SIGNED = {"mean"}
SHARES = {"flip", "jitter", "grey", "blur", "solarize", "target_momentum", "target_momentum_end"}


def with_number(part: str, name: str, place: int | None, value: object) -> object:
    whole = PARTS[part]
    if place is not None:
        value = tuple(value if i == place else each for i, each in enumerate(getattr(whole, name)))
    return replace(whole, **{name: value})


def test_every_number_is_looked_at():
    assert len(NUMBERS) == len(set(NUMBERS)) >= 49
    assert {("views", "std", 2), ("network", "projector", 0), ("optimizer", "clip", None)} <= set(NUMBERS)


@pytest.mark.parametrize(("part", "name", "place"), NUMBERS)
def test_no_number_is_anything_but_a_finite_number_and_the_error_names_it(part, name, place):
    for value in (math.nan, math.inf, -math.inf, "3", None, True, [1], 10**400):
        if value is None and name in ("micro_batch_size", "base_lr_1d"):
            continue  # it stands for all rows, and for base_lr
        with pytest.raises(BadInput) as caught:
            with_number(part, name, place, value)
        key = f"{part}.{name}".lstrip(".")
        assert str(caught.value).startswith(f"{key} is {value!r}: it takes ")


@pytest.mark.parametrize("value", [math.nan, math.inf, [1], Linear, {"start": 1}])
def test_settings_and_figures_of_a_recipe_made_in_python_are_looked_at_too(value):
    with pytest.raises(BadInput, match=r"^settings\.distortion is "):
        replace(BASE, settings={"distortion": value})
    with pytest.raises(BadInput, match=r"^expects\.top-1 is .*: it takes a finite number\.$"):
        replace(BASE, expects={"top-1": value})
    with pytest.raises(BadInput, match=r"^Linear\.(start|end|epochs) is .*: it takes a (finite )?number"):
        Linear(*(value if field == "end" else 1.0 for field in ("start", "end", "epochs")))


@settings(max_examples=500, deadline=None)
@given(where=st.sampled_from(NUMBERS), value=st.floats(-1e6, 1e6) | st.integers(-(10**6), 10**6))
def test_a_number_outside_its_range_is_refused_by_name(where, value):
    part, name, place = where
    refused = False
    try:
        with_number(part, name, place, value)
    except BadInput as error:
        refused = str(error).startswith(f"{part}.{name}".lstrip(".") + " is ")
    assert refused or value >= 0 or name in SIGNED
    assert refused or value <= 1 or name not in SHARES
    assert not refused or (type(value), value) != (type(getattr(PARTS[part], name)), getattr(PARTS[part], name))


@pytest.mark.parametrize(
    ("part", "name", "last", "beyond"),
    [
        ("views", "hue", 0.5, 0.51),  # as torchvision's ColorJitter
        ("views", "zoom", 0.99, 1.0),  # divided by 1 - zoom
        ("views", "shear", 89.9, 90.0),  # its tangent
        ("optimizer", "momentum", 0.999, 1.0),
        ("optimizer", "trust", 1e-9, 0.0),
    ],
)
def test_ends_of_ranges_are_where_the_mathematics_ends(part, name, last, beyond):
    with_number(part, name, None, last)
    with pytest.raises(BadInput, match=rf"^{part}\.{name} is {beyond}: it takes a number "):
        with_number(part, name, None, beyond)


@settings(max_examples=60, deadline=None)
@given(
    numbers=st.fixed_dictionaries(
        {field.name: st.floats(0, 30) for field in fields(View) if isinstance(field.default, float)}
    ),
    scale=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(sorted),
    seed=st.integers(0, 2**31),
)
def test_views_of_any_strengths_that_are_taken_have_finite_pixels(numbers, scale, seed):
    view = View(size=8, scale=tuple(scale))
    for name, value in numbers.items():
        try:
            view = replace(view, **{name: value})
        except BadInput:
            continue
    images = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (3, 3, 12, 12), dtype=np.uint8))
    draw = Draw(view, 0, seed, 0, range(3))
    assert augment(crop_batch(images, draw), draw).isfinite().all()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (".5", 0.5), ("5.", 5.0), ("+1", 1.0), ("1e-3", 1e-3), ("1E3", 1000.0), ("1_000", 1000.0), ("-0.0", None),
        (" .25 ", 0.25), ("0x10", None), ("1,5", None), ("--1", None), ("1_", None), ("nan", None), ("inf", None),
        ("-Infinity", None), ("NaN", None), ("1e999", None), ("9" * 5000, None), ("", None), ("True", None),
    ],
)  # fmt: skip
def test_numbers_are_read_as_people_write_them(text, expected):
    if expected is None:
        with pytest.raises(BadInput, match=r"^optimizer.base_lr is .*: it takes a number above 0\.$"):
            changed(BASE, [f"optimizer.base_lr={text}"])
    else:
        assert changed(BASE, [f"optimizer.base_lr={text}"]).optimizer.base_lr == expected


@pytest.mark.parametrize(
    ("setting", "read", "expected"),
    [
        ("epochs=1e3", lambda r: r.epochs, 1000),
        ("epochs=+8", lambda r: r.epochs, 8),
        ("epochs=1_000", lambda r: r.epochs, 1000),
        ("batch_size=008", lambda r: r.batch_size, None),
        ("epochs=1e-3", lambda r: r.epochs, None),
        ("epochs=5.0", lambda r: r.epochs, None),
        ("network.projector=[1_024, +64]", lambda r: r.network.projector, (1024, 64)),
        ("network.projector=(64, 32)", lambda r: r.network.projector, (64, 32)),
        ("network.projector=64,32", lambda r: r.network.projector, (64, 32)),
        ("network.projector=[0,-3]", lambda r: r.network.projector, None),
        ("network.projector=[" * 500, lambda r: r.network.projector, None),
        ("views.scale=[.2, 1.]", lambda r: r.views[0].scale, (0.2, 1.0)),
        ("views.scale=[.2, nan]", lambda r: r.views[0].scale, None),
        ('settings.distortion={"start": NaN, "end": 1, "epochs": 2}', lambda r: r.settings, None),
        ('settings.distortion={"start": 2, "end": 1, "epochs": -2}', lambda r: r.settings, None),
        ("settings.distortion=1e999", lambda r: r.settings, None),
        ("network.zero_init=True", lambda r: r.network.zero_init, None),
        ("network.zero_init=False", lambda r: r.network.zero_init, False),
    ],
)
def test_whole_numbers_lists_and_words_are_read_as_people_write_them(setting, read, expected):
    if expected is None and not setting.endswith("True"):
        with pytest.raises(BadInput, match=rf"^{setting.partition('=')[0]} is "):
            changed(BASE, [setting])
    else:
        assert read(changed(BASE, [setting])) == (True if expected is None else expected)


# --- files of other versions -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stored:
    recipe: Recipe
    note: str
    version: str = ""
    why: tuple[str, ...] = ()


def stored(**changes: object) -> dict:
    return {**json.loads(json.dumps(asdict(Stored(BASE, "x", __version__)))), **changes}


def test_fields_that_are_missing_take_their_defaults_at_any_depth():
    values = stored()
    for part, name in ((values, "why"), (values["recipe"], "precision"), (values["recipe"]["views"][1], "noise")):
        del part[name]
    for name in ("predictor_bias", "prototypes"):
        del values["recipe"]["network"][name]
    assert from_file(Stored, values, "settings.json") == Stored(BASE, "x", __version__)


def test_fields_that_are_not_known_are_passed_over_and_named():
    values = stored(colour="red")
    values["recipe"]["network"]["rings"] = 3
    values["recipe"]["views"][1]["twist"] = 0.5
    values["recipe"]["settings"]["distortion"] = {"start": 1, "end": 2, "epochs": 3, "shape": "cosine"}
    keys = "colour, recipe.settings.distortion.shape, recipe.views.twist, recipe.network.rings"
    with pytest.warns(UserWarning, match=rf"^settings.json: not known here, and passed over: {keys}\.$"):
        found = from_file(Stored, values, "settings.json")
    assert found.recipe == replace(BASE, settings={"distortion": Linear(1, 2, 3), "order": 4})


def test_a_newer_version_is_told_and_an_older_one_is_not():
    with pytest.warns(UserWarning, match=rf"^f: written by mec 99\.1, newer than this {__version__}\.$"):
        from_file(Stored, stored(version="99.1"), "f")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        from_file(Stored, stored(version="0.0.9"), "f")
        from_file(Stored, {k: v for k, v in stored().items() if k != "version"}, "f")


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (stored(version="99.1", note=3), "f: note is 3: it takes a text. It was written by mec 99.1, newer than this"),
        ({"recipe": {}, "note": "x"}, "f: recipe.source is missing, and has no default."),
        ({"recipe": asdict(BASE)}, "f: note is missing, and has no default."),
        ({"recipe": 3, "note": "x"}, "f: recipe is 3: it takes Recipe."),
        (stored(recipe={**asdict(BASE), "epochs": -1}), "f: recipe.epochs is -1: it takes a whole number, at least 1."),
        ([1], "f: holds list, not named values: not written by mec, or damaged."),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_named(values, text):
    with pytest.raises(BadInput) as caught:
        from_file(Stored, values, "f")
    assert str(caught.value).startswith(text)
