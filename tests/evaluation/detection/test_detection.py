"""Runs on VOC and COCO from the command line to results, pictures and curves; schedules; sweeps and seeds."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import photographs
import pytest
import torch
from helpers import as_stored, lines, stored_in
from PIL import Image

from mec.cli.main import main
from mec.errors import BadInput
from mec.evaluation.detection import runs, training
from mec.evaluation.detection.batches import Sizes
from mec.evaluation.detection.network import Regions
from mec.evaluation.detection.presets import PRESETS, Preset, changed_preset, preset_named
from mec.evaluation.detection.protocols import PROTOCOLS
from mec.evaluation.detection.runs import as_results
from mec.evaluation.detection.saved import in_original
from mec.evaluation.detection.training import detector_lr
from mec.evaluation.evaluate import evaluate
from mec.evaluation.subject import resolve
from mec.networks.backbones import SMALL

TINY = {
    "iterations": 4,
    "drops": (3,),
    "warmup": 2,
    "sizes": Sizes((48, 64), 64, 96),
    "seeds": (0,),
    "batch_size": 2,
    "regions": Regions(anchors=32, before_nms=(200, 100), after_nms=(50, 20), regions=16),
    "precise": 2,
}


@pytest.fixture(autouse=True)
def _tiny(tmp_path, monkeypatch):
    """Presets of four iterations, a narrow backbone called resnet10-narrow, and no cache at home."""
    monkeypatch.setitem(SMALL, "resnet10-narrow", {**SMALL["resnet10-tiny"], "channels": (8, 12, 16, 24)})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for protocol, table in PRESETS.items():
        for name in table:
            monkeypatch.setitem(PRESETS[protocol], name, replace(table[name], **TINY))


def subject(folder: Path):
    return resolve("random:resnet10-narrow", device="cpu", image_size=64, out=folder)


def detect(subject, protocol, root, *, iterations=None, seeds=None, lr=None, quiet=False, **flags):
    """By the protocol's default preset, changed."""
    name, published = preset_named(protocol, None)
    changed = changed_preset(published, iterations=iterations, seeds=seeds, lr=lr)
    return runs.detect(subject, PROTOCOLS[protocol](data_root=root, **flags), name, changed, quiet=quiet)


@pytest.mark.parametrize("protocol", ["voc", "voc0712", "coco"])
def test_a_command_gives_results_pictures_and_curves(protocol, tmp_path, capsys):
    root = photographs.coco(tmp_path / "data") if protocol == "coco" else photographs.voc(tmp_path / "data")
    photographs.voc(root, photographs.SCENES[:2], year=2012)
    out = tmp_path / "run"
    words = ["evaluate", "random:resnet10-narrow", protocol, "--data-root", str(root), "--out", str(out)]
    assert main([*words, "--device", "cpu", "--image-size", "64"]) == 0
    printed = capsys.readouterr().out
    results = lines(out / "results.jsonl")
    again = evaluate(words[1], protocol, data_root=str(root), out=tmp_path / "again", device="cpu", image_size=64)
    assert as_stored(again) == stored_in(out) == stored_in(tmp_path / "again")
    names = ["AP", "AP50", "AP75"]
    if protocol == "coco":
        names = [f"{kind} {n}" for kind in ("box", "mask") for n in [*names, "AP50 medium and large"]]
    assert [r["metric"] for r in results] == names
    assert all(r["protocol"] == protocol and r["unit"] == "%" and 0 <= r["value"] <= 100 for r in results)
    assert all(r["encoder"] == "random:resnet10-narrow" and r["settings"]["lr"] == 0.02 for r in results)
    rule = "COCO" if protocol == "coco" else "VOC 2007"
    assert all((r["data"], r["settings"]["rule"]) == ("data", rule) for r in results)  # the folder's name: not VOC2007
    assert f"{protocol} {names[0]}" in printed
    (folder,) = (p for p in out.glob("*/lr-*") if p.is_dir())
    for name in ("detections.png", "curves.png"):
        with Image.open(folder / name) as picture:
            assert np.asarray(picture.convert("RGB")).std() > 10
    logged = lines(folder / "metrics.jsonl")
    assert [line["iteration"] for line in logged] == [1, 4]
    assert all(math.isfinite(line["loss"]) for line in logged)
    assert ("loss_mask" in logged[0]) == (protocol == "coco")
    assert json.loads((folder / "result.json").read_text())["seconds_per_iteration"] > 0


