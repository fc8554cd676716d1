"""`mec evaluate RUN PROTOCOL ...`: every protocol's flags and the function it calls, in one table.

No torch here: the command line reads this before it loads anything heavy. A protocol is a frozen dataclass whose fields
are its flags and whose `measure` takes a `mec.evaluate.subject.Subject` and gives results, one by one or all at once;
they are printed and stored as they come. To add one: write the dataclass, and a row of PROTOCOLS.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from mec.errors import BadInput

if TYPE_CHECKING:
    from mec.data.dataset import Data
    from mec.evaluation.classifier import Training
    from mec.evaluation.results import Result
    from mec.evaluation.subject import Subject
    from mec.evaluation.tracking.multiobject import Benchmark


DataSet = Annotated[Positional[str], arg(metavar="DATA")]


# Flags that may be left out; what happens then is said in words.
Folder = Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")]


File = Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")]


Name = Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")]


Names = Annotated[str | None, arg(metavar="A,B,...", help_behavior_hint="")]


Number = Annotated[int | None, arg(metavar="N", help_behavior_hint="")]


Real = Annotated[float | None, arg(metavar="X", help_behavior_hint="")]


@dataclass(frozen=True, kw_only=True)
class Protocol(ABC):
    """What every protocol takes."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the encoder runs."""
    out: Folder = None
    """Folder for results.jsonl and cached features. Default: RUN, or the folder of a file that `mec` wrote; else
    runs/NAME."""

    def subject(self, run: str) -> Subject:
        """What RUN names, as these flags have it."""
        from mec.evaluation.subject import resolve

        return resolve(run, device=self.device, out=self.out)

    @abstractmethod
    def measure(self, subject: Subject) -> Iterable[Result]:
        """Results that name their data; encoder, checkpoint and time are added by the caller."""


@dataclass(frozen=True, kw_only=True)
class OnImages(Protocol):
    """What protocols take that read single images."""

    image_size: Number = None
    """Side of the images the encoder gets, px. Default: what it was trained on, where that is known; else 224."""
    workers: int = 0
    """Processes that decode images."""

    def subject(self, run: str) -> Subject:
        from mec.evaluation.subject import resolve

        return resolve(run, device=self.device, out=self.out, image_size=self.image_size, workers=self.workers)


@dataclass(frozen=True, kw_only=True)
class OnLabels(OnImages):
    """What protocols take that learn from one labelled data set and test on its other part."""

    data: DataSet
    """digits, a data set's name, or a folder with train/CLASS/ and val|test/CLASS/."""
    data_root: Folder = None
    """Where a torchvision data set's files are; imagenet reads DIR/train and DIR/val."""
    download: bool = False
    """Fetch a torchvision data set from its own home."""
    limit: Number = None
    """At most this many training images, and as many test images, for a quick look: results say so."""

    def open(self) -> Data:
        """The data set, which has labels on both sides.

        Raises:
            BadInput: it is not there, or has no labels.
        """
        from mec.data.dataset import limited
        from mec.data.opening import open_data

        data = open_data(self.data, root=self.data_root, download=self.download, limit=self.limit)
        if not data.can_be_measured:
            raise BadInput(
                f"{self.data} has no labels to measure with: it needs folders train/CLASS/, and val/CLASS/ or "
                "test/CLASS/."
            )
        assert data.test is not None
        return replace(data, test=limited(data.test, self.limit, seed=0))

    def results(self, data: Data, found: Iterable[Result], **settings: Any) -> list[Result]:
        """The results with the data they were measured on, and settings that the function did not know."""
        if self.limit is not None:
            settings["limit"] = self.limit
        return [
            replace(result, data=data.name, data_fingerprint=data.fingerprint, settings={**result.settings, **settings})
            for result in found
        ]


@dataclass(frozen=True, kw_only=True)
class FewShot(OnLabels):
    """Logistic regression on a few labels a class, over seeded draws: mean and spread."""

    labels_per_class: str = "1,5"
    """Numbers of labels, with commas."""
    draws: int = 20
    """Random draws of the labelled images."""
    seed: int = 0
    """Of the draws."""

    def measure(self, subject: Subject) -> list[Result]:
        numbers = whole_numbers(self.labels_per_class, "--labels-per-class")
        from mec.evaluation.probing.fewshot import fewshot

        data = self.open()
        train, test = subject.both(data)
        found = fewshot(train, test, labels_per_class=numbers, draws=self.draws, seed=self.seed)
        return self.results(data, found)


