"""A protocol's figures over the encoders that a run kept, as a picture."""

from collections.abc import Sequence
from pathlib import Path

from mec.evaluation.results import Result
from mec.runtime.files import write_figure


def draw_steps(found: Sequence[tuple[int, Result]], path: Path) -> None:
    """The protocol's first figure over the steps, a line for each k or number of labels, with its 95 % intervals."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axis = figure.subplots()
    lines: dict[str, list[tuple[int, Result]]] = {}
    for step, result in found:
        count = result.settings.get("k", result.settings.get("labels_per_class"))
        if result.metric == found[0][1].metric:
            lines.setdefault(result.metric + f", {count}" * (count is not None), []).append((step, result))
    for name, line in lines.items():
        steps, values = [step for step, _ in line], [r.value for _, r in line]
        (drawn,) = axis.plot(steps, values, marker="o", label=name)
        if all(r.interval for _, r in line):
            low, high = zip(*(r.interval for _, r in line if r.interval))
            axis.fill_between(steps, low, high, color=drawn.get_color(), alpha=0.12, linewidth=0)
    one = found[0][1]
    axis.set(xlabel="step", ylabel=one.unit, title=f"{one.protocol} on {one.data} ({one.split})")
    axis.legend(fontsize=8)
    axis.grid(alpha=0.3)
    write_figure(figure, path)
