"""The estimators of benchmarks/entropy.py are what they are called, and do to points what docs/objective.md says."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial import KDTree
from scipy.special import digamma
from scipy.stats import multivariate_normal

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
import entropy as study

EVEN = 30.0  # degrees between twelve points spread evenly on a circle


def test_the_entropy_of_the_rows_is_scipys():
    s = study.spectrum(16)
    assert float(s.sum()) == pytest.approx(1)
    assert study.entropy(s) == pytest.approx(multivariate_normal(cov=np.diag(s)).entropy())


@pytest.mark.parametrize("name", study.ESTIMATORS)
def test_an_estimate_of_many_rows_in_two_dimensions_is_near_its_limit(name):
    estimate, limit = study.ESTIMATORS[name]
    found = [float(estimate(torch.mul(*study.drawn(1024, 2, seed)))) for seed in range(8)]
    assert np.mean(found) == pytest.approx(limit(study.spectrum(2)), abs=0.05)  # standard error of the mean: 0.01


@pytest.mark.parametrize("k", [1, 3])
def test_the_neighbours_estimate_is_the_printed_formula(k):
    rows = torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    distances = KDTree(rows.numpy()).query(rows.numpy(), k=k + 1)[0][:, -1]
    printed = digamma(50) - digamma(k) + math.log(4 / 3 * math.pi) + 3 * np.log(distances).mean()
    assert float(study.neighbours(rows, k)) == pytest.approx(printed)


@pytest.mark.parametrize(("m", "d"), [(6, 9), (9, 6)])
def test_the_kernels_estimates_are_those_of_the_eigenvalues(m, d):
    rows = torch.randn(m, d, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    p = np.linalg.eigvalsh(rows @ rows.T)
    p = p[p > 1e-9] / p.sum()
    assert float(study.von_neumann(rows)) == pytest.approx(-(p * np.log(p)).sum())
    assert float(study.renyi_linear(rows)) == pytest.approx(-math.log((p**2).sum()))
    kernel = torch.exp(-(torch.cdist(rows, rows) ** 2) / (2 * study.WIDTH)) / m
    offset = d / 2 * math.log(2 * math.pi * math.e * study.WIDTH / 4)
    assert float(study.renyi(rows)) == pytest.approx(-math.log(float((kernel @ kernel).trace())) + offset)


def test_the_gradient_at_the_map_is_exact_for_the_log_determinant_and_better_for_the_lower_distortion():
    found = dict(study.gradients(8, 64, repeats=2))
    assert found["Gaussian log-det"][2:] == pytest.approx([1, 1])
    cosines = {name: values[2] for name, values in found.items()}
    assert (
        1
        > cosines["coding length, ε_d² 0.02"]
        > cosines["coding length, ε_d² 0.25"]
        > cosines["von Neumann, linear kernel"]
    )


def test_ascent_spreads_points_evenly_clumps_them_or_leaves_them_where_their_spectrum_is_even(monkeypatch):
    kept = ("coding length, ε_d² 0.02", "k-NN, k = 1", "k-NN, k = 3", "Rényi 2, Gaussian kernel")
    monkeypatch.setattr(study, "ESTIMATORS", {name: study.ESTIMATORS[name] for name in kept})
    table, ends = study.circle(steps=400)
    found = dict(table)
    for name in ("k-NN, k = 1", "Rényi 2, Gaussian kernel"):
        assert found[name][:4] == pytest.approx([12, EVEN, EVEN, EVEN], abs=0.5)
    assert found["k-NN, k = 3"][0] <= 7
    places, least, _, _, rank = found["coding length, ε_d² 0.02"]
    assert (places, rank) == (12, pytest.approx(2, abs=1e-4))
    assert least < 5
    assert all(torch.allclose(rows.norm(dim=1), torch.ones(12, dtype=torch.float64)) for rows in ends.values())


def test_clusters_at_right_angles_are_worth_as_much_as_even_rows_to_spectra_but_not_to_distances():
    found = {name: max(values) for name, values in study.worth(m=128, d=8)}
    for name, gap in found.items():
        if "k-NN" in name:
            assert gap < -10
        elif "Gaussian kernel" in name:
            assert -1 < gap < -0.05
        else:
            assert 0 < gap < 0.3


def test_the_script_prints_its_tables_and_draws_its_picture(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(study, "SIZES", [8, 32])
    monkeypatch.setattr(study, "SHAPES", [(16, 8)])
    study.main(tmp_path / "entropy.png", repeats=1, steps=4)
    printed = capsys.readouterr().out
    assert printed.count("| Gaussian log-det |") == 3 + 3 + 4
    assert "| none |" in printed  # fewer rows than dimensions
    with Image.open(tmp_path / "entropy.png") as picture:
        assert len(picture.convert("RGB").getcolors(2**24)) > 100