@dataclass(frozen=True, kw_only=True)
class Knn(OnLabels):
    """The cosine-weighted vote of the k nearest training images."""

    k: str = "10,20,100,200"
    """Numbers of neighbours, with commas."""
    temperature: float = 0.07
    """A neighbour weighs exp(cosine / temperature)."""

    def measure(self, subject: Subject) -> list[Result]:
        numbers = whole_numbers(self.k, "--k")
        from mec.evaluation.probing.knn import knn

        data = self.open()
        train, test = subject.both(data)
        return self.results(data, knn(train, test, k=numbers, temperature=self.temperature, device=subject.device))


@dataclass(frozen=True, kw_only=True)
class Trained(OnLabels):
    """What protocols take that train on augmented views. Each of these is the preset's where it is not given; results
    of other numbers than the preset's say so: paper, changed."""

    base_lr: Real = None
    """Learning rate; times batch / 256 where the preset scales it."""
    batch_size: Number = None
    """Images a step."""
    micro_batch_size: Number = None
    """Images that go through the network together, where memory is short: gradients of a batch's parts add up, batch
    norm sees the parts. Default: the batch; 256 where the backbone is frozen, which changes no figure."""
    epochs: Number = None
    """Passes over the labelled images."""
    crop: Real = None
    """The smallest share of an image's area that a crop covers."""
    seed: int = 0
    """Of the head, order and views."""

    def changed(self, recipe: Training) -> Training:
        """The recipe with what was given on the command line."""
        flags = ("base_lr", "head_lr", "batch_size", "micro_batch_size", "epochs", "steps", "head_norm")
        asked: dict[str, Any] = {name: getattr(self, name, None) for name in flags}
        asked["crop"] = None if self.crop is None else (self.crop, 1.0)
        if self.epochs is not None:
            recipe = replace(recipe, steps=None)
        return replace(recipe, **{name: value for name, value in asked.items() if value is not None})


@dataclass(frozen=True, kw_only=True)
class Linear(Trained):
    """A linear layer on the frozen backbone.

    fast (results say linear-fast): logistic regression on features of images as they are, its penalty chosen on
    held-out training images. The others train on random crops and flips, as published; they were made for ImageNet:
    with few images their learning rates are too low (--base-lr), and on a CPU they take long. Interrupted, they go on
    where they stopped when the same command runs again.
    """

    preset: Literal[
        "fast", "paper", "released", "simclr", "simsiam", "barlow-twins", "vicreg", "lightly"
    ] = "fast"  # fmt: skip
    """Whose settings. paper and released: LARS, batch 4096, 100 epochs, lr 0.05, and 0.03 after a batch norm."""
    head_norm: Annotated[bool | None, arg(metavar="{True,False}", help_behavior_hint="")] = None
    """Batch norm without affine before the linear layer."""

    def measure(self, subject: Subject) -> list[Result]:
        data = self.open()
        if self.preset == "fast":
            from mec.evaluation.probing.linear import linear

            self.refuse_training_flags()
            return self.results(data, linear(*subject.both(data), seed=self.seed))
        from mec.evaluation.classifier import preset_name
        from mec.evaluation.probing.probe import PROBES, probe

        published = PROBES[self.preset]
        recipe = self.changed(published)
        found = probe(subject, data, recipe, seed=self.seed)
        return self.results(data, found, preset=preset_name(self.preset, published, recipe))

    def refuse_training_flags(self) -> None:
        flags = ("base_lr", "batch_size", "micro_batch_size", "epochs", "crop", "head_norm")
        given = [name for name in flags if getattr(self, name) is not None]
        if given:
            flag = given[0].replace("_", "-")
            raise BadInput(f"--{flag} belongs to the presets that train; fast has none. Add --preset paper, say.")


@dataclass(frozen=True, kw_only=True)
class Finetune(Trained):
    """The backbone and a new linear layer, trained from end to end with all labels.

    Interrupted, it goes on where it stopped when the same command runs again."""

    preset: Literal["simclr", "simclr-random", "budget"] = "simclr"
    """simclr: 20,000 steps of 256 images (40,000 for random weights); budget: 5,000 steps of 64."""
    steps: Number = None
    """Length; in place of epochs."""
    weight_decay: float = 0.0
    """Divided by the learning rate before use, as SimCLR's grid of 1e-6 to 1e-3 is."""
    head_lr: Real = None
    """Learning rate of the linear layer, where it is another."""

    def measure(self, subject: Subject) -> list[Result]:
        from mec.evaluation.classifier import preset_name
        from mec.evaluation.finetuning.finetune import FINETUNES, finetune, with_decay

        published = FINETUNES[self.preset]
        recipe = self.changed(published)
        data = self.open()
        recipe = with_decay(recipe, recipe.base_lr, self.weight_decay)
        found = finetune(subject, data, recipe, seed=self.seed)
        return self.results(data, found, preset=preset_name(self.preset, published, recipe))


