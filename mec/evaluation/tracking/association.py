"""Data association: which detection belongs to which track, by appearance, then by overlap; of boxes, masks and poses.

A detection has a box and a set of local features; nothing is trained. One `Tracker` a sequence, one `step` a frame.
Source: the association step of UniTrack; `compat` reproduces two of its errors.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_iou

from mec.evaluation.tracking import kalman
from mec.evaluation.tracking.kalman import Floats

RECONSTRUCTION_TEMPERATURE = 100.0  # τ of the reconstruction: a logit is τ times a cosine
NORM_FLOOR = 1e-12  # reconstructions from a wrong object are tiny: a larger floor would change their cosines
NEVER = 1e6  # stands for an infinite cost: no limit is near it
LAST_PIXEL = np.array([0, 0, 1, 1])  # belongs to a box


@dataclass(frozen=True)
class Settings:
    """When tracks begin, match and end. Thresholds are on costs: 1 - similarity or 1 - overlap."""

    appearance: float = 0.7
    overlap: float = 0.5
    confirm: float = 0.7  # of tracks seen once
    duplicate: float = 0.15
    score: float = 0.5  # a detection of at least this score may start a track
    buffer: int = 30  # frames a track may be lost; a gap of one more can still be bridged
    sure: bool = False  # a new track counts at once; otherwise after its second detection in a row
    motion: float | None = None  # share of the appearance cost beside squared Mahalanobis distances; None: all of it
    gated: bool = False  # with motion: pairs too far apart for the filter never match
    compat: bool = False  # UniTrack's error: a removed track can be found for one more frame


@dataclass(frozen=True)
class Objects:
    """The detections of one frame: boxes (x1, y1, x2, y2) [n, 4], local features [cells, c] each, scores [n]."""

    boxes: Floats
    features: Sequence[Tensor]
    scores: Floats

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass(frozen=True)
class Seen:
    """A track in the current frame."""

    id: int  # from 1 in each sequence
    detection: int  # which of the frame's objects it is
    box: Floats  # (x1, y1, x2, y2) of the filter, after its update
    returned: bool  # it was lost in the frame before


@dataclass
class Track:
    id: int
    mean: Floats  # [8]
    covariance: Floats  # [8, 8]
    feature: Tensor  # of its latest detection
    start: int  # frame
    last: int  # frame of the latest detection
    state: Literal["tracked", "lost", "removed"] = "tracked"
    active: bool = False
    detection: int = -1  # in the current frame
    returned: bool = False


Left = tuple[list[Track], list[int]]  # tracks and objects without each other


@dataclass
class Tracker:
    """The tracks of one sequence.

    >>> tracker = Tracker(Settings(sure=True))
    >>> person = Objects(np.array([[10.0, 10.0, 20.0, 40.0]]), [torch.ones(3, 8)], np.ones(1))
    >>> [[seen.id for seen in tracker.step(person)] for _ in range(3)]
    [[1], [1], [1]]"""

    settings: Settings = field(default_factory=Settings)
    frame: int = 0
    born: int = 0
    tracked: list[Track] = field(default_factory=list)  # unconfirmed ones (not active) among them
    lost: list[Track] = field(default_factory=list)
    removed: set[int] = field(default_factory=set)  # ids, for `compat`

    def step(self, objects: Objects) -> list[Seen]:
        """The tracks seen among the objects of the next frame, in order of their birth."""
        rules = self.settings
        self.frame += 1
        measured = kalman.measured_from(objects.boxes)
        sure = [track for track in self.tracked if track.active]
        once = [track for track in self.tracked if not track.active]
        pool, free = sure + self.lost, list(range(len(objects)))

        if pool:
            means, covariances = _states(pool)
            means[[t.state != "tracked" for t in pool], 7] = 0  # a lost one keeps its height
            for track, mean, covariance in zip(pool, *kalman.predict(means, covariances)):
                track.mean, track.covariance = mean, covariance
        pool, free = self._match(pool, free, self._appearance(pool, objects, measured), rules.appearance, objects)
        pool = [track for track in pool if track.state == "tracked"]
        apart = 1 - inclusive_iou(_boxes(pool), objects.boxes[free])
        pool, free = self._match(pool, free, apart, rules.overlap, objects)
        apart = 1 - inclusive_iou(_boxes(once), objects.boxes[free])
        once, free = self._match(once, free, apart, rules.confirm, objects)

        for track in pool:
            track.state = "lost"
        for track in once:
            track.state = "removed"
        new = []
        for i in (i for i in free if objects.scores[i] >= rules.score):
            (mean,), (covariance,) = kalman.begin(measured[i : i + 1])
            feature, active, self.born = objects.features[i], rules.sure or self.frame == 1, self.born + 1
            new.append(Track(self.born, mean, covariance, feature, self.frame, self.frame, active=active, detection=i))
        gone = [t for t in self.lost if t.state != "tracked" and self.frame - t.last > rules.buffer]
        for track in gone:
            track.state = "removed"
        found = [track for track in self.lost if track.state == "tracked"]
        self.tracked = [t for t in self.tracked if t.state == "tracked"] + found + new
        self.lost = [t for t in self.lost if t.state != "tracked"] + pool
        # The source takes away those that were removed before this frame, and notes this frame's for the next.
        dropped = self.removed if rules.compat else {t.id for t in gone}
        self.lost = [t for t in self.lost if t.id not in dropped]
        self.removed |= {t.id for t in gone}
        self._drop_duplicates()
        shown = sorted((t for t in self.tracked if t.active), key=lambda t: t.id)
        return [Seen(t.id, t.detection, kalman.boxes_from(t.mean[None])[0], t.returned) for t in shown]

    def _appearance(self, pool: list[Track], objects: Objects, measured: Floats) -> Floats:
        """Costs [tracks, objects] of the first stage, with motion if it is asked for."""
        cost = reconstruction_cost([track.feature for track in pool], objects.features)
        share = self.settings.motion
        if share is None or not cost.size:
            return cost
        away = kalman.distances(*_states(pool), measured)
        cost = share * cost + (1 - share) * away
        return np.where(away > kalman.CHI2_4, np.inf, cost) if self.settings.gated else cost

    def _match(self, tracks: list[Track], free: list[int], cost: Floats, limit: float, objects: Objects) -> Left:
        """Assign, update the tracks that were found; the tracks and objects that are left."""
        pairs = assign(cost, limit)
        if pairs:
            means, covariances = _states([tracks[i] for i, _ in pairs])
            boxes = objects.boxes[[free[j] for _, j in pairs]]
            means, covariances = kalman.update(means, covariances, kalman.measured_from(boxes))
            for (i, j), mean, covariance in zip(pairs, means, covariances):
                track = tracks[i]
                track.mean, track.covariance, track.feature = mean, covariance, objects.features[free[j]]
                track.returned, track.detection = track.state != "tracked", free[j]
                track.state, track.active, track.last = "tracked", True, self.frame
        used, taken = {tracks[i].id for i, _ in pairs}, {free[j] for _, j in pairs}
        return [track for track in tracks if track.id not in used], [index for index in free if index not in taken]

    def _drop_duplicates(self) -> None:
        """Of a tracked and a lost track in one place, drop the younger; the tracked one where their ages are equal."""
        apart, dropped = 1 - inclusive_iou(_boxes(self.tracked), _boxes(self.lost)), set()
        for i, j in zip(*np.nonzero(apart < self.settings.duplicate)):
            one, other = self.tracked[i], self.lost[j]
            dropped.add(other.id if one.last - one.start > other.last - other.start else one.id)
        self.tracked, self.lost = ([t for t in part if t.id not in dropped] for part in (self.tracked, self.lost))


def _states(tracks: list[Track]) -> tuple[Floats, Floats]:
    return np.stack([t.mean for t in tracks]), np.stack([t.covariance for t in tracks])


def _boxes(tracks: list[Track]) -> Floats:
    return kalman.boxes_from(np.stack([t.mean for t in tracks])) if tracks else np.empty((0, 4))


def inclusive_iou(one: Floats, other: Floats) -> Floats:
    """Intersection over union [n, m] of boxes (x1, y1, x2, y2), both ends counted: a side is x2 - x1 + 1."""
    return box_iou(*(torch.from_numpy(boxes + LAST_PIXEL) for boxes in (one, other))).numpy()


def assign(cost: Floats, limit: float) -> list[tuple[int, int]]:
    """The pairs (row, column) with the smallest sum of cost - limit, each row and column at most once.
    Not a full assignment cut at the limit: leaving two unmatched costs `limit`, half for each."""
    n, m = cost.shape
    if not cost.size:
        return []
    square = np.full((n + m, n + m), limit / 2)
    square[:n, :m] = np.where(np.isfinite(cost), cost, NEVER)
    square[n:, m:] = 0
    rows, columns = linear_sum_assignment(square)
    return [(int(i), int(j)) for i, j in zip(rows, columns) if i < n and j < m]


@torch.no_grad()
def reconstruction_cost(
    tracks: Sequence[Tensor], found: Sequence[Tensor], temperature: float = RECONSTRUCTION_TEMPERATURE
) -> Floats:
    """1 - the similarity [t, d] of sets of local features [cells, c]: how well each rebuilds the other.
    Both lists are padded with zero rows to their longest set. A row is rebuilt from all rows of the other side with
    softmax weights of τ cosines; the part that one set contributes is compared, by cosine, with what it should be.
    Raises ValueError: sets of different numbers of channels."""
    if not len(tracks) or not len(found):
        return np.zeros((len(tracks), len(found)))
    channels = {features.shape[1] for features in (*tracks, *found)}
    if len(channels) != 1:
        raise ValueError(f"features of {sorted(channels)} channels: all sets are [cells, c] with one c.")
    # [sets, longest, c] of unit rows; the rows after a set's own are zero.
    padded = (torch.nn.utils.rnn.pad_sequence([*sets], batch_first=True).float() for sets in (tracks, found))
    ours, theirs = (F.normalize(sets, dim=2) for sets in padded)
    similarity = (_rebuilt(ours, theirs, temperature) + _rebuilt(theirs, ours, temperature).T) / 2
    return (1 - similarity).double().cpu().numpy()


def _rebuilt(queries: Tensor, sources: Tensor, temperature: float) -> Tensor:
    """Cosine [q, s] of each query set with its reconstruction by each source set alone.
    The reconstruction R = W S [n, c] is never formed: <R, Q> is the sum of W * A with A = Q Sᵀ, and |R|² that of
    (W G) * W with G = S Sᵀ [m, m], which is smaller than R where c is large."""
    s, m, c = sources.shape
    gram = sources @ sources.transpose(1, 2)  # [s, m, m]
    rows = sources.reshape(s * m, c).T
    cosines = []
    for query in queries:  # one [n, s m] at a time: memory stays small
        products = query @ rows
        weights = (temperature * products).softmax(1).view(-1, s, m).transpose(0, 1)  # [s, n, m]
        inner = (weights * products.view(-1, s, m).transpose(0, 1)).sum((1, 2))
        # Scaled to its largest weight first: squares of tiny weights would leave float32.
        scale = weights.amax((1, 2), keepdim=True).clamp(min=1e-38)
        scaled = weights / scale
        norms = ((scaled @ gram) * scaled).sum((1, 2)).clamp(min=0).sqrt() * scale[:, 0, 0]
        cosines.append(inner / norms.clamp(min=NORM_FLOOR) / query.norm().clamp(min=NORM_FLOOR))
    return torch.stack(cosines)
