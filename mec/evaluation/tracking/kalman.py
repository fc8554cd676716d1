"""A Kalman filter of boxes with constant velocity, for many tracks at once.

A state is (centre x, centre y, aspect w / h, height h) and velocities per frame, [n, 8] with covariance [n, 8, 8];
what is measured is its first half. Noise grows with the height: that of a position is 1 / 20 of it, of a velocity
1 / 160.
Source: protocols of UniTrack (the filter of DeepSORT), in float64.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
POSITION, VELOCITY = 1 / 20, 1 / 160  # standard deviations, of the height
ASPECT, ASPECT_VELOCITY, ASPECT_MEASURED = 1e-2, 1e-5, 1e-1
STEP = np.eye(8) + np.eye(8, k=4)  # a frame later: positions move by their velocities
CHI2_4 = 9.4877  # 95 % of squared Mahalanobis distances in four dimensions are below


def begin(measured: Floats) -> tuple[Floats, Floats]:
    """Mean and covariance of tracks first seen as `measured` [n, 4], at rest."""
    mean = np.concatenate([measured, np.zeros_like(measured)], axis=1)
    return mean, _diagonal(measured[:, 3], 2 * POSITION, ASPECT, 10 * VELOCITY)


def predict(mean: Floats, covariance: Floats) -> tuple[Floats, Floats]:
    """One frame later."""
    return mean @ STEP.T, STEP @ covariance @ STEP.T + _diagonal(mean[:, 3], POSITION, ASPECT, VELOCITY)


def project(mean: Floats, covariance: Floats) -> tuple[Floats, Floats]:
    """What a measurement is expected to be: mean [n, 4] and covariance [n, 4, 4], its own noise included."""
    noise = _diagonal(mean[:, 3], POSITION, ASPECT_MEASURED, 0)[:, :4, :4]
    return mean[:, :4], covariance[:, :4, :4] + noise


def update(mean: Floats, covariance: Floats, measured: Floats) -> tuple[Floats, Floats]:
    """Mean and covariance once track i has been measured as row i of `measured` [n, 4]."""
    expected, spread = project(mean, covariance)
    gain = np.linalg.solve(spread, covariance[:, :4]).transpose(0, 2, 1)  # [n, 8, 4] = P Hᵀ S⁻¹
    mean = mean + np.einsum("nij,nj->ni", gain, measured - expected)
    return mean, covariance - gain @ spread @ gain.transpose(0, 2, 1)


def distances(mean: Floats, covariance: Floats, measured: Floats) -> Floats:
    """Squared Mahalanobis distances [n, m] of measurements [m, 4] from what the tracks expect."""
    expected, spread = project(mean, covariance)
    offsets = measured[None] - expected[:, None]  # [n, m, 4]
    whitened = np.linalg.solve(np.linalg.cholesky(spread), offsets.transpose(0, 2, 1))
    return (whitened**2).sum(1)


def _diagonal(height: Floats, position: float, aspect: float, velocity: float) -> Floats:
    """Covariances [n, 8, 8] of independent noise: shares of the height, and fixed for the aspect."""
    deviations = np.empty((len(height), 8))
    deviations[:, [0, 1, 3]] = position * height[:, None]
    deviations[:, [4, 5, 7]] = velocity * height[:, None]
    deviations[:, 2], deviations[:, 6] = aspect, ASPECT_VELOCITY
    return deviations[:, :, None] ** 2 * np.eye(8)


def measured_from(boxes: Floats) -> Floats:
    """Boxes [n, 4] as (x1, y1, x2, y2) -> (centre x, centre y, w / (h + 1e-6), h)."""
    w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    return np.stack([boxes[:, 0] + w / 2, boxes[:, 1] + h / 2, w / (h + 1e-6), h], axis=1)


def boxes_from(mean: Floats) -> Floats:
    """States [n, 4 or 8] -> boxes (x1, y1, x2, y2)."""
    x, y, aspect, h = mean[:, 0], mean[:, 1], mean[:, 2], mean[:, 3]
    w = aspect * h
    return np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], axis=1)
