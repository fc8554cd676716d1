"""Few labels -> class probabilities: logistic regression on unit features, cross-validated, and calibrated by that.

Where it helps, labels are first spread over nearest neighbours to images without one, and the regression is fitted on
both (the spreading: Zhou et al., NeurIPS 2003).
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mec.answers.neighbours import others
from mec.errors import BadInput

FOLDS, REPEATS = 5, 4
STRENGTHS = (10.0, 100.0, 1000.0)  # C of scikit-learn; cross-validation chooses
SPREAD_OVER, NEIGHBOURS, STAYS, STEPS = 2000, 10, 0.1, 30  # images without a label; a label's own share; rounds
ABSENT = -30.0  # logit of a class that no image of a fold is of
TEMPERATURES, DOUBTS = np.geomspace(0.1, 10, 41), np.geomspace(1e-3, 0.5, 25)
FOUND_ERRORS = 2 / 3  # of the errors, that images called unsure hold in cross-validation
UNLIKE = 0.05  # quantile of how like each other labelled images are, below which an image is unlike them


@dataclass(frozen=True)
class Fitted:
    """A linear classifier of unit rows, its calibration, and what is known of it by cross-validation."""

    weight: np.ndarray  # [e, c]
    bias: np.ndarray  # [c]
    temperature: float = 1.0
    doubt: float = 0.0  # share of every probability that is spread evenly over the classes
    unsure: float = 0.0  # confidence below which two thirds of the errors lie
    predicted: np.ndarray | None = None  # [repeats, m] classes of the labelled images, by classifiers without them
    confidence: np.ndarray | None = None  # [repeats, m] of these, calibrated on other images
    spread: bool = False  # whether images without a label were used
    strength: float = STRENGTHS[0]

    def probabilities(self, x: np.ndarray) -> np.ndarray:
        """[n, c] of unit rows [n, e]."""
        return calibrated(x @ self.weight + self.bias, self.temperature, self.doubt)


def calibrated(logits: np.ndarray, temperature: float, doubt: float) -> np.ndarray:
    z = logits / temperature
    z = np.exp(z - z.max(-1, keepdims=True))
    return (1 - doubt) * z / z.sum(-1, keepdims=True) + doubt / logits.shape[-1]


def linear(x: np.ndarray, y: np.ndarray, classes: int, strength: float, weights: Any = None) -> Fitted:
    """Logistic regression of rows [n, e] with labels [n]; classes that y lacks are never predicted."""
    from sklearn.linear_model import LogisticRegression

    weight, bias, own = np.zeros((x.shape[1], classes)), np.full(classes, ABSENT), np.unique(y)
    if len(own) == 1:
        bias[own] = 0
        return Fitted(weight, bias)
    model = LogisticRegression(C=strength, max_iter=2000).fit(x, y, sample_weight=weights)
    bias[own] = 0
    where = own[1:] if len(model.coef_) < len(own) else own  # of two classes, one curve
    weight[:, where], bias[where] = model.coef_.T, model.intercept_
    return Fitted(weight, bias)


def folds(y: np.ndarray, seed: int) -> np.ndarray:
    """[m] fold of each label, every class as evenly over them as it goes."""
    draw = np.random.default_rng(seed)
    order = draw.permutation(len(y))
    order = order[np.argsort(y[order], kind="stable")]
    found = np.empty(len(y), np.int64)
    found[order] = (np.arange(len(y)) + draw.integers(FOLDS)) % min(FOLDS, len(y))
    return found


class Spread:
    """Labels of the first rows of x spread over the graph of nearest neighbours of all of them."""

    def __init__(self, x: np.ndarray, classes: int):
        import scipy.sparse as sparse

        self.x, self.classes, n = x, classes, len(x)
        cosines, at = others(x, min(NEIGHBOURS, n - 1))
        near = cosines.astype(np.float64).clip(min=0) ** 3
        graph = sparse.csr_matrix((near.ravel(), (np.repeat(np.arange(n), near.shape[1]), at.ravel())), (n, n))
        graph = graph.maximum(graph.T)
        scale = sparse.diags(1 / np.sqrt(np.asarray(graph.sum(1)).ravel() + 1e-12))
        self.graph = scale @ graph @ scale

    def fit(self, rows: np.ndarray, y: np.ndarray, strength: float) -> Fitted:
        """Logistic regression on labelled rows [m] of x and on what spreads from them, which weighs as much in all."""
        start = np.zeros((len(self.x), self.classes))
        start[rows, y] = 1
        reached = start
        for _ in range(STEPS):
            reached = (1 - STAYS) * (self.graph @ reached) + STAYS * start
        mass = reached.sum(0)
        reached = reached * np.where(mass > 0, start.sum(0) / np.where(mass > 0, mass, 1), 0)  # classes as frequent
        total = reached.sum(1)
        sure = reached.max(1) / np.where(total > 0, total, 1)
        label, weights = reached.argmax(1), sure * (len(rows) / max(sure.sum(), 1e-12))
        label[rows], weights[rows] = y, 1
        kept = weights > 0
        return linear(self.x[kept], label[kept], self.classes, strength, weights[kept])


def crossed(
    x: np.ndarray, y: np.ndarray, classes: int, strength: float, seed: int, spread: Spread | None
) -> np.ndarray:
    """[repeats, m, c] logits of each labelled image, by a classifier fitted without it."""
    logits = np.empty((REPEATS, len(y), classes))
    for repeat in range(REPEATS):
        fold = folds(y, seed + repeat)
        for number in np.unique(fold):
            rest, out = np.flatnonzero(fold != number), fold == number
            model = linear(x[rest], y[rest], classes, strength) if spread is None else spread.fit(
                rest, y[rest], strength
            )  # fmt: skip
            logits[repeat, out] = x[out] @ model.weight + model.bias
    return logits


def losses(probabilities: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Cross-entropy [m] of [repeats, m, c], nats, each the mean over repeats."""
    return -np.log(np.take_along_axis(probabilities, y[None, :, None], 2))[..., 0].mean(0)