@dataclass(frozen=True, kw_only=True)
class Semi(Trained):
    """The backbone and a new linear layer, trained from end to end with 1 % or 10 % of the labels.

    Interrupted, it goes on where it stopped when the same command runs again."""

    labels: str
    """1%, 10% or another share, drawn class by class (a smaller one is part of a larger); or a file of names, one a
    line, such as SimCLR's 1percent.txt."""
    preset: Literal["paper", "simclr", "barlow-twins", "vicreg", "swav", "vissl"] = "paper"
    """Whose recipe for so many labels. paper: SGD, batch 1024, 50 epochs, lr 0.05 x batch / 256, cosine."""
    head_lr: Real = None
    """Learning rate of the linear layer, where it is another."""

    def measure(self, subject: Subject) -> list[Result]:
        from mec.data.dataset import limited
        from mec.evaluation.classifier import preset_name
        from mec.evaluation.finetuning.semi import labelled_part, semi, semi_recipe, share_asked

        if self.limit is not None and self.limit < 1:
            raise BadInput(f"--limit is {self.limit}: it is a number of images, at least 1.")
        data = replace(self, limit=None).open()  # the labels are drawn from all images
        assert data.test is not None
        data = replace(data, test=limited(data.test, self.limit, self.seed))
        everything = data.train.labelled()
        part = labelled_part(everything, self.labels, self.seed)
        published = semi_recipe(self.preset, share_asked(self.labels, part, everything))
        recipe = self.changed(published)
        train = limited(part, self.limit, self.seed)
        found = semi(subject, data, train, recipe, labels=self.labels, seed=self.seed)
        return self.results(data, found, preset=preset_name(self.preset, published, recipe))


@dataclass(frozen=True, kw_only=True)
class Transfer(OnImages):
    """Eleven other data sets: logistic regression on frozen features, or fine-tuning, each by its own grid.

    Settings are chosen on held-out images, fitted once more on all training images, and tested once. An interrupted
    sweep goes on where it stopped when the same command runs again."""

    sets: Annotated[Positional[str], arg(metavar="NAME")]
    """food101, cifar10, cifar100, sun397, cars, aircraft, voc2007, dtd, pets, caltech101, flowers102; several with
    commas between; or all."""
    data_root: Path
    """Folder with the data sets, each in the layout of its own archive."""
    mode: Literal["linear", "finetune"] = "linear"
    """linear: 45 penalties on features. finetune: all layers, a grid of learning rates and weight decays."""
    preset: Literal["paper", "random", "budget"] = "paper"
    """For finetune. paper: 56 runs of 20,000 steps. random: twice as long, for an untrained network. budget: 20 runs of
    5,000 steps of 64."""
    steps: Number = None
    """For finetune: steps of each run, in place of the preset's."""
    batch_size: Number = None
    """For finetune: images a step, in place of the preset's."""
    learning_rates: Names = None
    """For finetune: the grid, with commas, in place of the preset's."""
    weight_decays: Names = None
    """For finetune: the grid, with commas; each is divided by the learning rate."""
    standardise: bool = False
    """For linear: features of mean 0 and deviation 1. The protocol takes them raw."""
    background: bool = True
    """Caltech-101 with its background folder as the 102nd class."""
    difficult_as_absent: bool = False
    """VOC: count images that show a class only in difficult instances as negatives, instead of leaving them out."""
    limit: Number = None
    """Use this many training and test images of each set, for a quick look that tables leave out."""
    seed: int = 0
    """Of the held-out parts, Caltech-101's draw and fine-tuning."""
    download: bool = False
    """Fetch what torchvision still can."""

    def measure(self, subject: Subject) -> Iterable[Result]:
        from mec.evaluation.transfer.sets import Choices, names_of
        from mec.evaluation.transfer.sweeps import FINETUNING, transfer

        self.refuse_flags_of_the_other_mode()
        recipe = None
        if self.mode == "finetune":
            changed: dict[str, Any] = {
                "steps": self.steps,
                "batch_size": self.batch_size,
                "learning_rates": numbers(self.learning_rates, "--learning-rates"),
                "weight_decays": numbers(self.weight_decays, "--weight-decays"),
            }
            recipe = replace(FINETUNING[self.preset], **{k: v for k, v in changed.items() if v is not None})
        yield from transfer(
            subject,
            names_of(self.sets),
            self.data_root,
            choices=Choices(self.seed, self.background, self.difficult_as_absent),
            finetuning=recipe,
            standardise=self.standardise,
            limit=self.limit,
            download=self.download,
        )

    def refuse_flags_of_the_other_mode(self) -> None:
        given = {
            "--preset": self.preset != "paper",
            "--steps": self.steps is not None,
            "--batch-size": self.batch_size is not None,
            "--learning-rates": self.learning_rates is not None,
            "--weight-decays": self.weight_decays is not None,
        }
        if self.mode == "linear" and any(given.values()):
            flag = next(flag for flag, is_given in given.items() if is_given)
            raise BadInput(f"{flag} belongs to fine-tuning, and the mode is linear. Add --mode finetune.")
        if self.mode == "finetune" and self.standardise:
            raise BadInput("--standardise belongs to the mode linear; fine-tuning has no such thing.")


