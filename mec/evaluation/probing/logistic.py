"""Logistic regression on features over a path of L2 penalties, from strong to weak, by L-BFGS.

The objective is scikit-learn's with C = 1 / penalty: the sum over rows of the cross-entropy, plus penalty / 2 times the
squared weights; the bias is free. It is solved in the principal axes of the features, which leaves the penalty as it
is, with each axis scaled by its own curvature: then few steps are enough at any penalty.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor
from torch.nn.functional import linear, softplus

from mec.errors import BadInput

PENALTIES = tuple(float(p) for p in np.logspace(5, -6, 45))  # strong to weak: protocol of SimCLR's appendix B.8
MOST_STEPS = 5000
WINDOW = 8  # steps; the solver stops where so many lower the objective by less than `SOLVER_TOLERANCE` of itself
SOLVER_TOLERANCE = 5e-5


@dataclass(frozen=True)
class Logistic:
    """A fitted model of raw features: weight [e, c], bias [c], and the objective that it reaches at its penalty."""

    penalty: float
    weight: np.ndarray
    bias: np.ndarray
    objective: float
    steps: int

    def scores(self, x: np.ndarray | Tensor) -> np.ndarray:
        """[n, c] logits of features [n, e]."""
        return np.asarray(x, dtype=np.float64) @ self.weight + self.bias


@dataclass(frozen=True)
class Problem:
    """Features in their principal axes z [n, r], with what leads back to the raw ones, and what to predict."""

    z: Tensor
    variance: np.ndarray  # [r]: squared length of each column of z
    axes: np.ndarray  # [e, r]
    mean: np.ndarray  # [e]
    target: Tensor  # [n] int64 in 0..c-1, or [n, c] of 1, 0 (left out) and -1
    fitted: np.ndarray  # the columns of the answer that have something to fit
    rest: np.ndarray  # [c]: bias of the other columns


def prepare(x: Tensor | np.ndarray, y: Tensor | np.ndarray, classes: int, *, device: str = "cpu",
            dtype: torch.dtype = torch.float32) -> Problem:  # fmt: skip
    """Rotate features [n, e] once for a whole path.

    Args:
        x: [n, e] features, used raw: neither scaled nor standardised.
        y: [n] classes from 0, fitted together (two classes: one logistic curve, as scikit-learn has it), or [n, c] of
            1, -1 and 0, fitted apart, where a pair of image and class with 0 is left out of the loss.
        classes: c, of the answer's columns. A class that y never names (or never denies) gets the weight 0.
        device, dtype: of the sums over rows; the objective is added up in float64.
    Raises BadInput: shapes do not fit, a value is not finite, or nothing to tell apart."""
    x, y = torch.as_tensor(x), torch.as_tensor(y)
    if x.ndim != 2 or y.shape not in (x.shape[:1], (len(x), classes)):
        fit = f"features [n, e], labels [n] or [n, {classes}]"
        raise BadInput(f"features are {[*x.shape]}, labels {[*y.shape]}: {fit}.")
    if not torch.isfinite(x).all():
        raise BadInput("features hold values that are not finite (nan or inf): the encoder is broken.")
    mean = x.mean(0, dtype=torch.float64)
    gram = torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64)
    for part in x.split(8192):
        centred = part.double() - mean
        gram += centred.T @ centred
    variance, axes = torch.linalg.eigh(gram)
    kept = variance > variance.max() * torch.finfo(torch.float64).eps * len(x)
    variance, axes = variance[kept], axes[:, kept]
    z = torch.cat([((part.double() - mean) @ axes).to(dtype) for part in x.split(8192)]).to(device)
    if y.ndim == 1:
        named, target = torch.unique(y, return_inverse=True)
        fitted, rest = named.numpy(), np.full(classes, -np.inf)
        if len(named) == 2:  # one curve: the second class against the first
            target, fitted = (2 * target - 1)[:, None], fitted[1:]
            rest[named[0]] = 0.0
        enough = len(named) > 1
    else:
        fitted, rest = np.flatnonzero(((y > 0).any(0) & (y < 0).any(0)).numpy()), np.zeros(classes)
        target = y[:, fitted].long()
        enough = len(fitted) > 0
    if not enough:
        raise BadInput(f"all {len(y)} labels are alike: logistic regression needs at least two classes.")
    return Problem(z, variance.numpy(), axes.numpy(), mean.numpy(), target.to(device), fitted, rest)


def loss_and_slope(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of the cross-entropies [] in float64, and its gradient by the logits [n, c].
    Expressed by how far other classes lie from the right one, so that tiny losses keep their digits."""
    if target.ndim == 2:  # -1, 1: one sigmoid each; 0: left out
        margin = logits * target
        weight = target.abs()
        loss = softplus(-margin) * weight
        return loss.sum(dtype=torch.float64), -torch.sigmoid(-margin) * target
    right = target[:, None]
    behind = logits - logits.gather(1, right)
    behind.scatter_(1, right, -torch.inf)
    most = behind.amax(1, keepdim=True).clamp_(min=0)
    slope = behind.sub_(most).exp_()
    others, self = slope.sum(1, keepdim=True), torch.exp(-most)
    loss = most + torch.log1p(others + (self - 1))
    slope /= others + self
    return loss.sum(dtype=torch.float64), slope.scatter_(1, right, -(others / (others + self)))


