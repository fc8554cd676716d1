"""`mec.evaluate` and `mec.features`: an encoder under a protocol, and what it makes of images, in one call each."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import MISSING, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image
from torch import Tensor, nn

from mec.data.dataset import Split
from mec.data.sources import open_images
from mec.errors import BadInput, home, nearest
from mec.evaluation.features import Features, extract
from mec.evaluation.pictures import draw_steps
from mec.evaluation.protocol import OnFeatures, Protocol
from mec.evaluation.protocols import PROTOCOLS, protocol_list
from mec.evaluation.results import CONFUSION, RESULTS, Result, labelled, record
from mec.evaluation.subject import resolve
from mec.networks.encoder_file import read_info
from mec.runtime.distributed import ALONE
from mec.runtime.flags import refuse_unknown
from mec.runtime.paths import ALL, kept_encoders

Encoder = str | Path | tuple[nn.Module, Callable[[Any], Tensor]]


def evaluate(run: Encoder | tuple[Features, Features], protocol: str, data: Any = None, **flags: Any) -> list[Result]:
    """Measure an encoder, as `mec evaluate RUN PROTOCOL DATA --FLAG VALUE` does.

    Args:
        run: a run folder, a file of weights or a name, as for the command ("random:resnet50", "pixels"); an encoder
            [m, 3, s, s] -> [m, e] with its transform, as `mec.load_encoder` gives them; or, for fewshot, knn and
            linear, the `mec.Features` of training and of test samples, of any modality.
        protocol: a word of the list below.
        data: a data set's name, a folder with train/CLASS/ and val|test/CLASS/, or what `mec.open_data` gives; for
            transfer, the names of its data sets. Detection and tracking take data_root in its place.
        flags: those that `mec evaluate RUN PROTOCOL --help` shows, with the same defaults: k=20, base_lr=0.1,
            labels_per_class=[1, 5], out="runs/x".

    Returns:
        The figures. Those of a run, a file or a name are also added to results.jsonl, as the command does; for an
        encoder in memory, or features, nothing is written unless `out` names a folder.

    Raises:
        TypeError: a flag that the protocol does not take, or one missing that it needs.
        BadInput: no such protocol, run or data, or a value that does not fit.

    Protocols:
    {protocols}"""
    if isinstance(run, tuple) and isinstance(run[0], Features) and data is None:
        data = ""  # features need none; a name given all the same is kept with the results
    return [*results_of(run, chosen(protocol, data, flags))]


evaluate.__doc__ = str(evaluate.__doc__).replace("{protocols}", protocol_list(100).replace("\n", "\n    "))


def chosen(word: str, data: Any, flags: dict[str, Any]) -> Protocol:
    """A protocol by its word, with flags as keywords.
    Raises TypeError: a flag that it does not take, or one missing that it needs. BadInput: no such protocol."""
    if word not in PROTOCOLS:
        raise BadInput(f"no protocol {word!r}. {nearest(word, PROTOCOLS)}")
    kind, call = PROTOCOLS[word], f"evaluate(..., {word!r})"
    known = {field.name: field.default is MISSING for field in fields(kind)}
    if "data" not in known and data:
        raise TypeError(f"{call} takes no data: data_root=DIR says where its benchmark is.")
    if "data" in known and data is not None:
        flags = {"data": data, **flags}
    refuse_unknown(word, flags, [*known])
    lacking = [name for name, required in known.items() if required and name not in flags]
    if lacking:
        raise TypeError(f"{call} needs {' and '.join(lacking)}.")
    return kind(**{name: home(value) for name, value in flags.items()})


def results_of(run: Any, protocol: Protocol, say: Callable[[str], None] = lambda _: None) -> Iterator[Result]:
    """The results as they come, each recorded where `evaluate` says; `say` is told where that is.
    Raises BadInput: a flag does not fit; said before anything is loaded."""
    protocol.check()
    if isinstance(run, tuple) and isinstance(run[0], Features):
        train, test = run
        return _of_features(train, test, protocol)
    if str(run).endswith(ALL) and not Path(str(run)).exists():
        return _of_every(Path(home(str(run).removesuffix(ALL))), protocol, say)
    return _of_encoder(run, protocol, say)


def _of_every(folder: Path, protocol: Protocol, say: Callable[[str], None]) -> Iterator[Result]:
    """Of each encoder that a run kept, and of its last; then a picture of the figures over the steps."""
    last = read_info(folder).steps
    runs = {step: f"{folder}@{step}" for step in kept_encoders(folder) if step != last} | {last: f"{folder}@last"}
    if len(runs) < 2:
        raise BadInput(f"{folder}{ALL}: it kept no encoders on its way; mec pretrain --keep-every N does.")
    found: list[tuple[int, Result]] = []
    for step, run in runs.items():
        say(f"step {step:,}")
        for result in _of_encoder(run, protocol, lambda _: None):
            found.append((step, result))
            yield result
    if not found:  # of several processes the first has them
        return
    picture = Path(protocol.out or folder) / f"steps-{found[0][1].protocol}.png"
    draw_steps(found, picture)
    say(f"Figures over the steps: {picture}")


def _of_encoder(run: Encoder, protocol: Protocol, say: Callable[[str], None]) -> Iterator[Result]:
    kept = protocol.out is not None or not isinstance(run, tuple)
    with nullcontext(protocol.out) if kept else TemporaryDirectory() as folder:
        subject = replace(protocol, out=folder).subject(run)
        subject.kept = kept
        for words in subject.told:
            say(words)
        alone = not protocol.shared
        if alone and subject.ranks.size > 1:
            say(f"One process measures this: the other {subject.ranks.size - 1} have nothing to do.")
            subject.ranks = ALONE if subject.ranks.rank == 0 else subject.ranks
        for number, found in enumerate(() if alone and subject.ranks.rank else protocol.measure(subject)):
            if subject.ranks.rank:  # the first process tells and keeps it
                continue
            (result,) = labelled([found], encoder=subject.name, checkpoint=subject.checkpoint)
            record(subject.folder, [result])
            if kept and not number:
                also = "" if result.confusion is None else f"; figures by class are in {subject.folder / CONFUSION}"
                say(f"Results are added to {subject.folder / RESULTS}{also}")
            yield result


def _of_features(train: Features, test: Features, protocol: Protocol) -> Iterator[Result]:
    if not isinstance(protocol, OnFeatures):
        fit = [word for word, kind in PROTOCOLS.items() if issubclass(kind, OnFeatures)]
        raise BadInput(f"features can be measured by {', '.join(fit)}; the other protocols need an encoder.")
    if protocol.crops > 1:
        raise BadInput(f"crops is {protocol.crops}: features that were made have no crops. Give the encoder instead.")
    for result in protocol.score(train, test, device="cpu"):
        (result,) = labelled([result], encoder="features", data=str(protocol.data))
        if protocol.out is not None:
            record(Path(protocol.out), [result])
        yield result


def features(
    run: Encoder, images: str | Path | Sequence[str | Path] | Sequence[Image.Image] | Split, *,
    labels: str | Path | None = None, device: str = "auto", workers: int = 0, batch_size: int = 256,
    say: Callable[[str], None] = lambda _: None,
) -> Features:  # fmt: skip
    """What an encoder makes of images: features x [n, e], and the name of the image of each row.

    Args:
        run: as for `evaluate`.
        images: a folder, all of whose images are read, nested in any way, in the order of their names; tars, as for
            `pretrain`; a CSV with a column of paths; a text with a path a line; a file; a list of paths, or of PIL
            images; or a part of a data set: `mec.open_data("digits").train`.
        labels: a CSV with the columns path and label, or "folders". Default: those that the images bring (a part, tars,
            a CSV with labels); an image without one has y -1.
        device: "auto", "cpu" or "cuda".
        workers: processes that decode images.
        batch_size: images that go through the encoder together.
        say: is told what was left out and how deep values are scaled, before the encoder runs.

    Returns:
        x [n, e] float32, y [n], names, and the images that were skipped, with reasons: they could not be read.

    Raises:
        BadInput: no image, or too many that cannot be read; or features that are not finite.
        FileNotFoundError: no such run or folder."""
    subject = resolve(run, device=device, workers=workers)
    source = open_images(images, labels, scale=subject.info.scale)
    data, split = source.data, source.split
    for words in (*subject.told, *data.words()):
        say(words)
    where: Any = {"device": subject.device, "batch_size": batch_size, "workers": workers}
    found = extract(subject.encoder, split, subject.transform, **where)
    found.check_finite()
    lost = {image.path for image in found.skipped}
    names = tuple(name for i, name in enumerate(source.names) if split.images.name(i) not in lost)
    data = replace(data, skipped=(*data.skipped, *found.skipped))
    return replace(found, names=names, skipped=data.skipped, told=tuple(data.words()))
