"""The suite goes on where it stopped, tells what it lacks, and lets no part that fails stop the others."""

from __future__ import annotations

import html
import json
import shutil
from pathlib import Path

import pytest
from helpers import labelled_folder, lines
from videos import squares

from mec.cli.main import main
from mec.errors import BadInput, TrainingStopped
from mec.evaluation.results import Result
from mec.reports import suite as running
from mec.reports.figure1 import AXES, PUBLISHED, compared, figure_1, radars, standing
from mec.reports.report import report
from mec.reports.suite import suite


def result(run: str, protocol: str, metric: str, value: float, data: str = "x", **settings) -> dict:
    of = {"run": run, "protocol": protocol, "metric": metric, "value": value, "data": data, "split": "test"}
    return {**of, "settings": settings, "encoder": run}


@pytest.fixture
def finished(finished, tmp_path) -> Path:
    """A run of this test's own: results are added to it."""
    return shutil.copytree(finished, tmp_path / "finished")


@pytest.fixture
def images(tmp_path) -> Path:
    return labelled_folder(tmp_path / "images", classes="ab", width=8, height=8)


def test_ten_parts_of_which_two_lack_data_and_one_fails_end_with_seven_results_and_a_table(
    finished, images, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    honest = running.results_of

    def one_fails(run, protocol, say):
        if type(protocol).__name__ == "Knn" and str(protocol.data) == "digits":
            raise RuntimeError("on purpose")
        return honest(run, protocol, say)

    monkeypatch.setattr(running, "results_of", one_fails)
    options = ["--data", f"digits,{images},nowhere", "--only", "knn,linear,semi", "--preset", "quick"]
    # semi of 1 % of so few images has an image a class at least; four parts of each set, those of nowhere lack data.
    assert main(["suite", str(finished), *options]) == 1
    said = capsys.readouterr()
    assert "knn digits of" in said.err
    assert "RuntimeError: on purpose" in said.err
    assert said.out.count("no data") >= 4
    done = lines(tmp_path / "runs/suite/suite.jsonl")
    assert len(done) == 8
    assert [line["part"] for line in done if line["failed"]] == ["knn digits"]
    table = json.loads((tmp_path / "runs/suite/suite.json").read_text())
    assert sum(bool(row["results"]) for row in table) == 7

    monkeypatch.setattr(running, "results_of", honest)  # mended: only what failed is taken again
    assert main(["suite", str(finished), *options]) == 0
    again = lines(tmp_path / "runs/suite/suite.jsonl")
    assert [line["part"] for line in again[8:]] == ["knn digits"]
    for name in ("figure1.png", "figure1.svg", "figure1.json"):
        assert (tmp_path / "runs/suite" / name).stat().st_size > 100


def test_the_page_of_a_suite_has_its_table_with_what_is_missing_and_figure_1(finished, images, tmp_path, monkeypatch):
    """Of encoders without a folder, too; names are text."""
    evil = images.rename(tmp_path / '<b onclick="alert(1)">images')
    out = tmp_path / "suite"
    asked = {"data": f"{evil},nowhere", "only": "knn", "preset": "quick", "quiet": True, "out": out}
    suite([finished, "random:resnet10-tiny"], **asked)
    page = (out / "report.html").read_text()
    told = json.loads((out / "suite.json").read_text())
    for one in told:
        figures = [r["value"] for r in one["results"] if r["metric"] == "top-1"]
        assert f"<td>{figures[0]:.1f}</td>" in page if figures else html.escape(one["lacking"], quote=False) in page
    assert "random:resnet10-tiny" in page
    assert "<b onclick" not in page
    assert '<img class="wide" src="data:image/png;base64,' in page
    assert page.count("<article") == 1  # of the one that has a folder
    alone = report(out, out=tmp_path / "alone.html").read_text()
    assert alone.count("<article") == 0
    assert report([out, finished], out=tmp_path / "both.html").read_text().count("<article") == 1
    assert "Downstream tasks: suite" in alone


def test_killed_in_a_part_the_suite_goes_on_with_it(finished, images, tmp_path, monkeypatch):
    honest, seen = running.results_of, []

    def cut(run, protocol, say):
        seen.append(type(protocol).__name__)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return honest(run, protocol, say)

    monkeypatch.setattr(running, "results_of", cut)
    asked = {"data": str(images), "only": "knn,linear", "preset": "quick", "out": tmp_path / "suite", "quiet": True}
    with pytest.raises(KeyboardInterrupt):
        suite(finished, **asked)
    assert suite(finished, **asked) == tmp_path / "suite"
    assert seen == ["Knn", "LinearProbe", "LinearProbe"]


@pytest.mark.parametrize("cut", [1, 2, 3, 4])
def test_killed_in_any_part_none_is_measured_twice(finished, images, tmp_path, monkeypatch, cut):
    begun, ended = [], []

    def scripted(run, protocol, say):
        begun.append(type(protocol).__name__)
        if len(begun) == cut:
            raise KeyboardInterrupt
        yield Result("knn", "top-1", 50.0)
        ended.append((type(protocol).__name__, str(getattr(protocol, "labels", ""))))

    monkeypatch.setattr(running, "results_of", scripted)
    asked = {
        "data": str(images),
        "only": "knn,linear,semi",
        "preset": "quick",
        "out": tmp_path / "suite",
        "quiet": True,
    }
    with pytest.raises(KeyboardInterrupt):
        suite(finished, **asked)
    suite(finished, **asked)
    assert len(ended) == len(set(ended)) == 4
    assert [line["failed"] for line in lines(tmp_path / "suite" / "suite.jsonl")] == [""] * 4


def test_features_are_extracted_once_for_all_parts_of_a_run(finished, images, tmp_path):
    asked = {"data": str(images), "preset": "quick", "out": tmp_path / "suite", "quiet": True}
    suite(finished, only="knn", **asked)
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*.npy")}
    assert len(before) == 2  # training and test images
    suite(finished, only="linear", **asked)
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*.npy")} == before


def test_a_run_and_its_untrained_encoder_do_not_meet_in_one_folder(finished, tmp_path):
    asked = {"data_root": squares(tmp_path / "davis", frames=3), "only": "vos", "preset": "quick", "quiet": True}
    suite([finished, f"{finished}@untrained"], out=tmp_path / "suite", **asked)
    first, second = (line["results"] for line in lines(tmp_path / "suite" / "suite.jsonl"))
    assert len(first) == len(second)
    assert {r["encoder"] for r in second if r["settings"].get("head") != "still"} == {"untrained"}
    assert not any(r["encoder"] == "untrained" and r["protocol"] == "vos" for r in lines(finished / "results.jsonl"))
    assert len([*(tmp_path / "suite").glob("*/vos")]) == 1  # its masks; those of the run lie in the run's folder
    assert (finished / "vos").is_dir()


def test_the_plan_alone_measures_nothing(finished, images, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(running, "results_of", lambda *_: pytest.fail("measured"))
    suite(finished, data=str(images), data_root=tmp_path, out=tmp_path / "suite", dry_run=True)
    said = capsys.readouterr().out
    assert not (tmp_path / "suite").exists()
    for word in ("voc", "coco", "sot", "transfer linear dtd", "belongs in"):
        assert word in said.replace("\n", " ")


def test_the_figure_says_what_each_task_was_measured_on():
    results = [result(run, "voc", "AP", value, data="cells_of_mine") for run, value in (("a", 50.0), ("b", 60.0))]
    values, conditions = standing(results)
    data = {axis: str(about["data"]) for axis, about in conditions.items()}
    figure = radars(values, values.rank(ascending=False), {"a": 2.0, "b": 1.0}, data)
    told = [label.get_text() for axes in figure.axes for label in axes.get_xticklabels()]
    assert [text for text in told if "missing" not in text] == ["VOC\ndetection, AP\ncells_of_mine: 50.0 to 60.0"]


def test_the_plan_of_a_quick_look_counts_the_two_epochs_that_it_takes(images):
    whole, quick = ([*running.labelled(str(images), None, preset)] for preset in (False, True))
    ten = {"whole": whole[-1], "quick": quick[-1]}
    images_of_ten, held_out = 0.1 * 24, 12
    assert ten["quick"].flags["epochs"] == 2
    assert ten["quick"].work == pytest.approx(images_of_ten * 2 * 3 + held_out)  # forward, and twice that backward
    assert ten["whole"].work == pytest.approx(images_of_ten * 50 * 3 + held_out)
    assert all("limit" not in part.flags for part in whole)
    assert {part.flags["limit"] for part in quick} == {5_000}  # which results say, and tables leave out


@pytest.mark.samples
def test_data_are_found_in_the_folders_of_the_samples(samples, finished):
    folders = running.folders_in(samples / "samples")
    parts = [*running.detected(folders, samples, quick=True), *running.tracked(folders, samples, quick=True)]
    found = {part.name: part for part in parts if not part.lacking}
    assert {"voc", "voc bccd", "coco", "sot", "vos", "mot", "posetrack"} <= {*found}
    assert Path(found["voc"].flags["data_root"]).name == "voc2007_mini"
    assert found["coco"].flags["preset"] == "quick"


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"only": "knn,linea"}, "Did you mean 'linear'"),
        ({"data_root": "missing"}, "no such folder"),
        ({"only": "coco"}, "no data for any part"),
    ],
)
def test_what_does_not_fit_is_refused(finished, tmp_path, asked, words):
    with pytest.raises(BadInput, match=words):
        suite(finished, out=tmp_path / "suite", quiet=True, **asked)
    with pytest.raises(BadInput, match="no run was given"):
        suite([])
    with pytest.raises(FileNotFoundError):
        suite(tmp_path / "no-run")


