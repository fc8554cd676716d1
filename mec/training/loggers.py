"""A run in the tools that people watch runs with, beside metrics.jsonl: thin writers on libraries that are extras.

Each gets settings, the figures of metrics.jsonl, results, verdict and pictures. One that fails is told of once and left
out: training goes on. Which runs of theirs a folder has stands in loggers.json, so that resuming goes on with them.
"""

import contextlib
import io
import math
import os
import re
import secrets
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mec.data.decoding import open_image
from mec.errors import BadInput, nearest, needs
from mec.runtime.files import first_line, read_json, write_json
from mec.runtime.records import read_records

KNOWN = "loggers.json"
PROJECT = "mec"  # where the tool's own variable (WANDB_PROJECT, MLFLOW_EXPERIMENT_NAME, TRACKIO_PROJECT) names no other


class Writer(Protocol):
    """A run in one tool; `key` finds it again, and `where` says to a reader where it is."""

    key: str
    where: str

    def settings(self, values: Mapping[str, Any]) -> None: ...
    def figures(self, values: Mapping[str, float], step: int) -> None: ...
    def words(self, name: str, text: str, step: int) -> None: ...
    def picture(self, path: Path, step: int) -> None: ...
    def close(self, ended: bool) -> None: ...


class TensorBoard:
    def __init__(self, folder: Path, key: str | None):
        from torch.utils.tensorboard import SummaryWriter

        self.key, self.where = "tensorboard", str(folder / "tensorboard")
        self.writer: Any = SummaryWriter(self.where, flush_secs=10)

    def settings(self, values: Mapping[str, Any]) -> None:
        self.words("settings", "\n".join(f"    {name}: {value}" for name, value in values.items()), 0)

    def figures(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def words(self, name: str, text: str, step: int) -> None:
        self.writer.add_text(name, text, step)

    def picture(self, path: Path, step: int) -> None:
        self.writer.add_image(path.stem, np.asarray(open_image(path).convert("RGB")), step, dataformats="HWC")

    def close(self, ended: bool) -> None:
        self.writer.close()


class Wandb:
    def __init__(self, folder: Path, key: str | None):
        import wandb

        self.image, self.over = wandb.Image, {"allow_val_change": True}  # --epochs of a resumed run
        self.key = key or secrets.token_hex(4)
        about: dict[str, Any] = {"project": os.environ.get("WANDB_PROJECT", PROJECT), "name": folder.resolve().name}
        quiet = wandb.Settings(silent=True, console="off")
        self.run: Any = wandb.init(dir=str(folder), id=self.key, resume="allow", settings=quiet, **about)
        self.where = str(folder / "wandb" if self.run.offline else self.run.url)

    def settings(self, values: Mapping[str, Any]) -> None:
        self.run.config.update(dict(values), **self.over)

    def figures(self, values: Mapping[str, float], step: int) -> None:
        self.run.log(dict(values), step=step)

    def words(self, name: str, text: str, step: int) -> None:
        self.run.summary[name] = text

    def picture(self, path: Path, step: int) -> None:
        self.run.log({path.stem: self.image(str(path))}, step=step)

    def close(self, ended: bool) -> None:
        self.run.finish(exit_code=int(not ended))


class Trackio(Wandb):  # whose run is called alike
    def __init__(self, folder: Path, key: str | None):
        import trackio

        self.image, self.over = trackio.Image, {}
        self.key = key or f"{folder.resolve().name}-{secrets.token_hex(4)}"
        project = os.environ.get("TRACKIO_PROJECT", PROJECT)
        about: dict[str, Any] = {"embed": False, "auto_log_gpu": False, "auto_log_cpu": False}
        self.run = trackio.init(project, self.key, resume="allow", **about)
        self.where = f"trackio show --project {project}"

    def words(self, name: str, text: str, step: int) -> None:
        self.run.log({name: text}, step=step)

    def close(self, ended: bool) -> None:
        self.run.finish()


class MLflow:
    def __init__(self, folder: Path, key: str | None):
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # what is asked for is a record, not news of it
        import mlflow

        self.client: Any = mlflow.MlflowClient()
        if key is None:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
            found = self.client.get_experiment_by_name(name)
            experiment = found.experiment_id if found else self.client.create_experiment(name)
            key = self.client.create_run(experiment, run_name=folder.resolve().name).info.run_id
        else:
            self.client.update_run(key, status="RUNNING")
        self.key, self.where = str(key), f"run {key} of {mlflow.get_tracking_uri()}"

    def settings(self, values: Mapping[str, Any]) -> None:
        known = self.client.get_run(self.key).data.params  # which are never changed
        for name in values.keys() - known.keys():
            self.client.log_param(self.key, name, str(values[name])[:500])

    def figures(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self.client.log_metric(self.key, name, value, step=step)

    def words(self, name: str, text: str, step: int) -> None:
        self.client.set_tag(self.key, name, text)

    def picture(self, path: Path, step: int) -> None:
        self.client.log_artifact(self.key, str(path))

    def close(self, ended: bool) -> None:
        self.client.set_terminated(self.key, "FINISHED" if ended else "FAILED")


LOGGERS: dict[str, Callable[[Path, str | None], Writer]] = {
    "tensorboard": TensorBoard, "trackio": Trackio, "wandb": Wandb, "mlflow": MLflow
}  # fmt: skip


def check_loggers(named: Sequence[str]) -> None:
    """Raises BadInput: one is not known, or its library not installed."""
    for name in named:
        if name not in LOGGERS:
            raise BadInput(f"--logger is {name}. {nearest(name, LOGGERS)}")
        needs(f"--logger {name}", name, name)


class Loggers:
    """All that a run writes to, told the same; what metrics.jsonl held when they were opened they have."""

    def __init__(self, say: Callable[[str], None] = print):
        self.say, self.writers, self.had = say, dict[str, Writer](), set[tuple[int, str]]()

    def tell(self, what: str, *given: Any) -> None:
        """Each writer, by its method `what`."""
        for name, writer in [*self.writers.items()]:
            try:
                with quietly():
                    getattr(writer, what)(*given)
            except Exception as error:  # whatever a library raises, a disk, a network: the run matters more
                del self.writers[name]
                words = f"--logger {name} failed ({first_line(error)[:200]}) and gets nothing more of this run"
                self.say(f"{words}; training goes on, and metrics.jsonl has all figures.")

    def figures(self, line: Mapping[str, Any]) -> None:
        """The finite numbers of a line of metrics.jsonl; a resumed run repeats some, which are there."""
        if values := {k: v for k, v in finite(line).items() if (line["step"], k) not in self.had}:
            self.tell("figures", values, line["step"])


@contextlib.contextmanager
def opened_loggers(folder: Path, named: Sequence[str], settings: Any, say: Callable[[str], None]) -> Iterator[Loggers]:
    """Those that are named, or without any those that the run in the folder had; closed at the end.
    Raises BadInput: one cannot be opened, in its library's words."""
    before: dict[str, str] = read_json(folder / KNOWN, dict) if (folder / KNOWN).exists() else {}
    found, lines = Loggers(say), read_records(folder / "metrics.jsonl", step=int)
    try:
        for name in named or before:
            check_loggers([name])
            try:
                with quietly():
                    writer = LOGGERS[name](folder, before.get(name))
                    writer.settings(leaves(settings))
                    for line in [] if name in before else lines:
                        writer.figures(finite(line), line["step"])
            except Exception as error:
                words = f"--logger {name}: {first_line(error)[:300]}. Nothing was trained: mend that, and start again"
                raise BadInput(f"{words} with --resume, or with --logger of another.") from error
            found.writers[name] = writer
            say(f"{name}: {writer.where}")
        if found.writers:
            write_json(folder / KNOWN, {**before, **{name: writer.key for name, writer in found.writers.items()}})
        found.had = {(line["step"], name) for line in lines for name in line}
        yield found
    except BaseException:
        found.tell("close", False)
        raise
    found.tell("close", True)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """What libraries print and warn of is not the run's to say."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def finite(line: Mapping[str, Any]) -> dict[str, float]:
    numbers = {name: value for name, value in line.items() if isinstance(value, (int, float))}
    return {name: value for name, value in numbers.items() if name not in ("step", "epoch") and math.isfinite(value)}


def leaves(value: Any, name: str = "") -> dict[str, Any]:
    """Plain data of any depth as one table, with dotted names that all of the tools take.

    >>> leaves({"recipe": {"views": [{"size": 8}]}, "asked": {}})
    {'recipe.views.0.size': 8}"""
    if not isinstance(value, (dict, list, tuple)):
        return {tidy(name): value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {k: v for key, part in items for k, v in leaves(part, f"{name}.{key}" if name else str(key)).items()}


def tidy(name: str) -> str:
    """Without what MLflow takes in no name: brackets, percent signs.

    >>> tidy("results/mec-joint/k-NN (20)/top-1")
    'results/mec-joint/k-NN 20/top-1'"""
    return re.sub(r"[^\w\-. /]", "", name)
