"""The end of a run: accuracy beside raw pixels and the untrained encoder, a picture, the verdict, what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Column, Table
from torch import Tensor, nn

from mec.data.dataset import Data, Split, limited
from mec.errors import Diverged
from mec.evaluation.features import Features, extract, is_grey, measured_parts, pixels, tell_skipped
from mec.evaluation.map import embedding_map, map_points
from mec.evaluation.probing.fewshot import fewshot
from mec.evaluation.probing.knn import knn
from mec.evaluation.probing.linear import linear
from mec.evaluation.results import Result, labelled, named, record
from mec.evaluation.subject import pixels_info
from mec.networks.encoder_file import ENCODER, image_transform
from mec.runtime.files import file_hash, write_json
from mec.runtime.records import append_records
from mec.training.health import METRICS, health
from mec.training.page import REPORT, write_report
from mec.training.picture import readable_thumbnails, unlabelled_picture, views_of
from mec.training.run import Run
from mec.training.runlog import Watch
from mec.training.shown import AFTER, BEFORE, NAMES, shown_images, write_shown

HEALTH = "health.json"
MEASURE_BANK, MEASURE_TEST = 10_000, 10_000  # most images in the closing table
UNEVEN = 1.5  # times the share of a class in even data: the largest class's from which balanced accuracy is shown
FEW_CLASSES = 100  # most classes for which logistic regressions are fitted there
MAPPED = 3  # least images of a map
PICTURED = 400  # most images of a map without labels


def finish_run(run: Run, encoder: nn.Module, untrained: Mapping[str, Tensor], watch: Watch) -> None:
    """The closing table, the verdict on health, and what to do next."""
    out, console, images = run.folder, watch.console, watch.images
    if images is not None and images.can_be_measured:
        with console.status("measuring"):
            parts = measured_parts(images, MEASURE_BANK, MEASURE_TEST)
            rows = closing_features(run, encoder, untrained, watch, parts)
            tell_skipped(rows[run.recipe.method], console)
            results = closing_results(run, rows, images)
            draw_labelled(run, rows, images, parts[1])
        record(out, results)
        console.print(closing_table(results, images))
        if words := without_gain(results, run.recipe.method):
            console.print(words, style="yellow", soft_wrap=True)
    elif images is not None and len(images.train) >= MAPPED:
        with console.status("drawing"):
            draw_unlabelled(run, encoder, untrained, watch)
    verdict = health(out)
    write_json(out / HEALTH, verdict.record())
    console.print(f"Training was {verdict}", style="green" if verdict.healthy else "red", soft_wrap=True)
    picture = f", picture: {out / 'embedding.png'}" if (out / "embedding.png").exists() else ""
    if watch.report:
        with console.status("writing the page"):
            picture += f", page: {write_report([out], out / REPORT)}"
    console.print(f"Encoder: {out / ENCODER}{picture}", soft_wrap=True)
    if images is not None:
        console.print(next_steps(run, images), soft_wrap=True, end="\n" if run.encoder.backbone != "custom" else "")


def diverged(run: Run, error: Diverged, watch: Watch) -> None:
    """Note a divergence where `mec health` finds it: a line of metrics.jsonl, health.json, and the run's page."""
    line = {"step": error.step, "loss": error.loss, "diverged": error.figures}
    append_records(run.folder / METRICS, [line])
    write_json(run.folder / HEALTH, health(run.folder).record())
    if watch.report:
        watch.console.print(f"Page: {write_report([run.folder], run.folder / REPORT)}", soft_wrap=True)


def next_steps(run: Run, images: Data) -> str:
    """Commands that a user may want now, each of which runs as it is; none for a module of the caller's own."""
    if run.encoder.backbone == "custom":
        return ""
    folder, asked = str(run.folder), run.settings.asked
    root = [word for f in ("data_root", "labels") if asked.get(f) for word in (f"--{f.replace('_', '-')}", asked[f])]
    data = asked.get("data")
    commands = []
    if data and Path(data).is_dir():
        commands.append(["mec", "embed", folder, data, "--out", "features.npz"])
    if images.can_be_measured and data:
        commands.append(["mec", "evaluate", folder, "knn", data, *root])
    commands.append(["mec", "export", folder, "--to", "timm"])
    return "Next:  " + "\n       ".join(map(shlex.join, commands[:2]))


