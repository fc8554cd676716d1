"""What is named and not there is told at once: no torch is loaded for it."""

import subprocess
import sys

import pytest
from helpers import labelled_folder, write_images

from mec.errors import BadInput
from mec.runtime.paths import check_data, check_run

CODE = """
import sys
from mec.cli.main import main
code = main({words!r})
assert code == 2, code
assert 'torch' not in sys.modules
"""


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["pretrain", "{}/photoz", "--out", "run"],
            "photoz: no such folder, nor a data set of that name. Beside it: data",
        ),
        (["pretrain", "imagenet", "--data-root", "{}/nowhere"], "--data-root is {}/nowhere: no such folder."),
        (["embed", "{}/run", "{}/photos", "--out", "x.npz"], "{}/run: no such run or file."),
        (["embed", "random:resnet18", "{}/photoz", "--out", "x.npz"], "photoz: no such folder"),
        (["embed", "random:resnet18", "photoz", "--out", "x.npz"], "photoz: no such folder"),
        (["evaluate", "{}/data", "knn", "digits"], "no encoder.safetensors in it"),
        (["evaluate", "pixels", "knn", "{}/photoz"], "photoz: no such folder"),
        (["evaluate", "resnet18:{}/w.pth", "knn", "digits"], "w.pth: no such file of weights for resnet18."),
        (["evaluate", "pixels", "sot", "--data-root", "{}/otb"], "--data-root is {}/otb: no such folder."),
        (["export", "{}/run", "--to", "timm"], "{}/run: no such run or file."),
        (["health", "{}/run"], "{}/run: no such run folder."),
        (["compare", "{}/photoz", "--methods", "byol", "--epochs", "1"], "photoz: no such folder"),
        (["pack", "{}/photoz", "out"], "photoz: no such folder"),
    ],
)
def test_a_path_that_is_not_there_is_told_before_anything_heavy_is_loaded(tmp_path, words, told):
    write_images(tmp_path / "data", 1)
    words = [word.format(tmp_path) for word in words]
    done = subprocess.run([sys.executable, "-c", CODE.format(words=words)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert told.format(tmp_path) in done.stderr


@pytest.mark.parametrize("name", ["random:resnet18", "pixels", "resnet18", "resnet18:1", "random:timm/x"])
def test_names_that_may_be_something_pass(name):
    check_run(name)


def test_what_is_there_or_is_fetched_or_is_a_pattern_passes(tmp_path):
    root = labelled_folder(tmp_path / "a b", train=1, test=1)
    for data in (
        root,
        str(root),
        "digits",
        "nowhere",
        "https://example.org/x/",
        f"{tmp_path}/x-{{000..003}}.tar",
        None,
    ):
        check_data(data)
    check_data("https://example.org/x/", tmp_path / "fetched")  # it is made
    with pytest.raises(BadInput):
        check_data("nowhere", names=False)