def calibration(logits: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """The temperature and the doubt with the least cross-entropy.

    The doubt is at least that of m images that were all right (Laplace: 1 of m + 2 may be wrong)."""
    least = logits.shape[-1] / (logits.shape[-1] - 1) / (len(y) + 2)
    doubts = [min(0.9, least), *(d for d in DOUBTS if d > least)]
    pairs = [(float(t), float(d)) for t in TEMPERATURES for d in doubts]
    return min(pairs, key=lambda pair: losses(calibrated(logits, *pair), y).mean())


def fit(x: np.ndarray, y: np.ndarray, classes: int, *, others: np.ndarray | None = None, unlabelled: str = "auto",
        seed: int = 0) -> Fitted:  # fmt: skip
    """A calibrated classifier of labelled unit rows.

    Args:
        x: [m, e]; y: [m] in 0..classes-1.
        others: [n, e] rows without a label, of which `SPREAD_OVER` are used; see unlabelled.
        unlabelled: "yes", "no", or "auto": where cross-validation gives a cross-entropy with them that is lower by
            more than its standard error: of few labels chance decides, and spread ones are too sure of themselves.
        seed: of the folds and of the draw of others.

    Raises:
        BadInput: fewer than two classes, or than four labels."""
    if len(np.unique(y)) < 2 or len(y) < 4:
        raise BadInput(f"{len(y)} labels of {len(np.unique(y))} classes: at least 4 labels, of two classes or more.")
    ways: list[tuple[float, Spread | None]] = [(strength, None) for strength in STRENGTHS]
    if others is not None and len(others) and unlabelled != "no":
        drawn = np.random.default_rng(seed).permutation(len(others))[:SPREAD_OVER]
        spread = Spread(np.concatenate([x, others[np.sort(drawn)]]), classes)
        ways = [(STRENGTHS[0], spread)] if unlabelled == "yes" else [*ways, (STRENGTHS[0], spread)]
    tried = []
    for strength, way in ways:
        logits = crossed(x, y, classes, strength, seed, way)
        tried.append((losses(calibrated(logits, *calibration(logits, y)), y), strength, way, logits))
    best = min([one for one in tried if one[2] is None] or tried, key=lambda one: one[0].mean())
    gain = best[0] - tried[-1][0]  # by spreading, where that was tried; else nobody gains on the best
    _, strength, way, logits = tried[-1] if gain.mean() > gain.std() / len(y) ** 0.5 else best
    model = linear(x, y, classes, strength) if way is None else way.fit(np.arange(len(y)), y, strength)
    return with_calibration(replace(model, spread=way is not None, strength=strength), logits, y, seed)


def with_calibration(model: Fitted, logits: np.ndarray, y: np.ndarray, seed: int) -> Fitted:
    """The model with what cross-validation says of it: logits [repeats, m, c] of images by models without them."""
    temperature, doubt = calibration(logits, y)
    honest = np.empty(logits.shape)  # each half by what calibrates the other
    half = folds(y, seed) % 2
    for number in (0, 1):
        here = half == number
        honest[:, here] = calibrated(logits[:, here], *calibration(logits[:, ~here], y[~here]))
    predicted, confidence = honest.argmax(-1), honest.max(-1)
    wrong = np.sort(confidence[predicted != y])
    unsure = float(wrong[min(len(wrong) - 1, int(FOUND_ERRORS * len(wrong)))]) if len(wrong) else 0.0
    about: dict[str, Any] = {"temperature": temperature, "doubt": doubt, "unsure": unsure}
    return replace(model, predicted=predicted, confidence=confidence, **about)


def calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """How far confidence and the share that is right lie apart, in points: the mean over bins of equally many images.

    Args:
        confidence, right: [n]; up to ten bins, of 20 images or more.

    Source: the expected calibration error of Naeini et al., AAAI 2015, with bins of equal mass."""
    confidence, tied, counts = np.unique(confidence, return_inverse=True, return_counts=True)
    right = (np.bincount(tied, weights=right) / counts)[tied]  # equal confidences are told apart by nothing
    order = np.argsort(tied, kind="stable")
    confidence = confidence[tied]
    bins = np.array_split(order, max(1, min(10, len(order) // 20)))
    return 100 * float(sum(abs(confidence[b].sum() - right[b].sum()) for b in bins)) / len(order)


def calibration_interval(confidence: np.ndarray, right: np.ndarray, draws: int = 200) -> tuple[float, float]:
    """95 % interval of `calibration_error`, of [repeats, m]: over seeded draws of images, with all their repeats."""
    draw = np.random.default_rng(0)
    found = []
    for _ in range(draws):
        images = draw.integers(confidence.shape[1], size=confidence.shape[1])
        found.append(calibration_error(confidence[:, images].ravel(), right[:, images].ravel()))
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)
