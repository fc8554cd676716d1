"""The page of a run says what its files say, and works in a real browser: no error, no request, keyboard and all."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import TINY, digit_images, lines, tiny_run

import mec
from mec.cli.main import main
from mec.errors import BadInput, Diverged
from mec.reports.report import report
from mec.training.page import command_of, fewer
from mec.training.run import read_settings
from mec.training.shown import read_shown

EVIL = '<img src=x onerror="alert(1)"></script><script>alert(2)</script>'.replace("/", "∕")  # no separator in a name


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> Path:
    """A run on labelled files whose names and classes are made to be shown as something else."""
    root = tmp_path_factory.mktemp("report")
    classes = ("<b>bold</b>", "plain", "red\x1b[31m")
    images = iter(digit_images(90))
    for part in ("train", "test"):
        for name in classes:
            folder = root / "data" / part / name.replace("/", "∕")
            folder.mkdir(parents=True)
            for number in range(15):
                next(images).save(folder / f"{EVIL if number == 0 else number}.png")
    return tiny_run(root / "run", str(root / "data"), limit=None, batch_size=16, evaluate=True)


def test_the_page_tells_what_the_files_hold(measured):
    page = (measured / "report.html").read_text()
    results = lines(measured / "results.jsonl")
    best = next(
        r for r in results if r["protocol"] == "linear-fast" and r["metric"] == "top-1" and r["encoder"] == "mec-joint"
    )
    assert f"{best['value']:.1f} % (95 %: {best['interval'][0]:.1f} to {best['interval'][1]:.1f})" in page
    assert "45 images of test" in page
    assert json.loads((measured / "health.json").read_text())["word"] in page
    settings = read_settings(measured)
    assert settings.data_fingerprint in page
    assert "mec pretrain" in page
    assert page.count('<tr class="ours">') == 1


def test_names_are_text_wherever_they_stand(measured):
    page = (measured / "report.html").read_text()
    assert "<b>bold" not in page
    assert "<img src=x" not in page
    assert "\x1b" not in page
    assert "red\\x1b[31m" in page
    assert "alert(2)</script>" not in page


def test_no_address_stands_in_what_a_page_loads(measured):
    page = (measured / "report.html").read_text()
    assert re.findall(r"""<(?:script|link|img|iframe)[^>]+(?:src|href)=["'](?!data:)[^"']*""", page) == []


def test_a_page_is_made_again_with_what_was_measured_since(measured, tmp_path):
    run = shutil.copytree(measured, tmp_path / "run")
    mec.evaluate(run, "knn", "digits", k=7, limit=50)
    assert "digits" not in re.sub(r"<script>.*?</script>", "", (run / "report.html").read_text(), flags=re.DOTALL)
    assert report(run) == run / "report.html"
    page = (run / "report.html").read_text()
    assert "k 7" in page
    for entry in ("embedding.png", "encoder.safetensors"):
        assert (run / entry).exists()


def test_without_a_page_none_is_written_and_without_measuring_it_can_be_made(tmp_path, monkeypatch):
    monkeypatch.setattr("mec.training.report.FEW_CLASSES", 1)
    monkeypatch.setattr("mec.training.report.MAPPED_TEST", 40)
    run = tiny_run(tmp_path / "run", report=False, evaluate=True)
    assert not (run / "report.html").exists()
    assert (run / "shown.json").exists()
    bare = tiny_run(tmp_path / "bare")
    assert not (bare / "report.html").exists()
    page = report(bare).read_text()
    assert "While it trained" in page
    assert "data-map" not in re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)


