"""The end of a run: accuracy beside raw pixels and the untrained encoder, a picture, the verdict, what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from mec.data.dataset import Data
from mec.data.images import Stored
from mec.evaluation.features import Features, extract, is_grey, measured_parts, pixels, tell_skipped
from mec.evaluation.map import embedding_map
from mec.evaluation.probing.fewshot import fewshot
from mec.evaluation.probing.knn import knn
from mec.evaluation.probing.linear import linear
from mec.evaluation.results import Result, labelled, record
from mec.networks import encoder_file
from mec.networks.encoder_file import EncoderInfo
from mec.objectives.methods import method_named
from mec.runtime import files
from mec.training import health
from mec.training.run import RunSettings

HEALTH = "health.json"


MEASURE_BANK, MEASURE_TEST = 10_000, 10_000  # most images in the closing table


FEW_CLASSES = 100  # most classes for which logistic regressions are fitted there


MAPPED = 3  # least images of a map


def finish_run(
    out: Path,
    run: RunSettings,
    info: EncoderInfo,
    encoder: nn.Module,
    untrained: Mapping[str, Tensor],
    images: Data | None,
    device: torch.device,
    workers: int,
    console: Console,
) -> None:
    """The closing table, the verdict on health, and what to do next."""
    if images is not None and images.can_be_measured:
        with console.status("measuring"):
            rows = closing_features(run, info, encoder, untrained, images, device, workers)
            tell_skipped(rows[run.recipe.method], console)
            results = closing_results(out, run, rows, images)
            draw_map(out, rows, images)
        record(out, results)
        console.print(closing_table(results, images))
    verdict = health.judge(health.read_metrics(out), judged_settings(run))
    files.write_json(out / HEALTH, asdict(verdict))
    console.print(f"Training was {verdict}", style="green" if verdict.healthy else "red", highlight=False)
    picture = f", picture: {out / 'embedding.png'}" if (out / "embedding.png").exists() else ""
    console.print(f"Encoder: {out / encoder_file.ENCODER}{picture}", highlight=False)
    if images is not None:
        console.print(next_steps(out, run, images), highlight=False)


def next_steps(out: Path, run: RunSettings, images: Data) -> str:
    """Two commands that a user may want now."""
    folder = shlex.quote(str(out))
    root = run.asked.get("data_root")
    data = [run.asked.get("data") or images.name, *(["--data-root", root] if root else [])]
    measure = f"mec evaluate {folder} knn {shlex.join(data)}"
    export = f"mec export {folder} --to timm   (weights for other tools)"
    return (
        f"Next:  mec embed {folder} FOLDER --out features.npz   (features of your images)\n"
        f"       {measure if images.can_be_measured else export}"
    )


def judged_settings(run: RunSettings) -> dict[str, Any]:
    return {**method_named(run.recipe.method).settings, **run.recipe.settings}


def closing_features(
    run: RunSettings,
    info: EncoderInfo,
    encoder: nn.Module,
    untrained: Mapping[str, Tensor],
    images: Data,
    device: torch.device,
    workers: int,
) -> dict[str, tuple[Features, Features]]:
    """Training and test features of raw pixels, of the encoder before training, and after."""
    bank, test = measured_parts(images, MEASURE_BANK, MEASURE_TEST)
    transform = encoder_file.image_transform(info)
    trained = {k: v.clone() for k, v in encoder.state_dict().items()}
    rows: dict[str, tuple[Features, Features]] = {}
    if isinstance(bank.images, Stored):
        grey = is_grey(bank.images) and is_grey(test.images)
        rows["pixels"] = pixels(bank, grey=grey), pixels(test, grey=grey)
    for name, weights in (("untrained", untrained), (run.recipe.method, trained)):
        encoder.load_state_dict(weights)
        train, held_out = (extract(encoder, part, transform, device=device, workers=workers) for part in (bank, test))
        rows[name] = train, held_out
    return rows


def closing_results(
    out: Path, run: RunSettings, rows: Mapping[str, tuple[Features, Features]], images: Data
) -> list[Result]:
    """k-NN of each row; few labels and the linear probe where classes are few: for a thousand they take hours."""
    counts = np.bincount(next(iter(rows.values()))[0].y.numpy())
    few = [n for n in (1, 5) if n <= counts[counts > 0].min()]
    results = []
    for name, (train, test) in rows.items():
        found = knn(train, test)
        if (counts > 0).sum() <= FEW_CLASSES:
            found = [*fewshot(train, test, labels_per_class=few), *found, *linear(train, test)]
        results += labelled(
            found,
            encoder=name,
            data=images.name,
            data_fingerprint=images.fingerprint,
            checkpoint=files.file_hash(out / encoder_file.ENCODER) if name == run.recipe.method else "",
        )
    return results


def draw_map(out: Path, rows: Mapping[str, tuple[Features, Features]], images: Data, most: int = 1000) -> None:
    """embedding.png: a map of test images before and after training."""
    shown = {}
    for name, (_, test) in rows.items():
        step = -(-len(test.x) // most)
        if name != "pixels" and len(test.x) >= MAPPED:
            title = "before training" if name == "untrained" else f"after training ({name})"
            shown[title] = Features(test.x[::step], test.y[::step])
    if shown:
        embedding_map(shown, images.classes, out / "embedding.png")


def closing_table(results: Sequence[Result], images: Data) -> Table:
    assert images.test is not None
    top1 = [r for r in results if r.metric == "top-1"]
    table = Table(title=f"{images.name}: accuracy on held-out images, %")
    table.add_column("features")
    columns = list(dict.fromkeys(column_of(r) for r in top1))
    for column in columns:
        table.add_column(column, justify="right")
    for encoder in dict.fromkeys(r.encoder for r in top1):
        row = {column_of(r): r for r in top1 if r.encoder == encoder}
        cells = [f"{r.value:.1f}" + (f" ± {r.spread:.1f}" if r.spread else "") for r in (row[c] for c in columns)]
        table.add_row({"pixels": "raw pixels", "untrained": "untrained encoder"}.get(encoder, encoder), *cells)
    return table


def column_of(result: Result) -> str:
    if result.protocol == "fewshot":
        count = result.settings["labels_per_class"]
        return f"{count} label{'s' * (count > 1)} a class"
    return {"knn": f"k-NN ({result.settings.get('k')})", "linear-fast": "linear probe"}[result.protocol]