def test_resuming_a_finished_run_only_reads_and_other_settings_are_refused(tmp_path, monkeypatch):
    root = photographs.voc(tmp_path / "data")

    def run(**options):
        return detect(subject(tmp_path / "run"), "voc", root, quiet=True, **options)

    first = run()
    monkeypatch.setattr(training.DetectorRun, "fit", None)  # would fail
    assert [r.value for r in run(resume=True)] == [r.value for r in first]
    with pytest.raises(BadInput, match="other settings"):
        run(resume=True, iterations=8)


def test_an_encoder_that_a_probe_laid_out_anew_trains_the_same_detector(tmp_path):
    root, losses = photographs.voc(tmp_path / "data"), []
    for name, layout in (("first", torch.contiguous_format), ("after a probe", torch.channels_last)):
        given = resolve("random:resnet10-tiny", device="cpu", image_size=64, out=tmp_path / name)
        given.encoder.to(memory_format=layout)
        detect(given, "voc", root, quiet=True)
        (log,) = (tmp_path / name).glob("*/lr-*/metrics.jsonl")
        losses.append([line["loss"] for line in lines(log)])
    assert losses[0] == losses[1]


def test_seeds_and_rates_may_be_added_to_a_finished_run(tmp_path, monkeypatch):
    root, trained = photographs.voc(tmp_path / "data"), []

    def to_the_end(self):
        trained.append((self.lr, self.seed))
        self.out.mkdir(parents=True)
        found = {"scores": {"AP": 50.0 + self.seed}, "lr": self.lr, "seed": self.seed}
        (self.out / "result.json").write_text(json.dumps(found))
        return found

    monkeypatch.setattr(training.DetectorRun, "to_the_end", to_the_end)

    def run(**options):
        return detect(subject(tmp_path / "run"), "voc", root, quiet=True, **options)

    run(seeds=(0,))
    (result,) = run(seeds=(0, 1, 2), resume=True)
    assert (result.n, result.value) == (3, 51)
    run(seeds=(0, 1, 2), sweep=True, resume=True)
    assert trained == [(0.02, 0), (0.02, 1), (0.02, 2), (0.03, 0), (0.05, 0), (0.1, 0), (0.2, 0)]
    with pytest.raises(BadInput) as refused:
        run(seeds=(0,), iterations=8, resume=True)
    assert "iterations: 4 before, 8 now" in str(refused.value)
    assert "sizes" not in str(refused.value)


def test_photographs_that_are_missing_are_told_before_hours_of_training(tmp_path):
    root = photographs.voc(tmp_path / "voc")
    next(root.rglob("000001.jpg")).unlink()
    with pytest.raises(BadInput, match=r"photographs of 2007 trainval: 1 of 4 files are missing, .*000001.jpg"):
        detect(subject(tmp_path / "run"), "voc", root, quiet=True)
    root = photographs.coco(tmp_path / "coco")
    for path in root.rglob("val2017/*"):
        path.unlink()
    with pytest.raises(BadInput, match=r"photographs of val2017: \d+ of \d+ files are missing"):
        detect(subject(tmp_path / "run"), "coco", root, quiet=True)


def test_another_precision_is_refused_on_resuming_and_results_tell_it(tmp_path, monkeypatch):
    done = {"scores": {"AP": 1.0}, "lr": 0.02, "seed": 0}
    monkeypatch.setattr(training.DetectorRun, "to_the_end", lambda self: {**done, "bf16": self.task.bf16})
    root = photographs.voc(tmp_path / "data")

    def run(**options):
        return detect(subject(tmp_path / "run"), "voc", root, quiet=True, **options)

    assert run(precision="bf16")[0].settings["precision"] == "bf16"
    with pytest.raises(BadInput, match="precision: 'bf16' before, 'fp32' now"):
        run(precision="fp32", resume=True)
    assert run(precision="bf16", resume=True)[0].settings["precision"] == "bf16"


