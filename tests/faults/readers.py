"""Every reader of files: a small valid input, and the call that reads it as the commands do."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch


@dataclass(frozen=True)
class Reader:
    """FILE below a folder holds `valid`; `read` gets the folder."""

    file: str
    valid: bytes
    read: Callable[[Path], Any]
    layout: Callable[[Path], Any] = lambda folder: None  # what else has to lie there


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


def as_lines(*records: Any) -> bytes:
    return b"".join(as_json(record) + b"\n" for record in records)


SETTINGS = {
    "recipe_name": "digits", "data": "digits", "data_fingerprint": "ab", "images": 10, "seed": 0, "steps": 4,
    "steps_per_epoch": 2, "why": [], "asked": {"data": "digits", "seed": 0}, "version": "0.1",
}  # fmt: skip
METRICS = {
    "step": 1, "epoch": 0.5, "loss": -1.0, "lr": 0.1, "gradient_norm": 1.0, "agreement": 0.9, "similarity": 0.1,
    "effective_rank": 5.0, "effective_rank_limit": 10.0, "coding_ratio": 0.5, "coding_ratio_if_collapsed": 0.1,
    "norm_c": 0.5, "series_gap": 0.0, "loss_bound": -2.0,
}  # fmt: skip
RESULT = {
    "protocol": "transfer", "metric": "top-1", "value": 50.0, "unit": "%", "data": "dtd", "encoder": "mec",
    "settings": {"mode": "linear", "preset": "paper"}, "checkpoint": "abcdef0123",
}  # fmt: skip


def settings() -> bytes:
    from dataclasses import asdict

    from mec.recipes.table import RECIPES

    return as_json({**SETTINGS, "recipe": asdict(RECIPES["digits"])})


def with_settings(folder: Path) -> None:
    (folder / "settings.json").write_bytes(settings())


def read_settings(folder: Path) -> Any:
    from mec.training.run import read_settings, resumable, resume_command

    read_settings(folder)
    resume_command("digits", folder)
    return resumable(folder, {"seed": 0, "epochs": 3})


def read_health(folder: Path) -> Any:
    from mec.cli.commands import Health

    return Health(run_folder=folder).run()


def read_log(folder: Path) -> Any:
    from mec.training.runlog import Log

    return Log(folder, 1, True)


def read_tables(folder: Path) -> Any:
    from mec.reports import tables

    made = [tables.table_7([folder]), tables.table_8([folder])]
    return [tables.written(table, form) for table in made for form in tables.FORMS]


def encoder_bytes() -> bytes:
    from mec.networks.backbones import build_encoder
    from mec.networks.encoder_file import EncoderInfo, save_encoder

    global _ENCODER
    if _ENCODER is None:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            torch.manual_seed(0)
            encoder = build_encoder("resnet10-tiny", 8)
            moments = ((0.5,) * 3, (0.25,) * 3)
            info = EncoderInfo("resnet10-tiny", 256, 8, True, "bilinear", *moments, "mec", "digits", "digits", "", 4)
            save_encoder(Path(folder) / "encoder.safetensors", encoder, info)
            _ENCODER = (Path(folder) / "encoder.safetensors").read_bytes()
    return _ENCODER


_ENCODER: bytes | None = None


def write_metadata(folder: Path) -> None:
    """From the metadata of an encoder, as text, the file with its weights."""
    text = (folder / "metadata").read_bytes().decode("utf-8", "replace")
    tensors = safetensors.torch.load(encoder_bytes())
    safetensors.torch.save_file(tensors, folder / "encoder.safetensors", metadata={"mec": text})


def read_metadata(folder: Path) -> Any:
    from mec.networks.encoder_file import load_encoder

    write_metadata(folder)
    return load_encoder(folder)


def metadata() -> bytes:
    size = int.from_bytes(encoder_bytes()[:8], "little")
    return json.loads(encoder_bytes()[8 : 8 + size])["__metadata__"]["mec"].encode()


def read_encoder(folder: Path) -> Any:
    from mec.networks.encoder_file import load_encoder

    return load_encoder(folder)


def read_other_weights(folder: Path) -> Any:
    from mec.evaluation.subject import resolve

    return resolve(f"resnet18:{folder / 'weights.pth'}", device="cpu")


def checkpoint_bytes() -> bytes:
    import io

    file = io.BytesIO()
    torch.save({"network": {"w": torch.zeros(3)}, "found": [], "step": 4}, file)
    return file.getvalue()


def resnet_bytes() -> bytes:
    import io

    from torchvision.models import resnet18

    file = io.BytesIO()
    torch.save(resnet18().state_dict(), file)
    return file.getvalue()


def read_checkpoint(folder: Path) -> Any:
    from mec.runtime.checkpoints import in_run

    return in_run(folder).restore({"network": torch.nn.ParameterDict({"w": torch.zeros(3)})}, lambda _: None)


def packed(folder: Path) -> None:
    from helpers import write_images

    from mec.data.pack import pack

    write_images(folder / "images", 3)
    pack(folder / "images", folder / "packed", quiet=True)


def packed_bytes(name: str) -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        packed(Path(folder))
        return (Path(folder) / "packed" / name).read_bytes()


def read_packed(folder: Path) -> Any:
    from mec.data.opening import open_data

    data = open_data(str(folder / "packed"))
    return [data.train.images.name(i) for i in range(len(data.train))]


def read_tar(folder: Path) -> Any:
    from mec.data.opening import open_data

    return open_data(str(folder / "packed" / "train-000000.tar"))


def coco() -> bytes:
    return as_json(
        {
            "images": [{"id": 1, "file_name": "a.jpg", "width": 8, "height": 8}],
            "categories": [{"id": 1, "name": "cat"}],
            "annotations": [
                {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 4, 4], "iscrowd": 0,
                 "segmentation": [[1, 1, 5, 1, 5, 5]], "area": 8}
            ],
        }
    )  # fmt: skip


def read_coco(folder: Path) -> Any:
    from mec.evaluation.detection import annotations

    found = annotations.read_coco(folder, "x")
    found.fingerprint()
    found.largest_objects(2)
    return found.with_objects()


VOC = b"""<annotation><size><width>8</width><height>8</height></size><object><name>cat</name><difficult>0</difficult>
<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox></object></annotation>"""


def voc_layout(folder: Path) -> None:
    for name in ("Annotations", "ImageSets/Main"):
        (folder / "VOC2007" / name).mkdir(parents=True, exist_ok=True)
    (folder / "VOC2007/ImageSets/Main/trainval.txt").write_text("000001\n")
    (folder / "VOC2007/Annotations/000001.xml").write_bytes(VOC)


def read_voc(folder: Path) -> Any:
    from mec.evaluation.detection import annotations

    return annotations.read_voc(folder, [(2007, "trainval")]).with_objects()


SEQINFO = b"[Sequence]\nname=a\nimDir=img1\nframeRate=30\nseqLength=2\nimWidth=8\nimHeight=8\nimExt=.png\n"


def frames(folder: Path) -> None:
    from helpers import write_images

    write_images(folder / "clip" / "img1", 0)
    for i in (1, 2):
        (folder / "clip" / "img1" / f"{i:06}.png").write_bytes(IMAGE())


def IMAGE() -> bytes:
    import io

    from helpers import noise_image

    file = io.BytesIO()
    noise_image(0).save(file, "PNG")
    return file.getvalue()


def read_clip(folder: Path) -> Any:
    from mec.evaluation.tracking.motfiles import read_clip

    return read_clip(folder / "clip")


def clips(folder: Path) -> None:
    for name in ("a", "b"):
        (folder / "images" / "train" / name).mkdir(parents=True, exist_ok=True)


def read_seqmap(folder: Path) -> Any:
    from mec.evaluation.tracking.motfiles import list_clips

    return list_clips(folder, "train", "map.txt")


def read_boxes(folder: Path) -> Any:
    from mec.evaluation.tracking.motfiles import read_boxes

    return read_boxes(folder / "gt.txt", 5, unique=True)


def read_observed(folder: Path) -> Any:
    from mec.evaluation.tracking.motfiles import read_observed

    return read_observed(folder / "obs", 5, (100, 200))


def read_masks(folder: Path) -> Any:
    from mec.evaluation.tracking.motfiles import overlapping, read_masks

    rows = read_masks(folder / "gt.txt", 5, unique=True)
    overlapping(rows)
    return [row.decoded() for row in rows]


def mots() -> bytes:
    from mec.evaluation.tracking.motfiles import encoded_mask

    mask = np.zeros((8, 8), bool)
    mask[2:5, 2:5] = True
    return f"1 2001 2 8 8 {encoded_mask(mask)}\n2 2001 2 8 8 {encoded_mask(mask)}\n".encode()


def pose(layout: int) -> bytes:
    if layout == 2018:
        people = [{"image_id": 1, "keypoints": [1, 2, 1] * 17, "track_id": 0, "bbox_head": [1, 1, 2, 2], "score": 1}]
        images = [{"id": 1, "file_name": "a.jpg", "ignore_regions_x": [[1, 2]], "ignore_regions_y": [[1, 2]]}]
        return as_json({"images": images, "annotations": people})
    point = {"id": [0], "x": [1.0], "y": [2.0], "score": [1.0]}
    person = {"annopoints": [{"point": [point]}], "track_id": [1], "x1": [1], "y1": [1], "x2": [2], "y2": [2]}
    region = {"point": [{"x": [1], "y": [1]}]}
    frame = {"image": [{"name": "a.jpg"}], "annorect": [person], "ignore_regions": [region]}
    return as_json({"annolist": [frame]})


def read_pose(folder: Path) -> Any:
    from mec.evaluation.tracking.posefiles import poses_of, read_annotations, with_tracks

    path = folder / "pose.json"
    content = read_annotations(path)
    found = poses_of(content, path)
    return with_tracks(content, [[1] * len(frame.poses) for frame in found])


OTB = as_json({"a": {"img_names": ["a.png", "b.png"], "gt_rect": [[1, 1, 4, 4]] * 2, "init_rect": [1, 1, 4, 4]}})


def otb_layout(folder: Path) -> None:
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(IMAGE())


def read_otb(folder: Path) -> Any:
    from mec.evaluation.tracking.sot import read_otb

    return read_otb(folder)


def davis_layout(folder: Path) -> None:
    for i in range(3):
        for kind, suffix in (("JPEGImages", "jpg"), ("Annotations", "png")):
            path = folder / kind / "480p" / "a" / f"{i:05}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(IMAGE())


def read_davis(folder: Path) -> Any:
    from mec.evaluation.tracking.vos import read_davis

    return read_davis(folder)


def read_mask(folder: Path) -> Any:
    from mec.evaluation.tracking.vos import read_mask

    return read_mask(folder / "mask.png", (8, 8))


def mask_png() -> bytes:
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.eye(8, dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def read_image(folder: Path) -> Any:
    from mec.data.decoding import Picture, quiet, why_unreadable

    path = folder / "image.png"
    with quiet():
        if why_unreadable(str(path)) is None:
            Picture.of(path.read_bytes()).pixels()


def read_trial(folder: Path) -> Any:
    from mec.reports.trials import Trial, stored

    trial = Trial("mec", None, 0, sweep=False)
    place = folder / "runs" / "mec-lr-own-seed-0"
    place.mkdir(parents=True, exist_ok=True)
    os.replace(folder / "trial.json", place / "trial.json")
    return stored(trial, folder)


class _Images:
    name, fingerprint = "digits", "ab"

    def fits(self, stored: str) -> bool:
        from mec.data.dataset import Data

        return Data.fits(self, stored)  # type: ignore[arg-type]


def setup_of(folder: Path) -> Any:
    from rich.console import Console

    from mec.reports.options import Comparison
    from mec.reports.trials import Setup

    return Setup(Comparison(methods="mec"), _Images(), folder, "cpu", Console(quiet=True))  # type: ignore[arg-type]


def read_comparison(folder: Path) -> Any:
    from mec.reports.comparison import start_comparison

    setup = setup_of(folder)
    if (folder / "compare.json").read_bytes() == READERS["compare.json"].valid:
        (folder / "compare.json").write_text(
            json.dumps({"data": "digits", "data_fingerprint": "ab", **setup.options.asked})
        )
    return start_comparison(setup)


def read_pace(folder: Path) -> Any:
    from mec.reports.comparison import seconds_a_step

    return seconds_a_step(setup_of(folder))


def read_ledger(folder: Path) -> Any:
    from mec.runtime.records import Ledger

    ledger = Ledger(folder, "work", {"a": 1})
    (folder / "ledger").replace(ledger.path)
    return Ledger(folder, "work", {"a": 1}).once("b", lambda: 2)


def read_note(folder: Path) -> Any:
    from mec.evaluation.cache import cached

    (folder / "key.part").write_bytes(npy()[:-8])
    return cached(folder, "key", 3, lambda start, size: [torch.zeros(3 - start, size or 2)])


def read_cached(folder: Path) -> Any:
    from mec.evaluation.cache import cached

    return cached(folder, "key", 3, lambda start, size: [torch.zeros(3 - start, size or 2)])


def npy() -> bytes:
    import io

    file = io.BytesIO()
    np.save(file, np.zeros((3, 2), np.float32))
    return file.getvalue()


def coco_result(folder: Path) -> Any:
    from mec.evaluation.detection.runs import start_folder
    from mec.runtime.distributed import ALONE

    return start_folder(folder, {"protocol": "voc", "a": 1}, True, ALONE)


READERS: dict[str, Reader] = {
    "settings.json": Reader("settings.json", settings(), read_settings),
    "metrics.jsonl": Reader("metrics.jsonl", as_lines(METRICS, {**METRICS, "step": 2}), read_health, with_settings),
    "metrics.jsonl, resumed": Reader("metrics.jsonl", as_lines(METRICS, {**METRICS, "step": 2}), read_log),
    "skipped.jsonl": Reader("skipped.jsonl", as_lines({"path": "a", "reason": "b"}), read_log),
    "results.jsonl": Reader("results.jsonl", as_lines(RESULT, {**RESULT, "protocol": "linear"}), read_tables,
        with_settings),
    "settings.json of tables": Reader("settings.json", settings(), read_tables,
        lambda folder: (folder / "results.jsonl").write_bytes(as_lines(RESULT))),
    "metadata of an encoder": Reader("metadata", metadata(), read_metadata),
    "encoder.safetensors": Reader("encoder.safetensors", encoder_bytes(), read_encoder),
    "weights of other tools": Reader("weights.pth", resnet_bytes(), read_other_weights),
    "checkpoint": Reader("checkpoints/step-4.pt", checkpoint_bytes(), read_checkpoint),
    "index.json": Reader("packed/index.json", packed_bytes("index.json"), read_packed, packed),
    "index.npz": Reader("packed/index.npz", packed_bytes("index.npz"), read_packed, packed),
    "tar": Reader("packed/train-000000.tar", packed_bytes("train-000000.tar"), read_tar, packed),
    "tar of a pack": Reader("packed/train-000000.tar", packed_bytes("train-000000.tar"), read_packed, packed),
    "COCO": Reader("annotations/instances_x.json", coco(), read_coco),
    "VOC": Reader("VOC2007/Annotations/000001.xml", VOC, read_voc, voc_layout),
    "VOC's list": Reader("VOC2007/ImageSets/Main/trainval.txt", b"000001\n", read_voc, voc_layout),
    "detection's settings": Reader("settings.json", as_json({"protocol": "voc", "a": 1}), coco_result),
    "seqinfo.ini": Reader("clip/seqinfo.ini", SEQINFO, read_clip, frames),
    "seqmap": Reader("seqmaps/map.txt", b"name\na\nb\n", read_seqmap, clips),
    "MOT boxes": Reader("gt.txt", b"1,1,2,3,4,5,1,-1,-1,-1\n2,1,2,3,4,5,1,-1,-1\n", read_boxes),
    "MOT observed": Reader("obs/000001.txt", b"0.5 0.5 0.1 0.1 0.9\n", read_observed),
    "MOTS": Reader("gt.txt", mots(), read_masks),
    "PoseTrack 2017": Reader("pose.json", pose(2017), read_pose),
    "PoseTrack 2018": Reader("pose.json", pose(2018), read_pose),
    "OTB": Reader("OTB2015.json", OTB, read_otb, otb_layout),
    "DAVIS' list": Reader("ImageSets/2017/val.txt", b"a\n", read_davis, davis_layout),
    "DAVIS' masks": Reader("mask.png", mask_png(), read_mask),
    "image": Reader("image.png", IMAGE(), read_image),
    "trial.json": Reader("trial.json", as_json({"method": "mec", "lr": None, "seed": 0, "sweep": False}), read_trial),
    "compare.json": Reader("compare.json", as_json({"data": "digits", "methods": ["mec"]}), read_comparison),
    "pace.json": Reader("pace.json", as_json({"mec": 0.5}), read_pace),
    "ledger": Reader("ledger", as_lines({"about": {"a": 1}}, {"key": "a", "value": 1}), read_ledger),
    "note of features": Reader("key.json", as_json({"done": 1, "size": 2}), read_note),
    "features": Reader("key.npy", npy(), read_cached),
}  # fmt: skip
