"""Pictures of detections and of a detector's training."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mec.evaluation.detection.annotations import Annotations, read_image_at
from mec.evaluation.detection.masks import decoded
from mec.evaluation.detection.metrics import Detections
from mec.runtime.files import write_figure

LEAST_SCORE = 0.5  # of the detections drawn
COLOURS = ("tab:red", "tab:blue", "tab:green", "tab:orange", "tab:purple", "tab:cyan", "tab:pink", "tab:olive")


def detection_picture(
    annotations: Annotations, detections: Sequence[Detections], chosen: Sequence[int], path: Path, *, masks: bool
) -> None:
    """The chosen photographs: objects in dashed white, detections coloured by class with name and score."""
    from matplotlib.colors import to_rgb
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    columns = min(3, len(chosen))
    rows = -(-len(chosen) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.7 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.axis("off")
    for axis, index in zip(axes, chosen):
        found = detections[index]
        pixels = np.asarray(read_image_at(annotations, index)).astype(float) / 255
        shown = [n for n in np.argsort(found.scores) if found.scores[n] >= LEAST_SCORE]  # the surest on top
        for n in shown:
            if masks and found.masks is not None:
                inside, tint = decoded(found.masks[n]), to_rgb(COLOURS[found.labels[n] % len(COLOURS)])
                pixels[inside] = 0.5 * pixels[inside] + 0.5 * np.array(tint)
        axis.imshow(pixels)
        for x0, y0, x1, y1 in annotations.boxes[annotations.rows(index)]:
            axis.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, color="white", linestyle="--"))
        for n in shown:
            (x0, y0, x1, y1), colour = found.boxes[n], COLOURS[found.labels[n] % len(COLOURS)]
            axis.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, color=colour, linewidth=2))
            label = f"{annotations.classes[found.labels[n]]} {found.scores[n]:.2f}"
            axis.text(x0, y0, label, color="white", fontsize=7, backgroundcolor=colour, va="bottom")
        axis.set_title(f"{annotations.ids[index]}: {len(shown)} of score {LEAST_SCORE:g} or more", fontsize=9)
    write_figure(figure, path)


def training_curves(lines: Sequence[Mapping[str, float]], path: Path) -> None:
    """Each loss over iterations."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axis = figure.subplots()
    for name in dict.fromkeys(key for line in lines for key in line if key.startswith("loss")):
        points = zip(*((line["iteration"], line[name]) for line in lines))
        axis.plot(*points, label=name, linewidth=2 if name == "loss" else 1)
    axis.set(xlabel="iteration", ylabel="loss", yscale="log")
    axis.legend(frameon=False, fontsize=8)
    write_figure(figure, path)