def test_results_of_other_iterations_than_the_presets_say_so():
    published = PRESETS["voc"]["voc07"]
    assert runs.result_name("voc", "voc07", changed_preset(published, seeds=(3,), lr=0.5)) == "voc07"
    assert runs.result_name("voc", "voc07", changed_preset(published, iterations=2)) == "voc07, changed"


def test_objects_without_polygons_are_told_and_boxes_alone_are_learned_where_no_object_has_one(
    tmp_path, monkeypatch, capsys
):
    masks = []

    def to_the_end(self):
        masks.append((self.task.data.masks, self.detector.roi_heads.has_mask(), self.task.data.train.points is None))
        return {"scores": {"AP": 1.0}, "lr": 0.02, "seed": 0}

    monkeypatch.setattr(training.DetectorRun, "to_the_end", to_the_end)
    root = photographs.coco(tmp_path / "data")
    file = root / "annotations" / "instances_train2017.json"
    content = json.loads(file.read_text())
    content["annotations"][0].pop("segmentation")
    file.write_text(json.dumps(content))
    detect(subject(tmp_path / "one"), "coco", root)
    assert "1 objects have no polygon" in capsys.readouterr().out
    for found in content["annotations"]:
        found["segmentation"] = found["segmentation"] if found["iscrowd"] else []
    file.write_text(json.dumps(content))
    detect(subject(tmp_path / "none"), "coco", root)
    said = capsys.readouterr().out
    assert f"No object of {file} has a polygon" in said
    assert "boxes alone are learned, by Faster R-CNN" in said
    assert masks == [(True, True, False), (False, False, True)]


def test_a_search_and_seeds_give_mean_and_spread_of_the_best_rate(tmp_path, monkeypatch):
    heard = []

    def to_the_end(self):
        heard.append((self.lr, self.seed))
        if self.lr == 0.2:
            raise runs.Diverged("diverged")
        value = 50 - 100 * abs(self.lr - 0.05) + self.seed
        return {"scores": {"AP": value, "AP50": 2 * value}, "lr": self.lr, "seed": self.seed}

    monkeypatch.setattr(training.DetectorRun, "to_the_end", to_the_end)
    root = photographs.voc(tmp_path / "data")
    results = detect(subject(tmp_path / "run"), "voc", root, sweep=True, seeds=(0, 1, 2), quiet=True)
    assert heard == [(0.02, 0), (0.03, 0), (0.05, 0), (0.1, 0), (0.2, 0), (0.05, 1), (0.05, 2)]
    *search, ap, ap50 = results
    assert [r.settings["lr"] for r in search] == [0.02, 0.03, 0.05, 0.1]
    assert (ap.value, ap.spread, ap.n, ap.settings["lr"]) == (51, 1, 3, 0.05)
    assert (ap50.value, ap50.spread) == (102, 2)
    assert ap.settings["lr_chosen_on"] == "the test photographs"
    with pytest.raises(runs.Diverged):
        detect(subject(tmp_path / "one"), "voc", root, lr=0.2, quiet=True)


def test_a_loss_that_is_no_number_stops_the_run_before_it_spoils_the_weights(tmp_path):
    root = photographs.voc(tmp_path / "data")
    with pytest.raises(runs.Diverged, match=r"diverged at iteration \d.*--lr"):
        detect(subject(tmp_path / "run"), "voc", root, lr=90.0, iterations=40, quiet=True)
    assert not list((tmp_path / "run").rglob("result.json"))


