"""Which images to label: ways to choose rows of features, given those that are labelled already.

Every way is a pure function of unit rows x [n, e]. The coding ways are exact, in float64: they keep a number or two an
image, and read all rows once a choice, so that features may be mapped from disk.
"""

import warnings
from collections.abc import Callable, Iterator

import numpy as np

from mec.errors import BadInput, nearest

AT_ONCE = 65_536  # rows
HELD_BYTES = 2**31  # of unit rows in float64 that stay in memory; more are made again each time they are read
CLUSTERED = 20_000  # rows that k-means sees; of more they are drawn, and all are compared with its centres
STARTS, STARTED_ROWS = 10, 50_000  # of k-means, the best of which is kept: as many as take so many rows in all
CHOSEN_ERROR, OTHERS_ERROR = 0.03, 0.01  # ε of the two coding forms
ROUNDS = 5  # most, in which a chosen image is exchanged for a better one


def choose(
    features: np.ndarray, count: int, *, way: str = "auto", labelled: np.ndarray | None = None, seed: int = 0
) -> np.ndarray:
    """Indices [count] of the rows to label next.

    Args:
        features: [n, e], in memory or mapped; rows are compared by their direction.
        count: how many; at most as many as are not labelled.
        way: a word of `WAYS`, or "auto": what served best (docs/results.md).
        labelled: [m] indices that count as chosen.
        seed: of random and typical; the others draw nothing.

    Raises:
        BadInput: no such way, more than there are, an index that is none, or features that are not finite."""
    known = np.unique(np.asarray([] if labelled is None else labelled, dtype=np.int64))
    if features.ndim != 2 or (len(known) and not 0 <= known[0] <= known[-1] < len(features)):
        raise BadInput(f"features are {[*features.shape]}, labelled {known[:5]}: [n, e], and indices of its rows.")
    left = len(features) - len(known)
    if not 1 <= count <= left:
        raise BadInput(f"--n is {count}: of {len(features):,} images {len(known):,} are labelled; 1 to {left:,} fit.")
    if way not in ("auto", *WAYS):
        raise BadInput(f"--way is {way!r}. {nearest(way, ['auto', *WAYS])}")
    if way == "auto":
        way = "typical" if count + len(known) <= FEW else "coding"
    return WAYS[way](Rows(features), count, known, seed)


