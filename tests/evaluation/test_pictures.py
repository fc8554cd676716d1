"""The legend of a map is whole, whatever classes are called and however many there are."""

import pytest
from matplotlib.figure import Figure

from mec.evaluation.pictures import draw_classes


@pytest.mark.parametrize(
    "classes",
    [
        [f"a rather long name, that of class {i}" for i in range(10)],
        [f"class {i:02} of forty" for i in range(40)],
        [f"W{i}" * 12 for i in range(60)],
        ["a", "b"],
        ["one that is longer than all that a legend has room for, by far, of course"],
        [f"c{i}" for i in range(1000)],
        [],
    ],
    ids=lambda classes: str(len(classes)),
)
@pytest.mark.parametrize("maps", [1, 2])
def test_the_legend_is_never_cut(classes, maps):
    figure = Figure(figsize=(4.2 * maps, 4.4), layout="constrained")
    axes = figure.subplots(1, maps, squeeze=False)[0]
    draw_classes(figure, classes)
    figure.draw_without_rendering()
    width, height = figure.get_size_inches()
    boxes = [legend.get_window_extent() for legend in figure.legends]
    assert len(boxes) == (1 if 0 < len(classes) <= 60 else 0)
    for box in boxes:
        assert 0 <= box.x0 < box.x1 <= width * figure.dpi
        assert 0 <= box.y0 < box.y1 <= height * figure.dpi
        assert len(figure.legends[0].get_texts()) == len(classes)
    for axis in axes:  # and the map keeps its room
        assert axis.get_window_extent().height > 3 * figure.dpi