def test_the_learning_rate_warms_up_and_drops():
    preset = replace(PRESETS["coco"]["coco-1x"], iterations=90_000, drops=(60_000, 80_000), warmup=1_000)
    rates = [detector_lr(preset, 0.02, i) for i in (0, 500, 1_000, 59_999, 60_000, 80_000)]
    assert rates == pytest.approx([0.02 * 0.001, 0.02 * (0.001 + 0.999 / 2), 0.02, 0.02, 0.002, 0.0002])
    shorter = changed_preset(preset, iterations=900, batch_size=8, seeds=(3, 4))
    assert (shorter.drops, shorter.warmup, shorter.batch_size, shorter.seeds) == ((600, 800), 90, 8, (3, 4))


def test_detections_are_scaled_clipped_and_emptied_ones_left_out():
    result = {
        "boxes": torch.tensor([[10.0, 20.0, 30.0, 40.0], [95.0, 0.0, 120.0, 50.0], [105.0, 0.0, 120.0, 50.0]]),
        "scores": torch.tensor([0.9, 0.8, 0.7]),
        "labels": torch.tensor([2, 0, 1]),
    }
    found = in_original(result, (200, 100), (100, 50))
    assert found.boxes.tolist() == [[5, 10, 15, 20], [47.5, 0, 60, 25], [52.5, 0, 60, 25]]
    found = in_original(result, (100, 100), (100, 50))
    assert found.boxes.tolist() == [[10, 10, 30, 20], [95, 0, 100, 25]]
    assert found.labels.tolist() == [2, 0]


def test_results_name_what_was_run():
    runs = [{"scores": {"AP": 10.0}, "lr": 0.1, "seed": 5}]
    (result,) = as_results("voc", {}, 0.1, runs, {"preset": "quick"})
    assert (result.value, result.spread, result.n, result.seed) == (10, None, 1, 5)
    assert result.settings == {"preset": "quick", "lr": 0.1, "seeds": [5], "values": [10.0]}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--preset", "voc0712-24k"], "none of voc's. Did you mean"),
        (["--sweep", "--lr", "0.1"], "leave out --lr 0.1"),
        (["--lr", "0"], "--lr is 0.0"),
        (["--seeds", "1,1"], "--seeds is 1,1: each seed once"),
        (["--seeds", "one"], "--seeds is 'one'"),
        (["--iterations", "0"], "--iterations is 0"),
        (["--batch-size", "-2"], "--batch-size is -2"),
    ],
)
def test_bad_flags_are_named(flags, words, tmp_path, capsys):
    root = photographs.voc(tmp_path / "data")
    out = ["--data-root", str(root), "--out", str(tmp_path / "run"), "--image-size", "64"]
    assert main(["evaluate", "random:resnet10-narrow", "voc", *out, *flags]) == 2
    assert words in capsys.readouterr().err


AS_SHIPPED = {name: preset for table in PRESETS.values() for name, preset in table.items()}  # tests put others in
PUBLISHED = {  # MoCo's detectron2 configurations and VISSL's
    "voc0712-24k": (24_000, (18_000, 22_000), 100, 16, 480, 5),
    "voc07": (7_266, (5_450, 6_661), 100, 16, 480, 5),
    "voc07-vissl": (12_500, (9_500,), 100, 16, 480, 5),
    "coco-1x": (90_000, (60_000, 80_000), 1_000, 16, 640, 1),
}


def test_presets_are_the_published_ones():
    assert AS_SHIPPED.keys() >= PUBLISHED.keys()
    for name in PUBLISHED:
        preset = AS_SHIPPED[name]
        assert isinstance(preset, Preset)
        numbers = (preset.iterations, preset.drops, preset.warmup, preset.batch_size, preset.sizes.train[0])
        assert (*numbers, len(preset.seeds)) == PUBLISHED[name]
        assert preset.sizes.train[-1] == preset.sizes.test == 800
        assert {b - a for a, b in zip(preset.sizes.train, preset.sizes.train[1:])} == {32}
        assert (preset.sizes.most, preset.lr, preset.momentum, preset.weight_decay) == (1333, 0.02, 0.9, 1e-4)
        assert (preset.regions, preset.precise, preset.warmup_factor) == (Regions(), 200, 0.001)
    assert Regions() == Regions((32, 64, 128, 256, 512), 256, (12_000, 6_000), (2_000, 1_000), 512, 100)