def solve(problem: Problem, penalty: float, start: np.ndarray | None = None) -> tuple[np.ndarray, float, int]:
    """Coefficients [r + 1, c] in the problem's axes (the last row is the bias), objective, and steps taken."""
    z, target = problem.z, problem.target
    count, size = len(problem.fitted), z.shape[1]
    at = np.zeros((size + 1, count)) if start is None else start

    def value(coefficients: np.ndarray) -> tuple[float, np.ndarray, Tensor]:
        # [c, r + 1]: products of the long matrix by rows of the narrow one are several times as fast on a CPU.
        on_device = torch.from_numpy(np.ascontiguousarray(coefficients.T)).to(z)
        loss, slope = loss_and_slope(linear(z, on_device[:, :-1].contiguous(), on_device[:, -1]), target)
        gradient = np.empty_like(coefficients)
        gradient[:-1] = (slope.T @ z).T.double().cpu().numpy() + penalty * coefficients[:-1]
        gradient[-1] = slope.sum(0, dtype=torch.float64).cpu().numpy()
        return float(loss) + penalty / 2 * float((coefficients[:-1] ** 2).sum()), gradient, slope

    first, _, slope = value(at)
    # Curvature by the logits is p (1 - p), here its mean over rows; along an axis it adds up the axis's variance.
    bend = slope.abs().double()
    curvature = float((bend * (1 - bend)).mean().clamp(min=1e-12))
    scale = 1 / np.sqrt(np.append(problem.variance * curvature + penalty, len(z) * curvature))[:, None]

    def scaled(u: np.ndarray) -> tuple[float, np.ndarray]:
        found, gradient, _ = value(u.reshape(at.shape) * scale)
        return found / first, (gradient * scale).ravel() / first

    recent = [1.0]

    def stop(intermediate_result) -> None:
        recent.append(float(intermediate_result.fun))
        if len(recent) > WINDOW and recent[-1 - WINDOW] - recent[-1] < SOLVER_TOLERANCE * recent[-1]:
            raise StopIteration

    if first == 0:  # nothing is left to gain
        return at, first, 0
    options = {"maxiter": MOST_STEPS, "maxfun": 2 * MOST_STEPS, "maxcor": 20, "maxls": 30, "ftol": 0.0, "gtol": 0.0}
    found = minimize(scaled, (at / scale).ravel(), jac=True, method="L-BFGS-B", callback=stop, options=options)
    return found.x.reshape(at.shape) * scale, float(found.fun) * first, int(found.nit)


def model(problem: Problem, penalty: float, coefficients: np.ndarray, objective: float, steps: int) -> Logistic:
    weight, bias = np.zeros((len(problem.mean), len(problem.rest))), problem.rest.copy()
    weight[:, problem.fitted] = problem.axes @ coefficients[:-1]
    bias[problem.fitted] = coefficients[-1] - problem.mean @ weight[:, problem.fitted]
    return Logistic(penalty, weight, bias, objective, steps)


def coefficients_of(fitted: Logistic, problem: Problem) -> np.ndarray:
    """A model's coefficients in a problem's axes: a start for solving it on other rows."""
    weight = fitted.weight[:, problem.fitted]
    return np.vstack([problem.axes.T @ weight, fitted.bias[problem.fitted] + problem.mean @ weight])


def logistic_path(problem: Problem, penalties: Iterable[float] = PENALTIES) -> Iterator[Logistic]:
    """One model per penalty, each started from the one before: give them from strong to weak."""
    path: list[tuple[float, np.ndarray]] = []
    for penalty in penalties:
        at, objective, steps = solve(problem, penalty, foreseen(path, penalty))
        path = [*path[-1:], (penalty, at)]
        yield model(problem, penalty, at, objective, steps)


def foreseen(path: Sequence[tuple[float, np.ndarray]], penalty: float) -> np.ndarray | None:
    """Where the next solution is expected: solutions lie nearly on a line in the logarithm of a weak penalty."""
    if len(path) < 2:
        return path[-1][1] if path else None
    (before, first), (last, second) = path
    return second + (second - first) * (np.log(penalty / last) / np.log(last / before))
