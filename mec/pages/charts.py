"""Charts of a page, by bokeh: curves, and maps of images that show what lies under the pointer."""

from collections.abc import Mapping, Sequence
from typing import Any

# Okabe and Ito's colours, which the colour-blind tell apart; then more of the kind for further classes.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#b5a900", "#777777", "#7b3fa0", "#8c510a")
INK, GRID = "#808080", "#80808040"  # to be read on white and on black alike
THEME = {  # what all charts look like
    "attrs": {
        "Plot": {"background_fill_alpha": 0, "border_fill_alpha": 0, "outline_line_color": GRID},
        "Title": {"text_color": INK}, "Grid": {"grid_line_color": GRID},
        "Axis": {**dict.fromkeys(("axis_line_color", "major_tick_line_color", "minor_tick_line_color"), GRID),
                 **dict.fromkeys(("major_label_text_color", "axis_label_text_color"), INK)},
        "Legend": {"background_fill_alpha": 0, "border_line_alpha": 0, "label_text_color": INK,
                   "label_text_font_size": "8pt"},
    }
}  # fmt: skip
DASHES = ("solid", "dashed", "dotted", "dotdash")


def colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


Curve = tuple[Sequence[float], Sequence[float]]  # x, y


def curves(
    title: str, lines: Mapping[str, Curve], *, x: str = "step", limits: Mapping[str, Curve] | None = None,
    mark: tuple[float, str] | None = None, log: bool = False,
) -> Any:  # fmt: skip
    """A chart of named lines; `limits` are drawn thin and dashed, `mark` is a place on x with a word."""
    from bokeh.models import HoverTool
    from bokeh.models.annotations import Label, Span

    chart = _figure(title, x, y_axis_type="log" if log else "linear")
    several = len(lines) > 1 or bool(limits)
    for number, (name, (across, up)) in enumerate(lines.items()):
        look: dict[str, Any] = {"color": colour(number), "line_dash": DASHES[number // len(COLOURS) % len(DASHES)]}
        look |= {"legend_label": name} if several else {}
        drawn = chart.line(list(across), list(up), line_width=2, name=name, **look)
        told = [("", "$name"), (x, "$snap_x"), ("", "$snap_y{0.[000]}")]
        chart.add_tools(HoverTool(renderers=[drawn], tooltips=told))
    for name, (across, up) in (limits or {}).items():
        chart.line(list(across), list(up), color=INK, line_dash="dashed", legend_label=name)
    if mark is not None:
        chart.add_layout(Span(location=mark[0], dimension="height", line_color="#d55e00", line_dash="dotted"))
        words = Label(x=mark[0], y=6, y_units="screen", text=mark[1], text_color="#d55e00", text_font_size="9pt")
        chart.add_layout(words)
    if several:
        chart.legend.location = "center_right" if limits and len(lines) == 1 else "bottom_right"
    return chart


def maps(points: Mapping[str, Sequence[Sequence[float]]], columns: Mapping[str, Sequence[Any]], name: str) -> list[Any]:
    """A map of the same images for each set of points, by title; they share what is chosen, and one source, `name`.
    Columns have an entry an image: `image` (a data URI), `name`, `label`, `colour`, and what the page's script reads.
    """
    from bokeh.models import ColumnDataSource, HoverTool, TapTool

    places: dict[str, list[float]] = {}
    for number, found in enumerate(points.values()):
        places |= {f"x{number}": [x for x, _ in found], f"y{number}": [y for _, y in found]}
    source = ColumnDataSource({**columns, **places}, name=name)
    shown = (
        '<div><img src="@image" alt="" style="width:96px;height:96px;object-fit:contain;image-rendering:pixelated">'
        "<div>@name</div><div>@label</div></div>"
    )
    charts = []
    for number, title in enumerate(points):
        chart = _figure(title, "", height=420, x_axis=False)
        drawn = chart.scatter(
            f"x{number}", f"y{number}", source=source, size=7, color="colour", line_color=None, alpha=0.85,
            nonselection_alpha=0.35, selection_line_color=INK, selection_line_width=2,
        )  # fmt: skip
        chart.add_tools(HoverTool(renderers=[drawn], tooltips=shown), TapTool(renderers=[drawn]))
        charts.append(chart)
    return charts


def _figure(title: str, x: str, *, height: int = 230, x_axis: bool = True, **options: Any) -> Any:
    from bokeh.plotting import figure

    look: dict[str, Any] = {"sizing_mode": "stretch_width", "toolbar_location": None, "tools": ""}
    chart: Any = figure(title=title, height=height, x_axis_label=x or None, **look, **options)
    chart.axis.visible = chart.grid.visible = x_axis
    return chart
