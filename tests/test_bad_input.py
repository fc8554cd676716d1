"""What a user can get wrong, or a disk, or a number: the message repeats what came, says what fits and what to do."""

from __future__ import annotations

import errno
import io
import json
import os
import pickle
import resource
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from helpers import (
    TINY,
    TINY_SERIES,
    command,
    crashed_run,
    digit_images,
    identical,
    labelled_folder,
    lines,
    noise_image,
    small_subject,
    tiny_run,
    weights,
    write_images,
)
from PIL import Image
from rich.console import Console
from torch import nn

from mec.cli.main import main
from mec.data import batches
from mec.data.batches import ViewBatches
from mec.data.decoding import Skipped
from mec.data.images import MOST_UNREADABLE
from mec.data.opening import open_data
from mec.errors import BadInput, TrainingStopped
from mec.networks.encoder_file import load_encoder
from mec.recipes.recipe import View
from mec.recipes.table import RECIPES
from mec.runtime.checkpoints import checkpoints, in_run
from mec.runtime.progress import TrainingProgress
from mec.training import runlog, trainer
from mec.training.health import read_metrics
from mec.training.pretrain import pretrain

PHOTOS = {"recipe": "digits", "batch_size": 8, "limit": None, "workers": 0}


def told(capsys, *words: str | Path) -> str:
    """What the command says when it refuses: exit code 2, one message, no traceback."""
    assert main([str(w) for w in words]) == 2
    text = capsys.readouterr().err
    assert text.startswith("mec: ")
    assert "Traceback" not in text
    return text


# --- folders without images --------------------------------------------------------------------------------------


def test_a_missing_folder_is_named_with_what_fits(tmp_path, capsys):
    text = told(capsys, "pretrain", tmp_path / "photoz", "--out", tmp_path / "run")
    assert str(tmp_path / "photoz") in text
    assert "no such folder, nor a data set of that name" in text
    assert not (tmp_path / "run").exists()


def test_a_misspelt_data_set_gets_the_nearest_name(tmp_path, capsys):
    assert "Did you mean 'cifar10'?" in told(capsys, "pretrain", "cifar-10", "--out", tmp_path / "run")


