"""The picture of a run without labels: its parts are those of the images and of the recipe."""

import base64
import io

import numpy as np
import torch
from helpers import TINY, noise_image, tiny_run, write_images
from PIL import Image

from mec.data.dataset import Split
from mec.data.images import Opened
from mec.recipes.recipe import changed
from mec.recipes.table import RECIPES
from mec.training.shown import as_picture, read_shown, views_of


def test_a_run_without_labels_leaves_a_picture(tmp_path, capsys):
    write_images(tmp_path / "photos", 24)
    out = tiny_run(tmp_path / "run", tmp_path / "photos", limit=None, batch_size=8, steps=2, evaluate=True, quiet=False)
    with Image.open(out / "embedding.png") as picture:
        colours = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    assert len(np.unique(colours, axis=0)) > 500  # thumbnails and views are photographs, not points
    assert f"picture: {out / 'embedding.png'}" in capsys.readouterr().out.replace("\n", " ")


def test_thumbnails_are_those_of_the_images_that_can_be_read(tmp_path):
    paths = write_images(tmp_path / "photos", 24, width=128, height=64)
    whole = paths[1].read_bytes()
    options = {"limit": None, "batch_size": 8, "steps": 1, "evaluate": True}
    run = tiny_run(tmp_path / "whole", tmp_path / "photos", **options)
    assert len(read_shown(run).names) == 24
    paths[1].write_bytes(whole[: len(whole) // 3])  # it is opened, and cannot be decoded
    run = tiny_run(tmp_path / "run", tmp_path / "photos", **options)
    shown = read_shown(run)
    assert sorted(shown.names) == sorted(f"photos/{path.name}" for path in paths if path != paths[1])
    for uri in shown.thumbnails:
        with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as small:
            assert small.size == (64, 32)


def test_views_are_shown_as_they_are_trained_on_one_row_an_image():
    recipe = changed(RECIPES["auto"], [*TINY, "views.copies=3"])
    split = Split(Opened(tuple(noise_image(i, 40, 40) for i in range(9))))
    table = views_of(split, recipe, seed=0)
    assert table.shape == (5 * 10, 3 * 10, 3)  # five images, three views of 8 px, a line around each
    assert 0 <= table.min() < table.max() <= 1


def test_normalisation_is_undone():
    image = torch.rand(2, 3, 4, 4)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    made = (image - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    np.testing.assert_allclose(as_picture(made, mean, std), image.permute(0, 2, 3, 1).numpy(), atol=1e-6)