@dataclass(frozen=True, kw_only=True)
class Detection(OnImages):
    """What fine-tuning as a detector takes; runs go to RUN/PROTOCOL-PRESET/lr-LR-seed-SEED/."""

    data_root: Path
    """Folder of the data in its standard layout."""
    preset: Name = None
    """Schedule and sizes; `quick` is a look on little data, tested on the photographs it trains on."""
    image_size: Number = None
    """px: below 64 random:NAME has the stem for small images. The size of photographs is the preset's."""
    lr: Real = None
    """Learning rate of the whole batch. Default: the preset's."""
    sweep: bool = False
    """Try 0.02, 0.03, 0.05, 0.1 and 0.2 with the first seed and go on with the best."""
    seeds: Names = None
    """Seeds with commas, one run each. Default: 0,1,2,3,4 for VOC, 0 for COCO and quick."""
    iterations: Number = None
    """Others than the preset's; warm-up and drops of the rate move along."""
    batch_size: Number = None
    """Photographs an iteration, over all processes."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16 is automatic mixed precision; auto takes it where the device has units for it."""
    resume: bool = False
    """Go on with what RUN/PROTOCOL-PRESET holds, from its last checkpoint (one every ten minutes)."""

    def detect(self, subject: Subject, protocol: str) -> list[Result]:
        seeds = None if self.seeds is None else whole_numbers(self.seeds, "--seeds")
        from mec.evaluation.detection.runs import detect

        return detect(
            subject,
            protocol,
            self.data_root,
            preset=self.preset,
            lr=self.lr,
            sweep=self.sweep,
            seeds=seeds,
            iterations=self.iterations,
            batch_size=self.batch_size,
            precision=self.precision,
            resume=self.resume,
        )


@dataclass(frozen=True, kw_only=True)
class Voc(Detection):
    """Faster R-CNN (C4), all of it fine-tuned on VOC 2007 trainval, tested on VOC 2007 test.

    Presets: voc07 (default), voc07-vissl, quick. DIR holds VOCdevkit/VOC2007."""

    def measure(self, subject: Subject) -> list[Result]:
        return self.detect(subject, "voc")


@dataclass(frozen=True, kw_only=True)
class Voc0712(Detection):
    """Faster R-CNN (C4), all of it fine-tuned on VOC 2007 and 2012 trainval, tested on VOC 2007 test.

    Presets: voc0712-24k (default), quick. DIR holds VOCdevkit/VOC2007 and VOCdevkit/VOC2012."""

    def measure(self, subject: Subject) -> list[Result]:
        return self.detect(subject, "voc0712")


@dataclass(frozen=True, kw_only=True)
class Coco(Detection):
    """Mask R-CNN (C4), all of it fine-tuned on COCO train2017, tested on val2017: boxes and masks.

    Presets: coco-1x (default), quick. DIR holds annotations/ and images/."""

    def measure(self, subject: Subject) -> list[Result]:
        return self.detect(subject, "coco")