class Standing(nn.Module):
    """An encoder as it was: the module with other weights, which are never loaded into it."""

    def __init__(self, encoder: nn.Module, weights: Mapping[str, Tensor]):
        super().__init__()
        self.encoder, self.weights = encoder, dict(weights)

    def forward(self, images: Tensor) -> Tensor:
        return torch.func.functional_call(self.encoder, self.weights, (images,))


def before_name(run: Run) -> str:
    return "start" if run.settings.asked.get("init") else "untrained"


def closing_features(
    run: Run, encoder: nn.Module, untrained: Mapping[str, Tensor], watch: Watch, parts: tuple[Split, Split]
) -> dict[str, tuple[Features, Features]]:
    """Features of both parts, training and test images: of raw pixels, of the encoder before training, and after."""
    bank, test = parts
    transform = image_transform(run.encoder)
    rows: dict[str, tuple[Features, Features]] = {}
    if bank.images.pixels is not None:
        grey = is_grey(bank.images) and is_grey(test.images)
        rows["pixels"] = pixels(bank, grey=grey), pixels(test, grey=grey)
    else:  # as `mec evaluate pixels` has them
        raw = partial(extract, nn.Flatten(), transform=image_transform(pixels_info()), workers=watch.workers)
        rows["pixels"] = raw(bank), raw(test)
    before = Standing(encoder, {name: tensor.to(watch.device) for name, tensor in untrained.items()})
    for name, module in ((before_name(run), before), (run.recipe.method, encoder)):
        found = partial(extract, module, transform=transform, device=watch.device, workers=watch.workers)
        rows[name] = found(bank), found(test)
    return rows


def closing_results(run: Run, rows: Mapping[str, tuple[Features, Features]], images: Data) -> list[Result]:
    """k-NN of each row; few labels and the linear probe where classes are few: for a thousand they take hours."""
    counts = np.bincount(next(iter(rows.values()))[0].y.numpy())
    few = [n for n in (1, 5) if n <= counts[counts > 0].min()]
    classes = int((counts > 0).sum())
    results = []
    for name, (train, test) in rows.items():
        found = knn(train, test)
        if 1 < classes <= FEW_CLASSES:
            found = [*fewshot(train, test, labels_per_class=few), *found, *linear(train, test)]
        checkpoint = file_hash(run.folder / ENCODER) if name == run.recipe.method else ""
        about: dict[str, Any] = {**images.about}
        found = named(found, images.classes)
        if name != run.recipe.method or classes > FEW_CLASSES:  # figures by class are kept of what was trained
            about["confusion"] = None
        results += labelled(found, encoder=name, checkpoint=checkpoint, **about)
    return results


