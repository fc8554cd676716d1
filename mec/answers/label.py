"""`mec label`: a page on this machine that asks for the class of the images that are worth it, one key each."""

import contextlib
import hmac
import secrets
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mec.answers.choosing import choose
from mec.answers.classifying import fit
from mec.answers.neighbours import nearest
from mec.answers.options import Labelling
from mec.answers.pool import Pool, gather, reserved, write_csv
from mec.answers.predict import quality
from mec.data.tables import read_table
from mec.errors import BadInput, needs, plain
from mec.runtime.flags import names, takes
from mec.runtime.progress import say

EACH = 10  # answers after which accuracy is told and the next images are chosen anew
POLICY = (
    "default-src 'none'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
NEAR, SHOWN = 6, 640  # nearest images beside each, and its longest side (px)


class Answers:
    """What was asked and answered: a CSV path,label that is on disk before the next image is shown; "" is skipped."""

    def __init__(self, pool: Pool, classes: list[str], options: Labelling):
        self.pool, self.classes, self.options, self.out = pool, classes, options, Path(options.out)
        self.unit, self.told, self.lock = pool.unit(), "", threading.RLock()
        self.index_of = {name: i for i, name in enumerate(pool.names)}
        self.rows: dict[str, str] = {}  # in the order of answers; images of other folders stay as they are
        if self.out.exists():
            table = read_table(self.out, labels=True)
            if self.out.read_text(encoding="utf-8-sig").split("\n")[0].strip() != "path,label":
                raise BadInput(f"--out is {self.out}: its columns are not path,label, and others would be lost.")
            self.rows = dict(zip(table.paths, table.labels or ()))
            foreign = sorted({*self.rows.values()} - {*classes, ""})
            if foreign:
                raise BadInput(f"{self.out}: has the label {foreign[0]!r}. --classes: {', '.join(classes)}.")
        self.queue: list[int]
        self.choose()

    def known(self) -> tuple[np.ndarray, np.ndarray]:
        """Indices [m] of the images that have an answer, and which class, -1: skipped."""
        own = [name for name in self.rows if name in self.index_of]
        label = [self.classes.index(self.rows[name]) if self.rows[name] else -1 for name in own]
        return np.array([self.index_of[name] for name in own], np.int64), np.array(label, np.int64)

    def choose(self) -> None:
        """The next images, and how well those labelled tell the classes apart."""
        index, label = self.known()
        self.most = min(self.options.n, len(self.pool))
        left, options, self.queue = self.most - len(index), self.options, []
        if left > 0:
            self.queue = choose(self.pool.x, left, way=options.way, labelled=index, seed=options.seed).tolist()
        index, label = index[label >= 0], label[label >= 0]
        if len(label) >= EACH and len(np.unique(label)) > 1:
            fitted = fit(self.unit[index].astype(np.float64), label, len(self.classes), unlabelled="no")
            top, *_ = quality(fitted, label)
            low, high = top.interval or (0, 100)
            self.told = (
                f"{len(label)} labels: {top.value:.0f} % right by cross-validation (95 %: {low:.0f} to {high:.0f})"
            )

    def state(self) -> dict[str, Any]:
        """What the page shows."""
        index, label = self.known()
        now = self.queue[0] if self.queue else None
        near = []
        if now is not None and len(self.pool) > 1:
            found = nearest(self.unit, self.unit[[now]], min(NEAR + 1, len(self.pool)))[1][0]
            words = {i: plain(self.classes[k]) for i, k in zip(index.tolist(), label.tolist()) if k >= 0}
            near = [(i, words.get(i, "")) for i in found.tolist() if i != now][:NEAR]
        name = "" if now is None else plain(self.pool.names[now])
        return {"done": len(index), "n": self.most, "index": now, "name": name, "near": near, "told": self.told,
                "classes": [*map(plain, self.classes)]}  # fmt: skip

    def answer(self, index: int, label: int | None) -> bool:
        """Store an answer; False where another image is being asked (a key pressed twice)."""
        if not self.queue or self.queue[0] != index:
            return False
        self.rows[self.pool.names[index]] = "" if label is None else self.classes[label]
        self.write()
        self.queue.pop(0)
        if len(self.known()[0]) % EACH == 0:
            self.choose()
        return True

    def undo(self) -> None:
        """Forget the last answer, and ask again."""
        last = next((name for name in reversed(self.rows) if name in self.index_of), None)
        if last is not None:
            del self.rows[last]
            self.write()
            self.queue.insert(0, self.index_of[last])

    def write(self) -> None:
        write_csv(self.out, ["path", "label"], self.rows.items())


def application(answers: Answers, token: str, port: int) -> Any:
    """What answers on http://127.0.0.1:PORT, to those who know the token and come from there."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
    from starlette.routing import Route

    hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}
    numbers = range(len(answers.classes))
    page = (Path(__file__).parent / "label.html").read_text(encoding="utf-8")

    def guarded(function: Any) -> Any:
        async def asked(request: Request) -> Response:
            given = request.headers.get("x-token") or request.query_params.get("token") or ""
            origin = request.headers.get("origin")
            elsewhere = origin is not None and origin.removeprefix("http://") not in hosts
            foreign = request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin")
            if request.headers.get("host") not in hosts or elsewhere or foreign:
                return PlainTextResponse("this page answers to itself alone", 403)
            if not hmac.compare_digest(given.encode(), token.encode()):
                return PlainTextResponse("the token in the address is missing or another one", 403)
            response: Response = await function(request)
            response.headers.setdefault("content-security-policy", POLICY)
            response.headers.update({"cache-control": "no-store", "referrer-policy": "no-referrer",
                                     "x-content-type-options": "nosniff"})  # fmt: skip
            return response

        return asked

    async def root(request: Request) -> Response:
        nonce = secrets.token_urlsafe(16)
        policy = f"{POLICY}; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'"
        return HTMLResponse(page.replace("NONCE", nonce), headers={"content-security-policy": policy})

    async def image(request: Request) -> Response:
        index = request.path_params["index"]
        if index >= len(answers.pool):
            return PlainTextResponse("no such image", 404)
        return Response(answers.pool.thumbnail(index, SHOWN), media_type="image/jpeg")

    async def answer(request: Request) -> Response:
        try:
            body = await request.json()
            index, label = body["index"], body["label"]
            if type(index) is not int or (label is not None and (type(label) is not int or label not in numbers)):
                raise ValueError
        except (ValueError, TypeError, KeyError, RecursionError):
            return PlainTextResponse("an answer is {index: N, label: N or null}", 400)
        return now(lambda: answers.answer(index, label))

    async def undo(request: Request) -> Response:
        return now(answers.undo)

    async def state(request: Request) -> Response:
        return now(lambda: None)

    def now(act: Callable[[], bool | None]) -> Response:
        """What the page shows after an act; 409 where that was refused."""
        with answers.lock:
            refused = act() is False
            return JSONResponse(answers.state(), 409 if refused else 200)

    gets = {"/": root, "/state": state, "/image/{index:int}": image}
    routes = [Route(path, guarded(function), methods=["GET"]) for path, function in gets.items()]
    posts = {"/answer": answer, "/undo": undo}
    return Starlette(routes=routes + [Route(p, guarded(f), methods=["POST"]) for p, f in posts.items()])


@takes(Labelling)
def label(run: Any, images: Any, options: Labelling) -> Path:
    """Serve the page on 127.0.0.1 until Ctrl-C, and store each answer in a CSV path,label at once; returns its path.

    The images are those that `mec select` would give, chosen anew after every ten answers; its address holds a token,
    without which, or from another origin, nothing is answered. Skipped images are kept with an empty label.

    Args:
        run: a run folder, a file of weights or a name, as `mec evaluate` takes it.
        images: a folder, tars, a CSV or text of paths, or a list of paths.
    {options}

    Raises:
        BadInput: fewer than two classes, OUT holds other columns or labels, or starlette and uvicorn are not installed.
        FileNotFoundError: no such run or folder."""
    out, classes = Path(options.out), names(options.classes, "--classes")
    if len({*classes}) < max(2, len(classes)):
        raise BadInput(f"--classes is {options.classes!r}: two names or more, each once.")
    uvicorn = needs("label", "label", "uvicorn", "starlette")
    with reserved(out, ".csv"), socket.socket() as own:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            own.bind(("127.0.0.1", options.port))
        except OSError as error:
            raise BadInput(f"--port is {options.port}: not free ({error.strerror}). 0 takes one that is.") from error
        answers = Answers(gather(run, images, options), classes, options)
        port, token = own.getsockname()[1], secrets.token_urlsafe(16)
        own.listen()  # a browser that is quicker than the server waits
        print(
            f"http://127.0.0.1:{port}/?token={token}\nOpen it in a browser on this machine; Ctrl-C ends it.", flush=True
        )
        config = uvicorn.Config(application(answers, token, port), log_level="error", access_log=False)
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[own])
    say(f"{out}: {int((answers.known()[1] >= 0).sum()):,} images labelled. Next: mec predict ... --labels {out}")
    return out