def unit(rows: np.ndarray) -> np.ndarray:
    """[n, e], each divided by its length; a row of zeros stays one."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(length == 0, 1, length)


class Rows:
    """The unit rows of features [n, e], in float64. Raises BadInput: they are not finite."""

    def __init__(self, features: np.ndarray):
        self.features, self.size, self.held = features, features.shape[1], None
        if features.size * 8 <= HELD_BYTES:
            self.held = np.concatenate([rows for _, rows in self.parts()])
        if not all(np.isfinite(rows).all() for _, rows in self.parts()):
            raise BadInput("features hold values that are not finite (nan or inf): the encoder is broken.")

    def __len__(self) -> int:
        return len(self.features)

    def parts(self) -> Iterator[tuple[slice, np.ndarray]]:
        for start in range(0, len(self), AT_ONCE):
            where = slice(start, min(start + AT_ONCE, len(self)))
            yield where, self[where]

    def __getitem__(self, which: slice | np.ndarray) -> np.ndarray:
        if self.held is not None:
            return self.held[which]
        return unit(np.asarray(self.features[which], dtype=np.float64))

    def each(self, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """What a function makes of parts of the rows, together."""
        return np.concatenate([function(rows) for _, rows in self.parts()])


class Chosen:
    """Rows chosen so far, those known first; the best of the others by a score [n] is taken, of equals the first."""

    def __init__(self, rows: Rows, known: np.ndarray, take: Callable[[np.ndarray, int], None]):
        self.rows, self.take, self.open = rows, take, np.ones(len(rows), dtype=bool)
        for index in known.tolist():
            self.add(index)

    def add(self, index: int) -> None:
        self.open[index] = False
        self.take(self.rows[np.array([index])][0], index)

    def best(self, score: np.ndarray) -> int:
        index = int(np.where(self.open, score, -np.inf).argmax())
        self.add(index)
        return index


class Code:
    """What the rows chosen leave of each row x: d = xᵀ A x, and q = xᵀ A Σ A x.

    A = (I + λ Σ_chosen x xᵀ)⁻¹, Σ is the second moment of all rows, λ = 1 / ε."""

    def __init__(self, rows: Rows, error: float):
        self.rows, self.lam, self.a = rows, 1 / error, np.eye(rows.size)
        self.moment = np.sum([part.T @ part for _, part in rows.parts()], 0) / len(rows)
        self.d = rows.each(lambda part: (part * part).sum(1))
        self.q = rows.each(lambda part: ((part @ self.moment) * part).sum(1))

    def take(self, row: np.ndarray, index: int, sign: int = 1) -> None:
        """Count a row as chosen, or, with the sign -1, no longer."""
        left = self.a @ row
        factor = sign * self.lam / (1 + sign * self.lam * float(row @ left))
        turned = self.moment @ left
        columns = np.stack([left, self.a @ turned], 1)
        along, across = self.rows.each(lambda part: part @ columns).T
        self.q += factor * along * (factor * float(left @ turned) * along - 2 * across)
        self.d -= factor * along**2
        self.a -= factor * np.outer(left, left)


def coding_of_chosen(rows: Rows, count: int, known: np.ndarray, seed: int) -> np.ndarray:
    """Greedily the image that makes the code of those chosen, log det(I + λ Σ_chosen x xᵀ), longest.

    Alone, all are as long: the first is the nearest to the mean."""
    code = Code(rows, CHOSEN_ERROR)
    return greedy(Chosen(rows, known, code.take), count, lambda: code.d)


def coding_of_others(rows: Rows, count: int, known: np.ndarray, seed: int) -> np.ndarray:
    """The images after which the others take the shortest code given those chosen, to first order: the least tr(Σ A).

    Greedily, each taking the most from it, λ xᵀ A Σ A x / (1 + λ xᵀ A x); then one by one exchanged for a better one,
    until none is or `ROUNDS` have passed."""
    code = Code(rows, OTHERS_ERROR)
    chosen = Chosen(rows, known, code.take)

    def best() -> int:
        return chosen.best(code.q / (1 + code.lam * code.d))

    found = [best() for _ in range(count)]
    for _ in range(ROUNDS if count > 1 else 0):
        before = [*found]
        for place, index in enumerate(before):
            chosen.open[index] = True
            code.take(rows[np.array([index])][0], index, -1)
            found[place] = best()
        if found == before:
            break
    return np.array(found)


def greedy(chosen: Chosen, count: int, score: Callable[[], np.ndarray]) -> np.ndarray:
    """One after the other by the score as it is then; where nothing is chosen yet, first the nearest to the mean."""
    first = []
    if chosen.open.all():
        mean = np.sum([part.sum(0) for _, part in chosen.rows.parts()], 0)
        first = [chosen.best(chosen.rows.each(lambda part: part @ mean))]
    return np.array(first + [chosen.best(score()) for _ in range(count - len(first))])


def farthest(rows: Rows, count: int, known: np.ndarray, seed: int) -> np.ndarray:
    """Greedily the image whose most similar chosen one is the least similar; the first is the nearest to the mean."""
    likeness = np.full(len(rows), -np.inf)

    def take(row: np.ndarray, index: int) -> None:
        np.maximum(likeness, rows.each(lambda part: part @ row), out=likeness)

    return greedy(Chosen(rows, known, take), count, lambda: -likeness)


def typical(rows: Rows, count: int, known: np.ndarray, seed: int) -> np.ndarray:
    """The images nearest to k-means centres, as many as there will be labels; of clusters without one the largest.

    Where there are fewer (images that are alike), the rest are the farthest."""
    from sklearn.cluster import KMeans

    wanted = count + len(known)
    drawn = np.sort(np.random.default_rng(seed).permutation(len(rows))[: max(CLUSTERED, wanted)])
    starts = max(1, min(STARTS, STARTED_ROWS // len(drawn)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fewer clusters than wanted: seen below
        means = KMeans(wanted, n_init=starts, max_iter=100, random_state=seed).fit(rows[drawn].astype(np.float32))
    centres = means.cluster_centers_
    lengths = (centres.astype(np.float64) ** 2).sum(1) / 2
    nearness = (part @ centres.T - lengths for _, part in rows.parts())
    cluster, value = (np.concatenate(found) for found in zip(*((part.argmax(1), part.max(1)) for part in nearness)))
    sizes = np.bincount(cluster, minlength=wanted)
    sizes[cluster[known]] = 0
    found = []
    for number in np.argsort(-sizes, kind="stable")[:count]:
        if sizes[number]:
            members = np.flatnonzero(cluster == number)
            found.append(members[value[members].argmax()])
    rest = count - len(found)
    taken = np.array(found, np.int64)
    return np.append(taken, farthest(rows, rest, np.append(known, taken), seed)) if rest else taken


def random(rows: Rows, count: int, known: np.ndarray, seed: int) -> np.ndarray:
    """Drawn; a smaller draw is the beginning of a larger one."""
    order = np.random.default_rng(seed).permutation(len(rows))
    return order[~np.isin(order, known)][:count]


WAYS: dict[str, Callable[[Rows, int, np.ndarray, int], np.ndarray]] = {
    "coding": coding_of_others, "coding-chosen": coding_of_chosen, "typical": typical, "farthest": farthest,
    "random": random,
}  # fmt: skip
FEW = 50  # labels in all, up to which auto is typical; above it is coding