def test_several_processes_share_the_parts(finished, images, tmp_path, monkeypatch):
    asked = {"data": str(images), "only": "knn,linear", "preset": "quick", "out": tmp_path / "suite", "quiet": True}
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        suite(finished, **asked)
    assert [line["part"].split()[0] for line in lines(tmp_path / "suite" / "suite.jsonl")] == ["knn", "linear"]


# --- Figure 1 -----------------------------------------------------------------------------------------------------


def test_the_ten_tasks_are_those_of_appendix_c():
    assert [axis.name for axis in AXES if not axis.video] == ["LIN", "SEMI", "VOC", "COCO", "SEG"]
    assert {(axis.protocols[0], axis.metric) for axis in AXES if axis.video} == {
        ("sot", "AUC"), ("vos", "J-mean"), ("mot", "IDF1"), ("posetrack", "IDF1"), ("mots", "IDF1"),
    }  # fmt: skip


def test_ranks_are_scipys_and_every_encoder_has_a_line(tmp_path):
    from scipy.stats import rankdata

    values = {"a": 3.0, "b": 5.0, "c": 3.0, "d": -1.0}
    figure_1([result(name, "vos", "J-mean", value) for name, value in values.items()], tmp_path / "figure.png")
    found = json.loads((tmp_path / "figure.json").read_text())
    assert [*found["ranks"]["VOS"].values()] == rankdata([-v for v in values.values()]).tolist()
    assert found["mean_rank"] == found["ranks"]["VOS"]