def draw_labelled(
    run: Run, rows: Mapping[str, tuple[Features, Features]], images: Data, test: Split, most: int = 1000
) -> None:
    """embedding.png, a map of test images before and after training; and what the run's page shows of them."""
    lost = {image.path for image in rows[run.recipe.method][1].skipped}
    kept = np.asarray([i for i in range(len(test)) if not lost or test.images.name(i) not in lost], dtype=np.int64)
    both = {BEFORE: rows[before_name(run)][1], AFTER: rows[run.recipe.method][1]}
    if len(kept) < MAPPED or any(len(part.x) != len(kept) for part in both.values()):
        return
    step = -(-len(kept) // most)
    shown = {name: Features(part.x[::step], part.y[::step]) for name, part in both.items()}
    titles = ("before training", f"after training ({run.recipe.method})")
    drawn = embedding_map(dict(zip(titles, shown.values())), images.classes, run.folder / "embedding.png")
    views = views_of(Split(images.train.images), run.recipe, run.settings.seed)
    part, points = test.take(kept[::step]), dict(zip(both, drawn))
    write_shown(run.folder, shown_images(part, images.split, images.classes, shown, points, views, len(test)))


def draw_unlabelled(run: Run, encoder: nn.Module, untrained: Mapping[str, Tensor], watch: Watch) -> None:
    """embedding.png of a run without labels: training images before and after, their spectrum, their views; and what
    the run's page shows of them."""
    assert watch.images is not None
    split, small = readable_thumbnails(limited(Split(watch.images.train.images), PICTURED, seed=0))
    if len(split) < MAPPED:
        return
    before = Standing(encoder, {name: tensor.to(watch.device) for name, tensor in untrained.items()})
    found = partial(extract, transform=image_transform(run.encoder), device=watch.device, workers=watch.workers)
    rows = {BEFORE: found(before, split), AFTER: found(encoder, split)}
    if any(len(part.x) != len(small) or not part.x.isfinite().all() for part in rows.values()):
        return
    points = {name: map_points(part) for name, part in rows.items()}
    views = views_of(split, run.recipe, run.settings.seed)
    named_rows = dict(zip(("before training", f"after training ({run.recipe.method})"), rows.values()))
    unlabelled_picture(named_rows, points[AFTER], small, views, run.folder / "embedding.png")
    write_shown(run.folder, shown_images(split, "train", (), rows, points, views, len(watch.images.train)))


def closing_table(results: Sequence[Result], images: Data) -> Table:
    """Top-1, and balanced accuracy where classes differ in size; below it whose figures these are, and how sure."""
    top1 = [r for r in results if r.metric == "top-1"]
    largest = top1[0].largest_class or 0.0
    if largest > UNEVEN * 100 / max(1, len(images.classes)):
        also = [r for r in results if r.metric == "balanced accuracy" and r.protocol != "fewshot"]
        top1 = sorted([*top1, *also], key=lambda r: r.metric, reverse=True)
    columns = list(dict.fromkeys(column_of(r) for r in top1))
    right = [Column(name, justify="right") for name in columns]
    table = Table("features", *right, title=f"{images.name}: accuracy on held-out images ({images.split}), %")
    for encoder in dict.fromkeys(r.encoder for r in top1):
        row = {column_of(r): r for r in top1 if r.encoder == encoder}
        cells = [f"{r.value:.1f}" + (f" ± {r.spread:.1f}" if r.spread else "") for r in (row[c] for c in columns)]
        table.add_row(NAMES.get(encoder, encoder), *cells)
    last = [r for r in top1 if r.encoder == top1[-1].encoder and r.interval is not None and r.n == 1]
    ranges = ", ".join("{} {:.1f} to {:.1f}".format(column_of(r), *r.interval) for r in last if r.interval)
    table.caption = f"{top1[0].images:,} images, the largest class is {largest:.1f} %. 95 % intervals: {ranges}"
    return table


def without_gain(results: Sequence[Result], method: str) -> str:
    """A sentence where the trained features beat raw pixels, or the untrained encoder, by none of the measures."""
    top1 = {(r.encoder, column_of(r)): r.value for r in results if r.metric == "top-1"}
    others = {"untrained": "the untrained encoder's", "start": "those of the weights given", "pixels": "raw pixels"}
    for other, name in others.items():
        pairs = [(value, top1[method, column]) for (who, column), value in top1.items() if who == other]
        if pairs and all(mine <= theirs for theirs, mine in pairs):
            return (
                f"By none of these measures do the trained features beat {name}: so far training has gained nothing "
                "for these classes. Train longer, or look whether the views keep what tells them apart (mec recipes)."
            )
    return ""


def column_of(result: Result) -> str:
    if result.protocol == "fewshot":
        count = result.settings["labels_per_class"]
        return f"{count} label{'s' * (count > 1)} a class"
    balanced = ", balanced" * (result.metric != "top-1")
    return {"knn": f"k-NN ({result.settings.get('k')})", "linear-fast": "linear probe"}[result.protocol] + balanced
