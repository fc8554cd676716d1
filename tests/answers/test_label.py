"""The page that asks for labels: nothing is lost, and it answers to itself alone; in a real browser too."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import socket
from pathlib import Path

import numpy as np
import pytest
from helpers import digit_images, started
from sklearn.datasets import load_digits
from starlette.testclient import TestClient

import mec
from mec.answers.label import EACH, Answers, application
from mec.answers.options import Labelling
from mec.answers.pool import gather
from mec.errors import BadInput

TOKEN, PORT = "correct-horse", 8765
HERE = f"http://127.0.0.1:{PORT}"
CLASSES = [f"d{i}" for i in range(10)]
BROWSERS = [path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))]


def rows(path: Path) -> list[tuple[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return [(row["path"], row["label"]) for row in csv.DictReader(file)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """60 digits, each called by its number."""
    (tmp_path / "scans").mkdir()
    for i, image in enumerate(digit_images(60)):
        image.save(tmp_path / "scans" / f"{i:04}.png")
    return tmp_path / "scans"


@pytest.fixture
def opened(folder: Path, finished: Path, tmp_path: Path):
    """A client of a new session each time it is called; the CSV stays."""
    shutil.copytree(finished, tmp_path / "run")

    def client(n: int = 25, **headers: str) -> TestClient:
        options = Labelling(classes=",".join(CLASSES), out=tmp_path / "labels.csv", n=n)
        answers = Answers(gather(tmp_path / "run", folder, options), CLASSES, options)
        found = TestClient(application(answers, TOKEN, PORT), base_url=HERE, headers={"x-token": TOKEN, **headers})
        found.answers = answers
        return found

    return client


def digit(state: dict) -> int:
    return int(load_digits().target[int(state["name"][:4])])


def test_each_answer_is_on_disk_before_the_next_image_and_a_new_session_goes_on(opened, tmp_path):
    client, seen = opened(), []
    state = client.get("/state").json()
    for number in range(7):
        seen.append(state["name"])
        state = client.post("/answer", json={"index": state["index"], "label": digit(state)}).json()
        assert [name for name, _ in rows(tmp_path / "labels.csv")] == seen
        assert state["done"] == number + 1
    assert [label for _, label in rows(tmp_path / "labels.csv")] == [
        f"d{load_digits().target[int(name[:4])]}" for name in seen
    ]
    again = opened().get("/state").json()
    assert (again["done"], again["n"]) == (7, 25)
    assert again["name"] not in seen
    assert len({*seen}) == 7


def test_skip_undo_and_a_key_pressed_twice(folder, opened, tmp_path):
    for path in sorted(folder.iterdir())[12:]:
        path.unlink()
    client = opened()
    first = client.get("/state").json()
    second = client.post("/answer", json={"index": first["index"], "label": None}).json()
    assert rows(tmp_path / "labels.csv") == [(first["name"], "")]
    twice = client.post("/answer", json={"index": first["index"], "label": 3})
    assert twice.status_code == 409
    assert twice.json()["index"] == second["index"]
    assert rows(tmp_path / "labels.csv") == [(first["name"], "")]
    client.post("/answer", json={"index": second["index"], "label": 4})
    assert client.post("/undo", json={}).json()["index"] == second["index"]
    assert rows(tmp_path / "labels.csv") == [(first["name"], "")]
    assert client.post("/undo", json={}).json()["index"] == first["index"]
    assert rows(tmp_path / "labels.csv") == []
    assert client.post("/undo", json={}).json()["done"] == 0
    client.post("/answer", json={"index": first["index"], "label": None})
    asked = {state["name"] for state in answered(opened(12))}
    assert first["name"] not in asked  # skipped stays skipped in a later session
    assert len(asked) == 11


def answered(client: TestClient) -> list[dict]:
    """Every image that is asked, answered rightly."""
    states, state = [], client.get("/state").json()
    while state["index"] is not None:
        states.append(state)
        state = client.post("/answer", json={"index": state["index"], "label": digit(state)}).json()
    return states


def test_after_every_ten_accuracy_is_told_and_the_next_are_what_select_gives(opened, tmp_path, folder):
    client = opened(30)
    states = answered(client)
    assert len(states) == 30
    for start in (0, EACH, 2 * EACH):
        known = tmp_path / "known.csv"
        known.write_text("path,label\n" + "".join(f"{s['name']},x\n" for s in states[:start]))
        wanted = mec.select(
            tmp_path / "run", folder, n=30 - start, out=tmp_path / "w.csv", labels=known if start else None
        )
        assert [state["name"] for state in states[start : start + EACH]] == wanted[:EACH]
    assert states[EACH - 1]["told"] == ""
    assert states[EACH]["told"].startswith("10 labels: ")
    assert states[2 * EACH]["told"].startswith("20 labels: ")
    assert "by cross-validation (95 %: " in states[-1]["told"]
    near = states[-1]["near"]
    x = mec.features(tmp_path / "run", folder).unit().numpy()
    nearest = np.argsort(-x @ x[states[-1]["index"]])[1 : 1 + len(near)]
    assert [index for index, _ in near] == nearest.tolist()
    labelled = {state["index"]: f"d{digit(state)}" for state in states[:-1]}
    assert [word for _, word in near] == [labelled.get(index, "") for index, _ in near]


REFUSED = [
    {"x-token": ""},
    {"x-token": "wrong"},
    {"origin": "http://evil.example"},
    {"origin": "null"},
    {"origin": f"https://127.0.0.1:{PORT}"},
    {"origin": "http://127.0.0.1:1"},
    {"host": "evil.example"},
    {"host": f"127.0.0.1.evil.example:{PORT}"},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
]


@pytest.mark.parametrize("headers", REFUSED, ids=str)
def test_who_lacks_the_token_or_comes_from_elsewhere_gets_nothing(headers, opened, tmp_path):
    client = opened(**headers)
    index = client.answers.queue[0]
    asked = [client.get(path) for path in ("/", "/state", "/image/0", f"/?token={TOKEN[:-1]}")]
    asked += [client.post("/answer", json={"index": index, "label": 1}), client.post("/undo", json={})]
    assert [found.status_code for found in asked] == [403] * 6
    assert not any(word in found.text for found in asked for word in ("0000.png", "d1", "script"))
    assert not (tmp_path / "labels.csv").exists()


@pytest.mark.parametrize(
    "path",
    [
        "/image/../../../etc/passwd",
        "/image/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "/image/60",
        "/image/-1",
        "/etc",
        "/image/0.png",
    ],
)
def test_images_are_numbers_and_no_path_leads_out(path, opened):
    found = opened().get(path)
    assert found.status_code == 404
    assert "root:" not in found.text


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"[]", b"{}", b"[" * 100_000, b'{"index": "0", "label": 1}', b'{"index": %d, "label": 10}'),
        *(b'{"index": %d, "label": -1}', b'{"index": %d, "label": true}', b'{"index": %d, "label": "d1"}'),
    ],
)
def test_what_is_no_answer_is_refused_and_changes_nothing(body, opened, tmp_path):
    client = opened()
    body = body.replace(b"%d", str(client.answers.queue[0]).encode())
    assert client.post("/answer", content=body).status_code == 400
    assert not (tmp_path / "labels.csv").exists()


def test_the_page_may_run_its_own_script_alone_and_ask_nobody_else(opened):
    found = opened().get(f"/?token={TOKEN}", headers={"x-token": ""})
    assert found.status_code == 200
    policy = found.headers["content-security-policy"]
    nonce = policy.split("script-src 'nonce-")[1].split("'")[0]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert found.text.count(f'nonce="{nonce}"') == 2
    assert "NONCE" not in found.text
    assert "http" not in found.text.replace("<!doctype html>", "")
    assert found.headers["referrer-policy"] == "no-referrer"
    assert opened().get("/").headers["content-security-policy"] != policy


@pytest.mark.parametrize(
    ("text", "changes", "words"),
    [
        ("path,label\n0000.png,cat\n", {}, "has the label 'cat'. --classes: d0, d1"),
        ("path,label,by\n0000.png,d0,me\n", {}, "its columns are not path,label"),
        ("", {"classes": "d0"}, "two names or more"),
        ("", {"classes": "d0,d0"}, "two names or more"),
        ("", {"port": 70_000}, "--port is 70000"),
    ],
)
def test_what_does_not_fit_is_told_and_the_file_stays(text, changes, words, folder, finished, tmp_path):
    out = tmp_path / "labels.csv"
    if text:
        out.write_text(text)
    shutil.copytree(finished, tmp_path / "run")
    with pytest.raises(BadInput, match=words):
        mec.label(tmp_path / "run", folder, **{"classes": "d0,d1", "out": out} | changes)
    assert not text or out.read_text() == text


def test_a_browser_that_is_quicker_than_the_server_waits(folder, finished, tmp_path, monkeypatch, capsys):
    def connect(self, sockets):
        assert f":{sockets[0].getsockname()[1]}/?token=" in capsys.readouterr().out  # the address was told
        socket.create_connection(sockets[0].getsockname(), timeout=5).close()

    monkeypatch.setattr("uvicorn.Server.run", connect)
    out = tmp_path / "labels.csv"
    assert mec.label("pixels", folder, classes="a,b", out=out, n=5) == out


def test_images_of_other_folders_stay_in_the_file(opened, tmp_path):
    (tmp_path / "labels.csv").write_text("path,label\nelsewhere/1.png,d3\n")
    client = opened()
    state = client.get("/state").json()
    assert state["done"] == 0
    client.post("/answer", json={"index": state["index"], "label": 1})
    assert rows(tmp_path / "labels.csv") == [("elsewhere/1.png", "d3"), (state["name"], "d1")]


@pytest.fixture
def running():
    """Starts commands, and ends them whatever happens."""
    processes = []

    def start(*words):
        processes.append(started(*words))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_twenty_images_in_a_real_browser_with_kill_9_in_the_middle(folder, finished, tmp_path, running):
    playwright = pytest.importorskip("playwright.sync_api")
    if not BROWSERS:
        pytest.skip("no chromium on this machine")
    shutil.copytree(finished, tmp_path / "run")
    words = ["-m", "mec", "label", tmp_path / "run", folder, "--n", "20", "--classes", ",".join(CLASSES[:9])]
    words += ["--out", tmp_path / "labels.csv"]
    y, asked, pages = load_digits().target, [], []
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=BROWSERS[0], args=["--no-sandbox"])
        for stop in (11, 20):
            process = running(*words)
            address = process.stdout.readline().strip()
            page = browser.new_page(viewport={"width": 390, "height": 844})  # a phone
            wrong: list[str] = []
            page.on("request", lambda r, w=wrong, a=address: None if r.url.startswith(a[:22]) else w.append(r.url))
            page.on("console", lambda message, wrong=wrong: wrong.append(message.text))
            page.goto(address)
            page.wait_for_selector(f"body[data-done='{len(asked)}']")
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            while len(asked) < stop:
                name = page.inner_text("#name")
                digit = int(y[int(name[:4])])
                for _ in range(200):
                    if page.evaluate("document.querySelector('#image').naturalWidth") == 8:
                        break
                    page.wait_for_timeout(50)
                else:
                    pytest.fail(f"{name} was not shown")
                asked.append((name, "" if digit == 9 else f"d{digit}"))
                page.keyboard.press("s" if digit == 9 else str(digit + 1))
                page.wait_for_selector(f"body[data-done='{len(asked)}']")
                assert rows(tmp_path / "labels.csv") == asked
            pages.append(page.screenshot())
            assert wrong == []
            if stop == 11:
                os.kill(process.pid, signal.SIGKILL)
            else:
                assert "done" in page.inner_text("#count")
                page.keyboard.press("u")
                page.wait_for_selector("body[data-done='19']")
                process.send_signal(signal.SIGINT)
            process.wait(timeout=30)
            page.close()
        browser.close()
    assert process.returncode == 0
    assert rows(tmp_path / "labels.csv") == asked[:19]
    if place := os.environ.get("MEC_SCREENSHOTS"):
        for number, picture in enumerate(pages):
            Path(place, f"label-{number}.png").write_bytes(picture)
    mec.predict(tmp_path / "run", folder, labels=tmp_path / "labels.csv", out=tmp_path / "p.csv")
