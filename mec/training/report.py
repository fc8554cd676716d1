"""The end of a run: accuracy beside raw pixels and the untrained encoder, a picture, the verdict, what to do next."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Column, Table
from torch import Tensor, nn

from mec.data.dataset import TEST, Data, Split, limited
from mec.errors import Diverged
from mec.evaluation.features import Features, extract, is_grey, measured_parts, pixels, tell_skipped
from mec.evaluation.pictures import embedding_map, map_points
from mec.evaluation.probing.fewshot import fewshot
from mec.evaluation.probing.knn import knn
from mec.evaluation.probing.linear import linear
from mec.evaluation.results import CONFUSION, Result, labelled, named, record
from mec.evaluation.subject import pixels_info
from mec.networks.encoder_file import ENCODER, image_transform
from mec.runtime.files import file_hash, write_json
from mec.runtime.records import append_records
from mec.training.health import METRICS, health
from mec.training.loggers import tidy
from mec.training.page import REPORT, closing, column_of, write_report
from mec.training.run import Run
from mec.training.runlog import Watch
from mec.training.shown import AFTER, BEFORE, SHOWN, shown_images, unlabelled_picture, views_of

HEALTH = "health.json"
MEASURE_BANK, MEASURE_TEST = 10_000, 10_000  # most images in the closing table
UNEVEN = 1.5  # times the share of a class in even data: the largest class's from which balanced accuracy is shown
FEW_CLASSES = 100  # most classes for which logistic regressions are fitted there
MAPPED = 3  # least images of a map
PICTURED, MAPPED_TEST = 400, 1000  # most images of a map: training images without labels, test images


def finish_run(run: Run, encoder: nn.Module, untrained: Mapping[str, Tensor], watch: Watch) -> None:
    """The closing table, the verdict on health, and what to do next."""
    out, console, images = run.folder, watch.console, watch.images
    if images is not None and images.can_be_measured:
        with console.status("measuring"):
            parts = measured_parts(images, MEASURE_BANK, MEASURE_TEST)
            rows = closing_features(run, encoder, untrained, watch, parts)
            tell_skipped(rows[run.recipe.method], console)
            results = closing_results(run, rows, images)
            both = {BEFORE: rows[before_name(run)][1], AFTER: rows[run.recipe.method][1]}
            draw(run, images, parts[1], both, MAPPED_TEST)
        record(out, results)
        measures = [(r, column_of({**vars(r), "metric": "top-1"}) or r.protocol) for r in results]
        figures = {tidy(f"results/{r.encoder}/{measure}/{r.metric}"): r.value for r, measure in measures}
        watch.loggers.figures({"step": run.steps, **figures})
        console.print(closing_table(results, images))
        if words := without_gain(results, run.recipe.method):
            console.print(words, style="yellow", soft_wrap=True)
    elif images is not None and len(images.train) >= MAPPED:
        with console.status("drawing"):
            split = limited(Split(images.train.images), PICTURED, seed=0)
            found = partial(extract, transform=image_transform(run.encoder), device=watch.device, workers=watch.workers)
            both = {BEFORE: found(Standing(encoder, untrained), split), AFTER: found(encoder, split)}
            draw(run, images, split, both, PICTURED)
    verdict = health(out)
    write_json(out / HEALTH, verdict.record())
    watch.loggers.tell("words", "verdict", str(verdict), run.steps)
    for path in sorted([*out.glob("*.png"), *(out / CONFUSION).glob("*.png")]):
        watch.loggers.tell("picture", path, run.steps)
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
    append_records(run.folder / METRICS, [{"step": error.step, "loss": error.loss, "diverged": error.figures}])
    verdict = health(run.folder)
    write_json(run.folder / HEALTH, verdict.record())
    watch.loggers.tell("words", "verdict", str(verdict), error.step)
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
        other = ["--split", images.split] * (images.split != TEST)
        commands.append(["mec", "evaluate", folder, "knn", data, *root, *other])
    commands.append(["mec", "export", folder, "--to", "timm"])
    return "Next:  " + "\n       ".join(map(shlex.join, commands[:2]))


class Standing(nn.Module):
    """An encoder as it was: the module with other weights, which are never loaded into it."""

    def __init__(self, encoder: nn.Module, weights: Mapping[str, Tensor]):
        super().__init__()
        device = next(encoder.parameters()).device
        self.encoder, self.weights = encoder, {name: tensor.to(device) for name, tensor in weights.items()}

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
    raw = partial(extract, nn.Flatten(), transform=image_transform(pixels_info()), workers=watch.workers)
    if bank.images.pixels is not None:
        raw = partial(pixels, grey=is_grey(bank.images) and is_grey(test.images))
    rows = {"pixels": (raw(bank), raw(test))}  # as `mec evaluate pixels` has them
    for name, module in ((before_name(run), Standing(encoder, untrained)), (run.recipe.method, encoder)):
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


def draw(run: Run, images: Data, split: Split, features: Mapping[str, Features], most: int) -> None:
    """embedding.png, a map of images before and after training, and shown.json for the run's page; nothing of images
    that are too few, or have no finite features.

    Args:
        split: training images, or, where there are labels, test images.
        features: of the split's images that can be read, BEFORE and AFTER.
        most: images taken, at equal distances."""
    lost = {image.path for part in features.values() for image in part.skipped}
    kept = np.asarray([i for i in range(len(split)) if not lost or split.images.name(i) not in lost], dtype=np.int64)
    if len(kept) < MAPPED or any(len(p.x) != len(kept) or not p.x.isfinite().all() for p in features.values()):
        return
    method, path, step = run.recipe.method, run.folder / "embedding.png", -(-len(kept) // most)
    few = split.take(kept[::step])
    features = {name: Features(part.x[::step], part.y[::step]) for name, part in features.items()}
    seen = partial(views_of, recipe=run.recipe, seed=run.settings.seed)
    if images.can_be_measured:
        titles = ("before training", f"after training ({method})")
        points = dict(zip(features, embedding_map(dict(zip(titles, features.values())), images.classes, path)))
        views, about = seen(Split(images.train.images)), (images.split, images.classes, len(split))
    else:
        points = {name: map_points(part) for name, part in features.items()}
        views, about = seen(few), ("train", (), len(images.train))
    shown = shown_images(few, *about[:2], features, points, views, about[2])
    if not images.can_be_measured:
        unlabelled_picture(shown, views, method, path)
    write_json(run.folder / SHOWN, asdict(shown))


def closing_table(results: Sequence[Result], images: Data) -> Table:
    """Top-1, and balanced accuracy where classes differ in size; below it whose figures these are, and how sure."""
    top1 = [r for r in results if r.metric == "top-1"]
    largest = top1[0].largest_class or 0.0
    uneven = largest > UNEVEN * 100 / max(1, len(images.classes))
    told = closing([vars(r) for r in results], balanced=uneven)
    assert told is not None
    right = [Column(name, justify="right") for name in told["columns"]]
    table = Table("features", *right, title=f"{images.name}: accuracy on held-out images ({images.split}), %")
    for name, _, cells in told["rows"]:
        table.add_row(name, *cells)
    last = [r for r in top1 if r.encoder == top1[-1].encoder and r.n == 1]
    ranges = ", ".join("{} {:.1f} to {:.1f}".format(column_of(vars(r)), *r.interval) for r in last if r.interval)
    table.caption = f"{top1[0].images:,} images, the largest class is {largest:.1f} %. 95 % intervals: {ranges}"
    return table


def without_gain(results: Sequence[Result], method: str) -> str:
    """A sentence where the trained features beat raw pixels, or the untrained encoder, by none of the measures."""
    top1 = {(r.encoder, column_of(vars(r))): r.value for r in results if r.metric == "top-1"}
    others = {"untrained": "the untrained encoder's", "start": "those of the weights given", "pixels": "raw pixels"}
    for other, name in others.items():
        pairs = [(value, top1[method, what]) for (who, what), value in top1.items() if who == other]
        if pairs and all(mine <= theirs for theirs, mine in pairs):
            return (
                f"By none of these measures do the trained features beat {name}: so far training has gained nothing "
                "for these classes. Train longer, or look whether the views keep what tells them apart (mec recipes)."
            )
    return ""