def test_the_command_line_writes_one_page_of_several_runs(finished, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    other = shutil.copytree(finished, tmp_path / "other")
    assert main(["report", str(finished), str(other)]) == 0
    assert capsys.readouterr().out == "Written: report.html\n"
    page = (tmp_path / "report.html").read_text()
    assert "2 runs side by side" in page
    assert "Side by side" in page


@pytest.mark.parametrize(
    ("run", "out", "words"),
    [
        ("missing", None, "no such run folder"),
        (".", None, "neither the folder of a run"),
        ("run", "page.pdf", "a page is called NAME.html"),
        ("run", "no/page.html", "there is no folder no. Make it first"),
        ("run", "folder.html", "a folder; a page is a file"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(run, out, words, finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished, "run")
    Path("folder.html").mkdir()
    with pytest.raises((BadInput, FileNotFoundError), match=words):
        report(run, **({} if out is None else {"out": out}))
    with pytest.raises(BadInput, match="no run was given"):
        report([])


def test_a_damaged_list_of_images_is_told_by_its_name(measured, tmp_path):
    run = shutil.copytree(measured, tmp_path / "run")
    (run / "shown.json").write_text('{"part": 3}')
    with pytest.raises(BadInput, match=r"shown\.json"):
        report(run)


@pytest.mark.parametrize("asked", [{}, {"epochs": None, "steps": 4, "seed": 3}])
def test_the_command_that_a_page_shows_trains_the_same_run_again(asked, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = tiny_run(tmp_path / "one", evaluate=False, **asked)
    words = shlex.split(command_of(read_settings(run), tmp_path / "two"))
    assert words[:3] == ["mec", "pretrain", "digits"]
    assert main([*words[1:], "--no-evaluate", "--quiet", "--device", "cpu"]) == 0
    assert (tmp_path / "two" / "encoder.safetensors").read_bytes() == (run / "encoder.safetensors").read_bytes()


def test_pictures_of_detections_are_shown_and_broken_ones_left_out(measured, tmp_path):
    run = shutil.copytree(measured, tmp_path / "run")
    folder = run / "voc-quick" / "pictures"
    folder.mkdir(parents=True)
    digit_images(1)[0].resize((2000, 1000)).save(folder / "one.png")
    (folder / "two.jpg").write_bytes(b"half a picture")
    page = report(run).read_text()
    assert "voc-quick/pictures/one.png" in page
    assert "two.jpg" not in page
    assert "Who was taken for whom" in page


@pytest.mark.parametrize("most", [1, 7, 44, 45, 1000])
def test_fewer_images_keep_their_own_neighbours(measured, most):
    shown = read_shown(measured)
    few = fewer(shown, most)
    assert len(few.names) == len(few.thumbnails) == len(few.points["after"]) == min(most, 45)
    for index, name in enumerate(few.names):
        old = [
            i for i, other in enumerate(shown.names) if other == name and shown.thumbnails[i] == few.thumbnails[index]
        ]
        near = {shown.thumbnails[j] for i in old for j in shown.near["after"][i]}
        assert {few.thumbnails[j] for j in few.near["after"][index]} <= near


@pytest.mark.parametrize(("size", "least"), [(2_100, 2_000), (4_500, 1_000)])
def test_a_page_of_2000_images_is_under_8_megabytes(measured, tmp_path, size, least):
    """Of photographs a thumbnail takes 2,100 bytes (ImageNet's, clothes), of noise 4,500: of that fewer are shown."""
    shown, runs = read_shown(measured), [tmp_path / "one", tmp_path / "two"]
    rows = [i % len(shown.names) for i in range(1_000)]
    many = {name: [getattr(shown, name)[i] for i in rows] for name in ("names", "labels", "clusters")}
    for name in ("points", "cosine", "near"):
        many[name] = {when: [values[i] for i in rows] for when, values in getattr(shown, name).items()}
    many["thumbnails"] = ["data:image/jpeg;base64," + "A" * (size - 23)] * 1_000
    for run in runs:
        shutil.copytree(measured, run)
        (run / "shown.json").write_text(json.dumps({**vars(shown), **many, "of": 1_000}))
    page = report(runs, out=tmp_path / "page.html")
    assert page.stat().st_size < 8_000_000
    told = re.findall(r"A map of ([\d,]+) images", page.read_text())
    assert least <= sum(int(count.replace(",", "")) for count in told) <= 2_000


def test_neighbours_are_those_of_a_search_by_hand(measured):
    shown = read_shown(measured)
    data = mec.open_data(str(measured.parent / "data"))
    x = mec.features(measured, data.test).x.double().numpy()
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    similar = unit @ unit.T - 3 * np.eye(len(unit))
    for index, near in enumerate(shown.near["after"]):
        assert len(near) == 6
        assert index not in near
        least = np.sort(similar[index])[-6]
        assert all(similar[index, j] >= least - 1e-5 for j in near)


def test_a_run_that_diverged_has_a_page_that_says_so(tmp_path):
    with pytest.raises(Diverged):
        tiny_run(tmp_path / "run", evaluate=True, set=[*TINY, "optimizer.base_lr=1e30"])
    page = (tmp_path / "run" / "report.html").read_text()
    assert "<strong>diverged</strong>" in page


# --- in a browser -------------------------------------------------------------------------------------------------

BROWSERS = [path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))]


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api")
    if not BROWSERS:
        pytest.skip("no chromium on this machine")
    with api.sync_playwright() as play:
        found = play.chromium.launch(executable_path=BROWSERS[0], args=["--no-sandbox"])
        yield found
        found.close()


def opened(browser, path: Path, width: int = 1200):
    """The page, ready, and what it complained of or asked for."""
    page, trouble = browser.new_context(viewport={"width": width, "height": 900}).new_page(), []
    page.on("console", lambda said: trouble.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("dialog", lambda dialog: trouble.append("dialog"))
    page.on(
        "request", lambda asked: trouble.append(asked.url) if asked.url[:5] not in ("data:", "blob:", "file:") else None
    )
    page.goto(f"file://{path.resolve()}")
    page.wait_for_function("[...document.querySelectorAll('[data-map]')].every(one => one.dataset.ready)")
    page.wait_for_timeout(300)
    return page, trouble


@pytest.mark.slow
@pytest.mark.parametrize("width", [1200, 700, 390])
def test_a_page_works_in_a_browser_at_any_width(browser, measured, width):
    page, trouble = opened(browser, measured / "report.html", width)
    assert trouble == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    shown = read_shown(measured)
    slider = page.locator("input[type=range]").first
    slider.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.locator(".chosen img").get_attribute("src") == shown.thumbnails[2]
    near = page.locator("[data-near=near_after] img")
    assert [near.nth(i).get_attribute("src") for i in range(near.count())] == [
        shown.thumbnails[j] for j in shown.near["after"][2]
    ]
    page.locator("select").first.select_option("outlier")
    assert page.locator("[data-legend=outlier]").is_visible()
    assert page.locator("[data-legend=class]").is_hidden()
    assert trouble == []


@pytest.mark.slow
def test_pointing_at_a_map_shows_the_image_that_lies_there_and_a_click_its_neighbours(browser, measured):
    page, trouble = opened(browser, measured / "report.html")
    shown = read_shown(measured)
    place = page.evaluate(
        """() => {
            const [name, at] = ["run0-images", 4];
            const drawn = model => model.renderers?.some(r => r.data_source?.name === name && r.glyph.x.field === "x1");
            const view = [...Bokeh.index.roots ?? Object.values(Bokeh.index)].find(one => drawn(one.model));
            const source = view.model.renderers[0].data_source;
            view.el.scrollIntoView({block: "center"});
            const box = view.el.getBoundingClientRect();
            const frame = view.frame.bbox;
            return {x: box.left + view.frame.x_scale.compute(source.data.x1[at]),
                    y: box.top + view.frame.y_scale.compute(source.data.y1[at])};
        }"""
    )
    page.mouse.move(place["x"] - 3, place["y"])
    page.mouse.move(place["x"], place["y"])
    page.wait_for_timeout(400)
    sources = page.evaluate(
        """() => {
            const found = [];
            const look = root => { for (const e of root.querySelectorAll("*")) {
                if (e.tagName === "IMG" && getComputedStyle(e).width === "96px") found.push(e.src);
                if (e.shadowRoot) look(e.shadowRoot);
            } };
            look(document);
            return found;
        }"""
    )
    assert shown.thumbnails[4] in sources
    page.mouse.click(place["x"], place["y"])
    page.wait_for_timeout(200)
    chosen = page.locator(".chosen img").get_attribute("src")
    assert chosen in sources
    assert trouble == []


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_serious_fault_of_accessibility_is_found(browser, measured, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page, _ = opened(browser, measured / "report.html")
    page.emulate_media(color_scheme=scheme)
    found = axe.Axe().run(page).response["violations"]
    assert [(v["id"], v["nodes"][0]["html"][:200]) for v in found if v["impact"] in ("serious", "critical")] == []


@pytest.mark.slow
def test_the_pages_of_a_comparison_and_of_photographs_open_without_a_word(browser, tmp_path):
    methods = ["mec-joint", "simclr", "vicreg"]
    few = {"epochs": 1, "limit": 128, "batch_size": 32, "quiet": True}
    out = mec.compare("digits", methods=methods, out=tmp_path / "compare", **few)
    page, trouble = opened(browser, out / "report.html")
    assert trouble == []
    assert page.locator("article").count() == 3
    folder = tmp_path / "plain"
    folder.mkdir()
    for number, image in enumerate(digit_images(40)):
        image.resize((90, 70)).save(folder / f"{number}.jpg")
    run = tiny_run(tmp_path / "run", str(folder), limit=None, batch_size=8, evaluate=True)
    page, trouble = opened(browser, run / "report.html")
    assert trouble == []
    assert page.locator("[data-legend=cluster]").is_visible()


@pytest.mark.slow
def test_the_pages_of_a_suite_and_of_a_run_that_diverged_open_without_a_word_or_a_fault(browser, measured, tmp_path):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    data = measured.parent / "data"
    out = mec.suite([measured, "random:resnet10-tiny"], data=str(data), only="knn,linear,voc", preset="quick",
                    out=tmp_path / "suite", quiet=True)  # fmt: skip
    with pytest.raises(Diverged):
        tiny_run(tmp_path / "run", evaluate=True, set=[*TINY, "optimizer.base_lr=1e30"])
    for folder, words in ((out, "Downstream tasks"), (tmp_path / "run", "diverged")):
        page, trouble = opened(browser, folder / "report.html", 390)
        assert trouble == []
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert page.get_by_text(words).first.is_visible()
        found = axe.Axe().run(page).response["violations"]
        assert [(v["id"], v["nodes"][0]["html"][:200]) for v in found if v["impact"] in ("serious", "critical")] == []
    page, _ = opened(browser, out / "report.html")
    picture = page.locator("img.wide").first
    assert picture.evaluate("one => one.complete && one.naturalWidth > 600")


@pytest.mark.slow
@pytest.mark.samples
def test_the_pages_of_300_photographs_and_of_a_suite_over_the_samples_open_without_a_word(
    browser, samples, tmp_path, monkeypatch
):
    """Photographs without labels; the cheaper half of the samples."""
    monkeypatch.chdir(tmp_path)
    cells = tiny_run(tmp_path / "cells", str(samples / "cells" / "images"), limit=None, batch_size=64, evaluate=True)
    asked = {"data_root": samples / "samples", "only": "transfer,mot", "preset": "quick", "quiet": True}
    mec.suite([cells, "random:resnet10-tiny"], out=tmp_path / "suite", **asked)
    for path, articles in ((cells / "report.html", 1), (tmp_path / "suite" / "report.html", 1)):
        page, trouble = opened(browser, path)
        assert trouble == []
        assert page.locator("article").count() == articles
        assert page.locator(".thumb").count() >= 12
    rows = page.locator("section").first.locator("tbody tr")
    names = [rows.nth(i).locator("th").inner_text() for i in range(rows.count())]
    assert names == ["transfer linear voc2007", "transfer finetune voc2007", "mot"]
    assert page.locator("dl dt").count() == 20  # transfer sets that the samples do not have, in both modes