@dataclass(frozen=True, kw_only=True)
class Tracking(Protocol):
    """What protocols take that follow objects through videos by frozen features.

    `measure` reads and checks the data when it is called; what takes long comes with the results."""

    data_root: Path
    """Folder of the benchmark, in its published layout."""
    stage: Literal["3", "4", "both"] = "both"
    """The last stage of the ResNet that is kept; both gives results of each."""
    sequences: str = ""
    """Names with commas. Default: all."""
    batch_size: int = 8
    """Frames or crops that go through the encoder together."""
    video: Annotated[Literal["mp4", "gif"] | None, arg(metavar="{mp4,gif}", help_behavior_hint="")] = None
    """Also draw what was found over the frames, a file a sequence beside the result files."""

    def names(self) -> tuple[str, ...]:
        if self.batch_size < 1:
            raise BadInput(f"--batch-size is {self.batch_size}: at least 1.")
        return tuple(name.strip() for name in self.sequences.split(",") if name.strip())


@dataclass(frozen=True, kw_only=True)
class Sot(Tracking):
    """One object a video, followed from its first box: OTB-2015, AUC of success and precision at 20 px."""

    head: Literal["xcorr", "dcf", "both"] = "both"
    """Cross-correlation with the first frame, or a correlation filter that learns."""
    mode: Literal["clean", "unitrack"] = "clean"
    """unitrack: with the known mistakes of UniTrack's released code, to compare with its published figures."""

    def measure(self, subject: Subject) -> Iterable[Result]:
        from mec.evaluation.tracking.sot import measure

        heads = ("xcorr", "dcf") if self.head == "both" else (self.head,)
        return measure(
            subject,
            self.data_root,
            stage=self.stage,
            heads=heads,
            mode=self.mode,
            names=self.names(),
            batch_size=self.batch_size,
            video=self.video,
        )


@dataclass(frozen=True, kw_only=True)
class Vos(Tracking):
    """Masks of the first frame carried through a video: DAVIS-2017, mean overlap J and boundary accuracy F."""

    cache: Folder = None
    """Folder to keep feature maps in (6 to 50 MB a frame at 480p), and to find them in."""

    def measure(self, subject: Subject) -> Iterable[Result]:
        from mec.evaluation.tracking.vos import measure

        return measure(
            subject,
            self.data_root,
            stage=self.stage,
            names=self.names(),
            batch_size=self.batch_size,
            cache=self.cache,
            video=self.video,
        )


@dataclass(frozen=True, kw_only=True)
class Association(Tracking):
    """What protocols take that join given detections to tracks."""

    detections: Name = None
    """A name in obs/, det (each sequence's det/det.txt), gt (the truth), or a folder. Default: the only ones there."""
    motion: bool = False
    """Let a Kalman filter's distances count beside appearance; it predicts boxes in any case."""
    mode: Literal["clean", "unitrack"] = "clean"
    """unitrack: with the known mistakes of UniTrack's released code, to compare with its published figures."""
    split: str = "train"
    """Of the benchmark; train has a public truth."""
    batch_size: int = 1
    """Frames that go through the encoder together."""
    cache: Folder = None
    """Keep feature maps in this folder (some 10 to 60 MB a frame), and find them again."""

    def measure(self, subject: Subject) -> Iterable[Result]:
        from mec.evaluation.tracking.multiobject import Options, measure

        options = Options(
            split=self.split,
            detections=self.detections,
            motion=self.motion,
            mode=self.mode,
            names=self.names(),
            batch_size=self.batch_size,
            cache=self.cache,
        )
        return measure(self.benchmark(), subject, self.data_root, options, stage=self.stage, video=self.video)

    @abstractmethod
    def benchmark(self) -> type[Benchmark]:
        """The sequences, their files and scores."""


@dataclass(frozen=True, kw_only=True)
class Mot(Association):
    """Many people as boxes: MOT16, IDF1, HOTA and MOTA."""

    def benchmark(self) -> type[Benchmark]:
        from mec.evaluation.tracking.mot import Mot

        return Mot


@dataclass(frozen=True, kw_only=True)
class Mots(Association):
    """Many people as masks: MOTS20, IDF1, HOTA, sMOTA and MOTA."""

    def benchmark(self) -> type[Benchmark]:
        from mec.evaluation.tracking.mots import Mots

        return Mots


@dataclass(frozen=True, kw_only=True)
class PoseTrack(Association):
    """Many people as poses: PoseTrack 2017 or 2018, IDF1, MOTA and switches over joints."""

    split: str = "val"
    """Of the benchmark; val has a public truth."""

    def benchmark(self) -> type[Benchmark]:
        from mec.evaluation.tracking.posetrack import PoseTrack

        return PoseTrack


LAYOUTS = {  # what tells a benchmark's folder
    "sot": "OTB2015.json",
    "vos": "ImageSets/2017/*.txt",
    "mot": "images/*/MOT16-*",
    "mots": "images/*/MOTS20-*",
    "posetrack": "posetrack_data/annotations/*/*.json",
}