def test_only_what_was_measured_alike_is_compared():
    sot = next(axis for axis in AXES if axis.name == "SOT")
    results = [
        result("one", "sot", "AUC", 10.0, head="still"),
        result("one", "sot", "AUC", 20.0, head="xcorr", stage=3),
        result("one", "sot", "AUC", 30.0, head="dcf", stage=3),
        result("one", "sot", "AUC", 40.0, head="xcorr", stage=4),
        result("two", "sot", "AUC", 50.0, head="xcorr", stage=4),
        result("two", "sot", "AUC", 51.0, head="xcorr", stage=4),
    ]
    assert {run: r["value"] for run, r in compared(sot, results).items()} == {"one": 40.0, "two": 51.0}


def test_published_rows_stand_only_beside_figures_under_their_conditions(tmp_path):
    def names(data: str, preset: str) -> set[str]:
        figure_1([result("mine", "linear", "top-1", 60.0, data, preset=preset)], tmp_path / "figure.png")
        return {*json.loads((tmp_path / "figure.json").read_text())["values"]}

    assert names("cifar10", "paper") == names("imagenet", "fast") == {"mine"}
    assert names("imagenet", "paper") == {"mine"} | {name for name, row in PUBLISHED.items() if "LIN" in row}
    found = json.loads((tmp_path / "figure.json").read_text())
    assert found["ranks"]["LIN"]["MEC (published)"] == 1
    assert found["mean_rank"]["mine"] == 4


def test_the_command_draws_it_from_run_folders(tmp_path, monkeypatch, capsys):
    from mec.evaluation.results import Result, record

    for name, value in (("a", 50.0), ("b", 60.0)):
        record(tmp_path / name, [
            Result("linear-fast", "top-1", value, data="cifar10", encoder="mec-joint"),
            Result("linear-fast", "top-1", 1.0, data="cifar10", encoder="untrained"),
            Result("vos", "J-mean", 30.0, data="davis", encoder="mec-joint", settings={"stage": 3}),
        ])  # fmt: skip
    out = tmp_path / "figure.png"
    assert main(["figure", "transfer", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(out)]) == 0
    assert str(out.with_suffix(".svg")) in capsys.readouterr().out.replace("\n", "")
    found = json.loads(out.with_suffix(".json").read_text())
    assert found["ranks"]["VOS"] == {"mec-joint (a)": 1.5, "mec-joint (b)": 1.5}
    assert found["ranks"]["LIN"] == {"mec-joint (a)": 2, "mec-joint (b)": 1}
    assert main(["figure", "transfer", str(tmp_path / "c")]) == 2


def test_a_suite_that_failed_in_part_raises_after_all_was_measured(finished, images, tmp_path, monkeypatch):
    monkeypatch.setattr(running, "results_of", lambda *_: (_ for _ in ()).throw(ValueError("bad")))
    with pytest.raises(TrainingStopped, match="ValueError: bad"):
        suite(finished, data=str(images), only="knn", out=tmp_path / "suite", quiet=True)
    assert (tmp_path / "suite" / "figure1.json").exists()
