"""Figure 6: the errors are those of the printed formulas, and the paper's figures stand beside ours."""

import json
import sys
from pathlib import Path

import pytest
import reference
import torch
from PIL import Image
from torch.nn import functional as F

from mec.data.opening import open_data
from mec.evaluation.features import extract
from mec.networks.encoder_file import load_encoder

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
import series
from series import ORDERS, approximations


@pytest.mark.parametrize(("m", "d"), [(6, 10), (10, 6)])
def test_errors_are_those_of_equation_2_against_equation_1(m, d):
    rows = torch.randn(m, d, dtype=torch.float64)
    found = approximations("rows", rows, [m], distortion=2.0, repeats=2)
    z = F.normalize(rows, dim=1)
    exact = reference.coding_length(z, 2.0)
    assert [a.order for a in found] == [None, *ORDERS]
    for a in found:
        value = exact if a.order is None else reference.coding_length_series(z, 2.0, a.order)
        assert a.value == pytest.approx(value.item(), rel=1e-10)
        assert a.error == pytest.approx(abs(value / exact - 1).item(), rel=1e-6, abs=1e-12)
        assert a.low <= a.median <= a.high


def test_the_script_measures_random_rows_and_a_run_and_prints_the_paper_s_figures(finished, tmp_path, capsys):
    flags = ["--rows", "8,2048", "--size", "12", "--repeats", "1", "--device", "cpu", "--run", str(finished)]
    series.main([*flags, "--out", str(tmp_path)])
    said = capsys.readouterr().out
    for text in (
        "0.11 ms, 2.56 %",
        "35.48 ms",
        "0.22 %",
        "0.07 %",
        "does not state its inputs",
        "features of finished",
    ):
        assert text in said, text
    written = json.loads((tmp_path / "series.json").read_text())
    assert written["distortion"] == 0.06
    ours = {a["m"]: a for a in written["approximations"] if a["rows"] == "features of finished" and a["order"] == 4}
    assert list(ours) == [8, 96]  # all of the run's images, where fewer than asked for
    encoder, transform = load_encoder(finished)
    x = extract(encoder, open_data("digits", limit=96).train, transform).x
    z = F.normalize(x.double(), dim=1)
    error = abs(reference.coding_length_series(z, 0.06, 4) / reference.coding_length(z, 0.06) - 1).item()
    assert ours[96]["error"] == pytest.approx(error, rel=1e-3)
    with Image.open(tmp_path / "series.png") as picture:
        assert len(picture.convert("RGB").getcolors(2**24)) > 50


@pytest.mark.parametrize(("flag", "value"), [("--rows", "0,4"), ("--size", "0"), ("--repeats", "0")])
def test_numbers_below_one_are_refused(flag, value, tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        series.main([flag, value, "--out", str(tmp_path)])
    assert caught.value.code == 2
    assert "at least 1" in capsys.readouterr().err