@dataclass(frozen=True, kw_only=True)
class Videos(Protocol):
    """All of sot, vos, mot, mots and posetrack whose data is there, each with its only detections."""

    data_root: Path
    """A folder with a benchmark's folders in it, each in its published layout; or one of these."""
    stage: Literal["3", "4", "both"] = "both"
    """The last stage of the ResNet that is kept; both gives results of each."""
    head: Literal["xcorr", "dcf", "both"] = "both"
    """Of sot."""
    mode: Literal["clean", "unitrack"] = "clean"
    """unitrack: with the known mistakes of UniTrack's released code, to compare with its published figures."""
    motion: bool = False
    """Of mot, mots and posetrack: let a Kalman filter's distances count beside appearance."""
    video: Annotated[Literal["mp4", "gif"] | None, arg(metavar="{mp4,gif}", help_behavior_hint="")] = None
    """Also draw what was found over the frames."""

    def measure(self, subject: Subject) -> Iterable[Result]:
        places = benchmarks_in(self.data_root)
        absent = [word for word in LAYOUTS if word not in places]
        print(f"Found {', '.join(f'{word} in {place}' for word, place in places.items())}.")
        if absent:
            print(f"No data for {', '.join(absent)}: left out.")
        yield from chain.from_iterable(self.checked(subject, places))

    def checked(self, subject: Subject, places: dict[str, Path]) -> list[Iterable[Result]]:
        """The runs over the benchmarks, before the first of them takes its hours; those that cannot run are named.

        Raises:
            BadInput: none can.
        """
        kinds: dict[str, type[Tracking]] = {"sot": Sot, "vos": Vos, "mot": Mot, "mots": Mots, "posetrack": PoseTrack}
        runs, complaints = [], []
        for word, place in places.items():
            kind = kinds[word]
            known = {field.name for field in fields(kind)}
            shared = {name: getattr(self, name) for name in ("stage", "head", "mode", "motion", "video")}
            flags: dict[str, Any] = {name: value for name, value in shared.items() if name in known}
            try:
                runs.append(kind(data_root=place, **flags).measure(subject))
            except (BadInput, FileNotFoundError) as error:
                by_itself = f"By itself, with all of its flags: mec evaluate RUN {word} --data-root {place}"
                complaints.append(f"{word} is left out: {error} {by_itself}")
        if not runs:
            raise BadInput("\n".join(complaints))
        for words in complaints:
            print(words)
        return runs


def benchmarks_in(root: Path) -> dict[str, Path]:
    """Folders of tracking benchmarks by the protocol's word: the root itself, or one of the folders in it.

    Raises:
        BadInput: none, or two of one kind.
    """
    folders = [root, *sorted(p for p in root.glob("*") if p.is_dir())]
    found = {word: [folder for folder in folders if any(folder.glob(mark))] for word, mark in LAYOUTS.items()}
    for word, places in found.items():
        if len(places) > 1:
            raise BadInput(f"{places[0]} and {places[1]} both have data for {word}: give --data-root one of them.")
    if not any(found.values()):
        marks = ", ".join(f"{mark} ({word})" for word, mark in LAYOUTS.items())
        raise BadInput(f"{root}: no tracking benchmark in it or in its folders. One of these would tell: {marks}.")
    return {word: places[0] for word, places in found.items() if places}


PROTOCOLS: dict[str, type[Protocol]] = {
    "fewshot": FewShot,
    "knn": Knn,
    "linear": Linear,
    "transfer": Transfer,
    "finetune": Finetune,
    "semi": Semi,
    "voc": Voc,
    "voc0712": Voc0712,
    "coco": Coco,
    "sot": Sot,
    "vos": Vos,
    "mot": Mot,
    "mots": Mots,
    "posetrack": PoseTrack,
    "tracking": Videos,
}


def numbers(text: str | None, flag: str) -> tuple[float, ...] | None:
    """
    >>> numbers("1e-3,0.1", "--learning-rates")
    (0.001, 0.1)
    """
    try:
        return None if text is None else tuple(float(part) for part in text.split(","))
    except ValueError:
        raise BadInput(f"{flag} is {text!r}: numbers with commas between, for example 0.001,0.1.") from None


def whole_numbers(text: str, flag: str) -> list[int]:
    """
    >>> whole_numbers("1,5", "--k")
    [1, 5]
    """
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise BadInput(f"{flag} is {text!r}: whole numbers with commas between, for example 1,5.") from None