def test_an_empty_folder_is_named_with_the_suffixes_looked_for(tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    text = told(capsys, "pretrain", tmp_path / "photos", "--out", tmp_path / "run")
    assert f"{tmp_path / 'photos'}: no image found. It is empty." in text
    assert ".jpeg" in text


def test_a_folder_without_images_says_what_it_holds_instead(tmp_path, capsys):
    (tmp_path / "notes.docx").write_text("")
    (tmp_path / "README").write_text("")
    text = told(capsys, "pretrain", tmp_path, "--out", tmp_path / "run")
    assert "files of other kinds: .docx, README" in text
    assert "in any depth" in text


def test_a_file_in_place_of_a_folder_is_told_apart(tmp_path, capsys):
    (path,) = write_images(tmp_path, 1)
    assert "is a file: give the folder" in told(capsys, "pretrain", path, "--out", tmp_path / "run")


@pytest.mark.parametrize("name", ["cifar10", "mnist", "imagenet"])
def test_a_named_data_set_asks_for_its_folder(name, tmp_path, capsys):
    assert "--data-root DIR" in told(capsys, "pretrain", name, "--out", tmp_path / "run")


def test_a_data_set_that_is_not_there_names_the_folder_and_the_way_to_fetch_it(tmp_path, capsys):
    text = told(capsys, "pretrain", "cifar10", "--data-root", tmp_path / "here", "--out", tmp_path / "run")
    assert str(tmp_path / "here") in text
    assert "--download" in text


# --- unreadable images -------------------------------------------------------------------------------------------


def png_that_claims(width: int, height: int) -> bytes:
    """A real PNG with another size in its header: a decompression bomb by its word."""
    file = io.BytesIO()
    noise_image(0).save(file, format="png")
    head = struct.pack(">4sIIBBBBB", b"IHDR", width, height, 8, 2, 0, 0, 0)
    return file.getvalue()[:12] + head + struct.pack(">I", zlib.crc32(head)) + file.getvalue()[33:]


def broken_files(folder: Path) -> dict[str, str]:
    """Files that cannot be read, and a word of the reason of each."""
    whole = io.BytesIO()
    noise_image(1, 64, 64).save(whole, format="jpeg")
    tiff = io.BytesIO()
    noise_image(1, 64, 64).save(tiff, format="tiff")
    float_tiff = io.BytesIO()
    Image.fromarray(np.full((8, 8), np.nan, np.float32)).save(float_tiff, format="tiff")
    contents = {
        "zero.jpg": (b"", "empty file"),
        "truncated.jpg": (whole.getvalue()[: len(whole.getvalue()) // 2], "truncated"),
        "header-only.jpg": (whole.getvalue()[:20], ""),
        "half.tif": (tiff.getvalue()[: len(tiff.getvalue()) // 2], ""),
        "text.png": (b"this was never an image", "cannot identify"),
        "web-page.jpeg": (b"<!DOCTYPE html><html><body>404 Not Found</body></html>", "cannot identify"),
        "bomb.png": (png_that_claims(60_000, 60_000), "decompression bomb"),
        "large-bomb.png": (png_that_claims(15_000, 15_000), "limit of 178956970"),
        "nan.tiff": (float_tiff.getvalue(), "not finite"),
        "locked.png": (png_that_claims(8, 8)[:40], ""),
    }
    for name, (content, _) in contents.items():
        (folder / name).write_bytes(content)
    return {name: reason for name, (_, reason) in contents.items()}


def odd_files(folder: Path) -> int:
    """Images in odd formats that can be read; how many."""
    image = noise_image(5, 30, 20)
    deep = Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30) * 100)
    image.convert("CMYK").save(folder / "cmyk.jpg")
    image.convert("L").save(folder / "grey.png")
    image.quantize(16).save(folder / "palette.gif", save_all=True, append_images=[image.quantize(8)])
    image.convert("RGBA").save(folder / "alpha.webp")
    image.quantize(16).save(folder / "palette.png", transparency=0)
    deep.save(folder / "deep.png")
    Image.fromarray(np.asarray(deep, np.float32)).save(folder / "float.tiff")
    image.convert("1").save(folder / "bits.bmp")
    return 8


def test_broken_images_are_set_aside_with_reasons_and_the_odd_ones_are_trained_on(tmp_path):
    folder = tmp_path / "photos"
    write_images(folder, 40, width=30, height=20)
    odd, reasons = odd_files(folder), broken_files(folder)
    run = tiny_run(tmp_path / "run", folder, **PHOTOS)
    skipped = {Path(line["path"]).name: line["reason"] for line in lines(run / "skipped.jsonl")}
    assert skipped.keys() == reasons.keys()
    for name, reason in reasons.items():
        assert reason in skipped[name], (name, skipped[name])
        assert skipped[name]
    assert json.loads((run / "settings.json").read_text())["images"] == 40 + odd


def test_a_word_about_the_skipped_images_is_on_screen(tmp_path, capsys):
    write_images(tmp_path / "photos", 20)
    (tmp_path / "photos" / "zero.png").write_bytes(b"")
    words = ["--recipe", "digits", "--batch-size", "8", "--epochs", "1", "--set", *TINY]
    assert main(["pretrain", str(tmp_path / "photos"), "--out", str(tmp_path / "run"), *words]) == 0
    assert "Left out: 1 image that cannot be read" in capsys.readouterr().out


def test_too_many_unreadable_images_stop_before_anything_is_written(tmp_path, capsys):
    write_images(tmp_path / "photos", 12)
    for i in range(4):
        (tmp_path / "photos" / f"broken-{i}.png").write_bytes(b"")
    text = told(capsys, "pretrain", tmp_path / "photos", "--out", tmp_path / "run")
    assert "4 of 16 images cannot be read, more than 20%" in text
    assert "broken-0.png: empty file (0 bytes)" in text
    assert "Mend or remove them" in text
    assert not (tmp_path / "run").exists()
    (tmp_path / "photos" / "broken-3.png").unlink()  # 3 of 15: not more than a fifth
    assert MOST_UNREADABLE == 0.2
    assert len(open_data(str(tmp_path / "photos")).skipped) == 3


def test_images_that_turn_out_unreadable_when_accuracy_is_measured_are_left_out_and_told(
    tmp_path, monkeypatch, capsys, quick_report
):
    from mec.data import folders as data

    monkeypatch.setattr(data, "why_unreadable", lambda path: None)  # all well when it was checked
    labelled_folder(tmp_path / "photos", train=16, test=8, width=80, height=70)
    for path in (tmp_path / "photos/train/a/0003.png", tmp_path / "photos/val/b/0002.png"):
        path.write_bytes(path.read_bytes()[:300])
    words = ["--epochs", "2", "--batch-size", "16", "--set", *TINY, "--device", "cpu", "--workers", "0"]
    assert main(["pretrain", str(tmp_path / "photos"), "--out", str(tmp_path / "run"), *words]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "2 of 72 images cannot be read and are left out" in text
    assert "held-out images" in text
    short = ["finetune", "--preset", "budget", "--steps", "2"], ["linear", "--preset", "paper", "--epochs", "1"]
    for protocol in (["knn"], *short):
        told = [*protocol[:1], str(tmp_path / "photos"), *protocol[1:]]
        assert main(["evaluate", str(tmp_path / "run"), *told]) == 0
    assert "cannot be read and are left out" in capsys.readouterr().err


def test_raw_pixels_have_as_many_channels_in_both_parts_when_one_is_grey(tmp_path, quick_report):
    root = labelled_folder(tmp_path / "photos", train=8, test=4)
    for path in root.glob("train/*/*.png"):
        Image.open(path).convert("L").save(path)
    out = tiny_run(tmp_path / "run", str(root), evaluate=True, batch_size=8)
    assert {r["encoder"] for r in lines(out / "results.jsonl")} == {"pixels", "untrained", "mec-joint"}


def test_images_that_turn_unreadable_while_training_are_listed_and_too_many_stop_it(tmp_path, monkeypatch):
    from mec.data import folders as data

    monkeypatch.setattr(data, "why_unreadable", lambda path: None)  # all well when it was checked
    for broken, stops in ((2, False), (9, True)):
        folder, out = tmp_path / f"{broken}", tmp_path / f"run-{broken}"
        paths = write_images(folder, 32, width=80, height=70)
        for path in paths[-broken:]:
            path.write_bytes(path.read_bytes()[:300])
        if stops:
            with pytest.raises(TrainingStopped, match="cannot be read, more than 20%"):
                tiny_run(out, folder, **PHOTOS)
        else:
            tiny_run(out, folder, **PHOTOS)
            assert {line["path"] for line in lines(out / "skipped.jsonl")} == {str(p) for p in paths[-2:]}


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_disk_that_goes_away_is_told_in_a_sentence(tmp_path, monkeypatch, workers):
    paths = write_images(tmp_path / "photos", 8, ".png", width=80, height=80)
    split = open_data(str(tmp_path / "photos")).train
    for path in paths[1:]:
        path.unlink()
    monkeypatch.setattr(batches, "IN_A_ROW", 3)
    made = ViewBatches(split, (View(size=8, copies=2),), 4, seed=0, device=torch.device("cpu"), workers=workers)
    with pytest.raises(TrainingStopped, match=r"^3 images in a row cannot be read, from .*png: .*--resume\)\.$"):
        list(made.batches(0, 2, lambda n: slice(0, n)))


def test_the_limit_of_unreadable_images_is_of_what_all_ranks_have_met(tmp_path):
    """Each meets, over the epochs, what the others have met before."""
    (tmp_path / "skipped.jsonl").write_text('{"path": "0", "reason": "known from the start"}\n')
    logs = [runlog.Log(tmp_path, 0, first=rank == 0) for rank in range(4)]
    for log in logs:
        for number in range(9):
            log.skip([Skipped(str(number), "rot")], images=40)  # 8 are new: 20 %
    assert len(lines(tmp_path / "skipped.jsonl")) == 9
    with pytest.raises(TrainingStopped, match="9 of 40 images cannot be read"):
        logs[3].skip([Skipped("9", "rot")], images=40)
    runlog.Log(tmp_path, 0, first=False).skip([Skipped("9", "rot")], images=40)  # known after resuming


def test_a_single_image_is_told_to_be_too_few(tmp_path, capsys):
    write_images(tmp_path / "photos", 1)
    for size in ("1", "2"):
        words = ("pretrain", tmp_path / "photos", "--out", tmp_path / "run", "--recipe", "digits", "--batch-size", size)
        assert f"1 readable images, batch_size {size}: both are at least 2" in told(capsys, *words)
    assert not (tmp_path / "run").exists()


def test_one_labelled_test_image_ends_with_a_table_and_no_map(tmp_path):
    root = labelled_folder(tmp_path / "photos", train=8, test=1)
    for path in sorted(root.glob("val/*/*.png"))[1:]:
        path.unlink()
    out = tiny_run(tmp_path / "run", str(root), evaluate=True, batch_size=8)
    assert (out / "health.json").exists()
    assert lines(out / "results.jsonl")


def test_an_error_of_the_callers_own_views_is_not_told_as_a_full_disk(tmp_path):
    class Broken(list):
        def __iter__(self):
            yield torch.randn(2, 8, 5)
            raise FileNotFoundError("table-3.parquet")

    with pytest.raises(TrainingStopped, match=r"the iterable of views failed in epoch 0: .*table-3\.parquet"):
        pretrain(Broken([1, 2]), encoder=nn.Linear(5, 4), out=tmp_path / "run", epochs=1, quiet=True, device="cpu")


def test_an_encoder_that_comes_in_evaluation_mode_is_trained_in_training_mode(tmp_path):
    encoder = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4)).eval()
    views = [torch.randn(2, 8, 5) + 3]
    pretrain(views, encoder=encoder, out=tmp_path / "run", epochs=2, quiet=True, device="cpu")
    assert encoder[1].running_mean.abs().max() > 0


def test_a_run_folder_that_cannot_be_made_is_told_with_what_helps(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(TrainingStopped, match="choose another --out"):
        tiny_run(tmp_path / "runs" / "run")


def test_accuracy_on_the_way_is_no_error_where_the_encoder_has_diverged(tmp_path):
    """The loss has the word at the next step."""
    subject = small_subject(tmp_path)
    for parameter in subject.encoder.parameters():
        nn.init.constant_(parameter, torch.nan)
    watch = runlog.Watch(open_data("digits"), subject.info, torch.device("cpu"), Console(quiet=True))
    assert np.isnan(watch.measure(subject.encoder, 1, TrainingProgress(watch.console, 2, 0)))


def test_fewer_images_than_a_batch_names_both_numbers_and_the_batch_that_fits(tmp_path, capsys):
    write_images(tmp_path / "photos", 12)
    words = ("pretrain", tmp_path / "photos", "--out", tmp_path / "run", "--recipe", "digits", "--batch-size")
    text = told(capsys, *words, "16")
    assert "12 readable images, batch_size 16" in text
    assert "--batch-size 8" in text
    assert main([str(w) for w in (*words, "8", "--epochs", "1", "--set", *TINY)]) == 0


# --- settings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("optimzer.base_lr=0.1", "no 'optimzer.base_lr'. Did you mean 'optimizer'?"),
        ("optimizer.base_rl=0.1", "Did you mean 'optimizer.base_lr'?"),
        ("views.flp=0", "Did you mean 'views.flip'?"),
        ("settings.distorsion=1", "no setting 'distorsion'. It takes: agreement, centred, distortion"),
        ("optimizer.base_lr", "write KEY=VALUE"),
        ("optimizer.base_lr=fast", "optimizer.base_lr is 'fast': it takes a number above 0"),
        ("optimizer.base_lr=-1", "optimizer.base_lr is -1: it takes a number above 0"),
        ("optimizer.name=adam", "optimizer.name is 'adam'"),
        ("views.flip=2", "views.flip is 2: it takes a number from 0 to 1"),
        ("views.0=3", "3"),
        ("views.size=0", "views.size is 0"),
        ("batch_size=0", "batch_size is 0"),
        ("micro_batch_size=128", "from 1 to batch_size, 64"),
        ("network.backbone=resnet17", "no backbone is called 'resnet17'. Did you mean"),
    ],
)
def test_a_wrong_setting_is_repeated_with_what_fits(setting, expected, tmp_path, capsys):
    words = ("pretrain", "digits", "--batch-size", "64", "--out", tmp_path / "run", "--set", *TINY, setting)
    assert expected in told(capsys, *words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("value", ["-1", "0", '"high"', "null"])
def test_a_distortion_that_makes_no_sense_is_refused(value, tmp_path, capsys):
    text = told(capsys, "pretrain", "digits", "--out", tmp_path / "run", "--set", *TINY, f"settings.distortion={value}")
    assert "distortion" in text


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--recipe", "digit"], "no recipe is called 'digit'. Did you mean 'digits'?"),
        (["--method", "mec-join"], "Did you mean 'mec-joint'?"),
        (["--backbone", "resnet10-tin"], "Did you mean 'resnet10-tiny'?"),
        (["--limit", "0"], "--limit is 0"),
        (["--seed", "-1"], "--seed is -1"),
        (["--epochs", "0"], "epochs is 0"),
        (["--time-budget", "0"], "--time-budget is 0"),
        (["--device", "cuda"], "--device cpu"),
    ],
)
def test_a_wrong_flag_is_repeated_with_what_fits(words, expected, tmp_path, capsys):
    if words == ["--device", "cuda"] and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    assert expected in told(capsys, "pretrain", "digits", "--out", tmp_path / "run", *words)
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("words", ["embed RUN IMAGES --out x.npz", "evaluate RUN knn digits"])
def test_a_device_that_is_not_there_is_told(words, finished, digit_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    replaced = {"RUN": finished, "IMAGES": digit_folder}
    words = [replaced.get(word, word) for word in words.split()]
    assert "torch sees no CUDA device here. Use --device cpu" in told(capsys, *words, "--device", "cuda")


# --- files that are not what they should be ----------------------------------------------------------------------


class Malicious:
    """Unpickling this creates a file: code of the file's author runs."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return (open, (str(self.mark), "w"))


def copy_of(run: Path, to: Path) -> Path:
    (to / "checkpoints").mkdir(parents=True)
    for path in run.rglob("*"):
        if path.is_file():
            (to / path.relative_to(run)).write_bytes(path.read_bytes())
    return to


@pytest.fixture
def run(finished, tmp_path) -> Path:
    """A copy of the finished run, to be spoilt."""
    return copy_of(finished, tmp_path / "run")


def test_an_encoder_that_carries_pickled_code_is_refused_and_nothing_runs(run, tmp_path, capsys):
    mark = tmp_path / "was-here"
    function, arguments = Malicious(mark).__reduce__()
    function(*arguments).close()  # what an unpickler would do
    assert mark.exists()
    mark.unlink()
    for dump in (pickle.dump, torch.save):
        with open(run / "encoder.safetensors", "wb") as file:
            dump({"weight": torch.zeros(1), "x": Malicious(mark)}, file)
        text = told(capsys, "evaluate", run, "knn", "digits")
        assert "encoder.safetensors" in text
        assert "nothing is unpickled" in text
        assert not mark.exists()


def test_a_checkpoint_that_carries_pickled_code_is_refused_and_nothing_runs(run, tmp_path):
    mark = tmp_path / "was-here"
    (path,) = checkpoints(run)
    state = torch.load(path, weights_only=True)
    for dump in (pickle.dump, torch.save):
        with open(path, "wb") as file:
            dump({**state, "x": Malicious(mark)}, file)
        with pytest.raises(BadInput, match=f"{path.name}: cannot be read.*--out"):
            tiny_run(run, resume=True, epochs=3)
        assert not mark.exists()


def test_a_pickle_beside_a_good_checkpoint_does_not_stop_the_run_and_is_not_run(run, tmp_path):
    mark = tmp_path / "was-here"
    torch.save(Malicious(mark), run / "checkpoints" / "step-999.pt")
    state, complaints = in_run(run).newest()
    assert state["step"] == 6
    assert "step-999.pt: cannot be read" in complaints[0]
    assert not mark.exists()


def test_a_truncated_encoder_is_refused(run, capsys):
    path = run / "encoder.safetensors"
    for length in (0, 4, 100, path.stat().st_size // 2):
        path.write_bytes(path.read_bytes()[:length] if length else b"")
        text = told(capsys, "evaluate", run, "knn", "digits")
        assert f"{path}: not a readable safetensors file" in text
        assert "cut off" in text


def test_weights_of_other_code_are_refused(run, capsys, tmp_path):
    other = tmp_path / "other.safetensors"
    safetensors.torch.save_file(nn.Linear(3, 4).state_dict(), other)
    assert "not made by mec" in told(capsys, "export", other, "--to", "timm")
    safetensors.torch.save_file(nn.Linear(3, 4).state_dict(), other, metadata={"mec": json.dumps({"version": "9.9"})})
    text = told(capsys, "export", other, "--to", "timm")
    assert "written by mec 9.9, newer than this" in text
    safetensors.torch.save_file(nn.Linear(3, 4).state_dict(), other, metadata={"mec": "not JSON"})
    assert "metadata" in told(capsys, "export", other, "--to", "timm")


def rewritten(run: Path, tensors=lambda t: t, **changes) -> Path:
    """The run's encoder file with other tensors or metadata."""
    path = run / "encoder.safetensors"
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = json.loads(file.metadata()["mec"])
    kept = safetensors.torch.load_file(path)
    safetensors.torch.save_file(tensors(kept), path, metadata={"mec": json.dumps({**metadata, **changes})})
    return path


def test_weights_of_another_backbone_are_refused_with_the_tensors_that_differ(run, capsys):
    rewritten(run, backbone="resnet10")
    text = told(capsys, "evaluate", run, "knn", "digits")
    assert "not the weights of this backbone" in text
    assert "file (32,), module (64,)" in text
    rewritten(run, backbone="resnet10-tiny", tensors=lambda t: dict(list(t.items())[1:]))
    assert "1 tensors differ" in told(capsys, "evaluate", run, "knn", "digits")
    rewritten(run, backbone="resnet-of-tomorrow")
    assert "no backbone is called 'resnet-of-tomorrow'" in told(capsys, "evaluate", run, "knn", "digits")


def test_an_encoder_that_this_code_builds_otherwise_is_refused(run):
    """Same names and shapes, other features: found by the features of a fixed image that are stored."""
    load_encoder(run)
    rewritten(run, tensors=lambda t: {k: v * 1.5 if k == "layer4.0.downsample.0.weight" else v for k, v in t.items()})
    with pytest.raises(BadInput, match="other features than when it was saved"):
        load_encoder(run)


def test_a_run_that_is_not_there_names_those_near_it(finished, capsys):
    text = told(capsys, "evaluate", finished.parent / "finishd", "knn", "digits")
    assert "no such run or file" in text
    assert "finished" in text.partition("near it")[2]
    text = told(capsys, "embed", finished.parent, finished.parent, "--out", "x.npz")
    assert "no encoder.safetensors in it" in text
    assert "finished" in text


@pytest.mark.parametrize("content", ["", "{}", "[]", "{not json", '{"recipe": {"sourc": 1}}', '{"recipe": 5}'])
def test_settings_that_are_not_those_of_a_run_are_refused(run, content, capsys):
    (run / "settings.json").write_text(content)
    assert "settings" in told(capsys, "health", run)
    text = told(capsys, "pretrain", "digits", "--resume", "--out", run)
    assert str(run / "settings.json") in text


def test_a_checkpoint_of_another_network_is_refused(run, tmp_path):
    """Someone put the checkpoint of one run into the folder of another."""
    other = tiny_run(tmp_path / "other", epochs=1, set=[TINY[0], "network.projector=[48,24]"])
    (checkpoints(run)[0]).unlink()
    (run / "checkpoints" / "step-3.pt").write_bytes((other / "checkpoints" / "step-3.pt").read_bytes())
    with pytest.raises(BadInput, match=r"step-3\.pt"):
        tiny_run(run, resume=True)


# --- numbers that are none ---------------------------------------------------------------------------------------


class Failing(nn.Module):
    """An encoder whose features, or gradients, turn NaN after some calls in training."""

    def __init__(self, after: int, where: str = "features"):
        super().__init__()
        self.layer, self.after, self.where = nn.Linear(192, 16), 2 * after, where  # two views a step
        self.calls = 0

    def forward(self, x):
        features = self.layer(x.flatten(1))
        if self.training:
            self.calls += 1
            if self.calls > self.after and self.where == "features":
                return features * float("nan")
            if self.calls > self.after:
                features.register_hook(lambda gradient: gradient * float("nan"))
        return features


def finite(run: Path) -> bool:
    return all(t.isfinite().all() for t in weights(run).values())


def test_a_loss_that_is_not_a_number_stops_and_keeps_the_last_good_checkpoint(tmp_path):
    with pytest.raises(TrainingStopped) as stopped:
        tiny_run(tmp_path / "run", encoder=Failing(4), epochs=20, save_minutes=0)
    text = str(stopped.value)
    assert "diverged at step 5: loss nan" in text
    assert f"The last good checkpoint is kept: {checkpoints(tmp_path / 'run')[-1]}" in text
    assert checkpoints(tmp_path / "run")[-1].name == "step-4.pt"
    assert f"--set optimizer.base_lr={RECIPES['digits'].optimizer.base_lr / 3:.2g}" in text
    assert finite(tmp_path / "run")
    good = torch.load(checkpoints(tmp_path / "run")[-1], weights_only=True)
    assert all(v.isfinite().all() for v in good["network"].values())


def test_a_gradient_that_is_not_a_number_never_reaches_a_checkpoint(tmp_path):
    with pytest.raises(TrainingStopped, match=r"diverged at step [56]"):
        tiny_run(tmp_path / "run", encoder=Failing(4, "gradients"), epochs=20, save_minutes=0)
    for path in checkpoints(tmp_path / "run"):
        good = torch.load(path, weights_only=True)
        assert all(v.isfinite().all() for v in good["network"].values()), path
    assert finite(tmp_path / "run")


def test_a_series_that_runs_away_exits_with_1_and_names_the_method_that_cannot(
    digit_folder, tmp_path, monkeypatch, capsys
):
    """Far below what any coding length reaches; the threshold is moved, since small runs seldom get there."""
    assert trainer.RUNAWAY > 10
    monkeypatch.setattr(trainer, "RUNAWAY", 1e-3)
    words = ["--recipe", "digits", "--batch-size", "64", "--method", "mec", "--set", *TINY, *TINY_SERIES]
    assert main(["pretrain", str(digit_folder), "--out", str(tmp_path / "run"), *words]) == 1
    text = capsys.readouterr().err
    assert text.startswith("mec: diverged at step ")
    assert "which no exact coding length reaches" in text
    assert "--method mec-joint" in text
    assert "Traceback" not in text


# --- a disk that is full -----------------------------------------------------------------------------------------


def full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def full_for(call, path_of, suffix: str):
    """The call, but for files of one suffix the disk is full."""

    def chosen(*arguments, **keywords):
        return full() if str(path_of(*arguments)).endswith(suffix) else call(*arguments, **keywords)

    return chosen


FULL = {
    "torch.save": (torch, "save", full),
    "rename": (os, "replace", full_for(os.replace, lambda source, target: target, ".pt")),
    "fsync": (os, "fsync", full_for(os.fsync, lambda fd: os.readlink(f"/proc/self/fd/{fd}"), ".pt.part")),
    "encoder": (safetensors.torch, "save_file", full),
}


@pytest.mark.parametrize("call", FULL)
def test_a_disk_that_fills_up_while_saving_leaves_the_checkpoint_before_whole(call, finished, tmp_path, monkeypatch):
    run = tmp_path / "run"
    crashed_run(monkeypatch, 4, run, save_minutes=0)
    before = checkpoints(run)[-1]
    kept = before.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(*FULL[call])
        with pytest.raises(TrainingStopped) as stopped:
            tiny_run(run, resume=True)
    assert "No space left on device" in str(stopped.value)
    assert "make room, then mec pretrain" in str(stopped.value)
    assert "--resume" in str(stopped.value)
    assert before.read_bytes() == kept
    assert not list(run.rglob("*.part"))
    tiny_run(run, resume=True)
    assert identical(weights(run), weights(finished))


@pytest.fixture
def no_more_than():
    """Files of this process may grow to so many bytes, as if the disk were full; put back afterwards."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_write_that_the_system_cuts_off_stops_training_with_a_message(tmp_path, no_more_than):
    """The system's own error, through torch's and safetensors' writers: neither raises OSError by itself."""
    tiny_run(tmp_path / "run", epochs=1)
    (before,) = checkpoints(tmp_path / "run")
    kept = before.read_bytes()
    no_more_than(1_000_000)  # a checkpoint takes 9 MB, an encoder 5
    with pytest.raises(TrainingStopped, match="cannot be written"):
        tiny_run(tmp_path / "run", epochs=2, resume=True)
    no_more_than(len(kept) - 100_000)
    with pytest.raises(TrainingStopped, match="cannot be written"):
        tiny_run(tmp_path / "run", epochs=2, resume=True)
    assert before.read_bytes() == kept
    assert not list((tmp_path / "run").rglob("*.part"))


# --- the issue's own words ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_300_photographs_in_odd_formats_of_which_20_are_broken_train_and_list_the_20(samples, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    originals = sorted((samples / "jpeg200").glob("*.JPEG"))
    for i in range(280):
        with Image.open(originals[i % len(originals)]) as image:
            small = image.convert("RGB").resize((160, 120))
        turned = (small, small.convert("CMYK"), small.convert("L"), small.quantize(64), small.convert("RGBA"))[i % 5]
        turned.save(folder / f"{i:03}.{('jpg', 'jpg', 'png', 'gif', 'webp')[i % 5]}")
    for copy in (0, 1):
        (folder / f"copy-{copy}").mkdir()
        broken_files(folder / f"copy-{copy}")
    result = command(
        "-m",
        "mec",
        "pretrain",
        folder,
        "--out",
        tmp_path / "run",
        "--epochs",
        "1",
        "--set",
        "views.size=32",
        timeout=500,
    )
    assert result.returncode == 0, result.stderr
    assert "20 images that cannot be read" in result.stdout
    skipped = lines(tmp_path / "run" / "skipped.jsonl")
    assert len(skipped) == 20
    assert all(line["reason"] for line in skipped)
    assert read_metrics(tmp_path / "run")


def test_digits_as_images_are_read_as_they_were(tmp_path):
    """The helper that other tests rely on: an image written is the image read."""
    for i, image in enumerate(digit_images(20)):
        image.save(tmp_path / f"{i:02}.png")
    pixels = open_data(str(tmp_path)).train.images.pixels
    assert np.array_equal(pixels[7, 0].numpy(), np.asarray(digit_images(20)[7]))
