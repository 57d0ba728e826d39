"""A real headless browser for tests: pages as people see them, through Chromium's DevTools protocol.

Commands go over two pipes (`--remote-debugging-pipe`), so it needs no port and no websocket library.
"""

import base64
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from PIL import Image

from tests.support.running import ROOT

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None
)
_OPTIONS = (
    "--headless --no-sandbox --disable-gpu --disable-background-networking --no-first-run"
    " --hide-scrollbars --remote-debugging-pipe"
)
_ERRORS = ("error", "assert")
PICTURES = os.environ.get("ATJEM_PICTURES") == "1"  # of full runs, for docs/
_MAX_BYTES = 400_000
# What a person sets once in MLflow's pages: the side for training, and no chat panel.
_MLFLOW_CHOICES = {
    "mlflow.workflowType_v1": '"machine_learning"',
    "mlflow.assistant.panelOpen_v1": "false",
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true",
}


@contextmanager
def browser(folder: Path) -> Iterator["Browser"]:
    """Chromium with an empty profile in `folder`, which must not exist; ended with the block."""
    folder.mkdir()
    to_browser, from_browser = folder / "to", folder / "from"
    os.mkfifo(to_browser)
    os.mkfifo(from_browser)
    command = [str(BROWSER), *_OPTIONS.split(), f"--user-data-dir={folder / 'profile'}", "about:blank"]
    process = subprocess.Popen(
        ["sh", "-c", 'exec "$@" 3<"$0/to" 4>"$0/from"', str(folder), *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with to_browser.open("wb", buffering=0) as commands, from_browser.open("rb", buffering=0) as answers:
            yield Browser(commands.fileno(), answers.fileno())
    finally:
        process.terminate()
        process.wait(30)


class Browser:
    """Sends commands and sorts what comes back: answers by their id, events by their page."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers = commands, answers
        self._ids, self._unread = count(1), b""
        self.events: dict[str, list[dict[str, Any]]] = {}  # by the page's session

    def open(self, url: str, *, width: int, height: int = 900, dark: bool = False) -> "Page":
        """A new page at `url` in a window of this size; it has begun to load, no more."""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session, width)
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.send(f"{domain}.enable")
        page.resize(width, height)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        page.send("Emulation.setEmulatedMedia", features=[scheme])
        page.send("Page.navigate", url=url)
        return page

    def send(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        message = {"id": next(self._ids), "method": method, "params": params}
        message |= {"sessionId": session} if session else {}
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._commands, data) :]
        while (answer := self._receive()).get("id") != message["id"]:
            self.events.setdefault(answer.get("sessionId", ""), []).append(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._unread:
            if not select.select([self._answers], [], [], 60)[0]:
                raise TimeoutError("the browser has not answered for 60 seconds")
            piece = os.read(self._answers, 1 << 20)
            if not piece:
                raise ConnectionError("the browser has ended")
            self._unread += piece
        message, _, self._unread = self._unread.partition(b"\0")
        return json.loads(message)


class Page:
    def __init__(self, owner: Browser, session: str, width: int) -> None:
        self._owner, self._session, self._width, self._height = owner, session, width, 0

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        return self._owner.send(method, self._session, **params)

    def resize(self, width: int, height: int) -> None:
        self._width, self._height = width, height
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.send("Emulation.setDeviceMetricsOverride", **size)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise is waited for."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def wait_for(self, expression: str, seconds: float = 60) -> None:
        """Until a JavaScript expression is true."""
        end = time.monotonic() + seconds
        while not self.evaluate(f"Boolean({expression})"):
            if time.monotonic() > end:
                raise TimeoutError(
                    f"{expression} is not true after {seconds} s; the page shows: {self.text[:300]}"
                )
            time.sleep(0.2)

    def wait_until_loaded(self) -> None:
        self.wait_for(
            "location.href !== 'about:blank' && document.readyState === 'complete'"
            " && [...document.images].every(image => image.complete)"
        )

    def wait_for_text(self, *texts: str, seconds: float = 60) -> None:
        """Until a person can read all of them on the page."""
        self.wait_for(f"{json.dumps(texts)}.every(text => document.body?.innerText.includes(text))", seconds)

    def click(self, text: str, until: str = "true") -> None:
        """With the mouse, in the middle of the first innermost element that shows just this text.

        As a person does: when the element has come to rest, and once more if `until` does not become true.
        """
        element = (
            "[...document.querySelectorAll('body *')]"
            f".filter(element => element.innerText?.trim() === {json.dumps(text)}).find(element =>"
            " ![...element.children].some(child => child.innerText?.trim() === element.innerText.trim()))"
        )
        for patience in (20, 60):
            self.wait_for(element)
            self.evaluate(f"{element}.scrollIntoView({{block: 'nearest'}})")
            x, y = self._middle(element)
            where = {"x": x, "y": y, "button": "left", "clickCount": 1}
            for kind in ("mousePressed", "mouseReleased"):
                self.send("Input.dispatchMouseEvent", type=kind, **where)
            with suppress(TimeoutError):
                return self.wait_for(until, patience)
        raise TimeoutError(f"a click on {text} has not made true: {until}; the page shows: {self.text}")

    def _middle(self, element: str) -> list[float]:
        """Of an element that pages may still be moving, once it is at rest."""
        middle = (
            f"(box => [box.x + box.width / 2, box.y + box.height / 2])({element}.getBoundingClientRect())"
        )
        before: list[float] = []
        for _ in range(100):
            time.sleep(0.1)
            now = self.evaluate(middle)
            if now == before:
                return now
            before = now
        raise TimeoutError(f"still moving after 10 s: {element}")

    @property
    def text(self) -> str:
        """What a person can read on the page."""
        return str(self.evaluate("document.body?.innerText"))

    def console_errors(self) -> list[str]:
        """Errors and uncaught exceptions so far, of the page and of what it loads."""
        errors = []
        for event in self._events():
            params = event["params"]
            match event["method"]:
                case "Runtime.consoleAPICalled" if params["type"] in _ERRORS:
                    errors.append(" ".join(str(part.get("value", part)) for part in params["args"]))
                case "Runtime.exceptionThrown":
                    errors.append(json.dumps(params["exceptionDetails"]))
                case "Log.entryAdded" if params["entry"]["level"] == "error":
                    errors.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        return errors

    def requests(self) -> list[str]:
        """Addresses that the page has asked for, its own first; without data: URLs, which need no network."""
        asked = [
            e["params"]["request"]["url"]
            for e in self._events()
            if e["method"] == "Network.requestWillBeSent"
        ]
        return [url for url in asked if not url.startswith("data:")]

    def screenshot(self, path: Path, height: int | None = None) -> None:
        """A PNG of the page from its top, `height` pixels or the whole of it.

        A page as high as its window is not resized for it, which some pages take as a reason to begin anew.
        """
        whole = self.evaluate("document.documentElement.scrollHeight")
        clip = {"x": 0, "y": 0, "width": self._width, "height": min(height or whole, whole), "scale": 1}
        answer = self.send(
            "Page.captureScreenshot", format="png", captureBeyondViewport=whole > self._height, clip=clip
        )
        path.write_bytes(base64.b64decode(answer["data"]))

    def _events(self) -> list[dict[str, Any]]:
        self.evaluate("0")  # what has happened before now has arrived before its answer
        return self._owner.events.get(self._session, [])


@contextmanager
def mlflow_ui(workdir: Path) -> Iterator[str]:
    """`make ui` of a workdir on a free port; gives its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = (f"BIN={Path(sys.executable).parent}", f"PORT={port}", f"RUNS={workdir}")
    command = ["make", "--old-file=.venv/.installed", "ui", *variables]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        _wait_for_server(server, f"http://127.0.0.1:{port}/health")
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def _wait_for_server(server: subprocess.Popen[bytes], address: str) -> None:
    for _ in range(120):
        assert server.poll() is None, "make ui has ended"
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            time.sleep(0.5)
    raise TimeoutError(f"{address} does not answer")


def choose_training(chromium: Browser, address: str) -> None:
    """As a person does once: MLflow's pages of training runs."""
    page = chromium.open(f"{address}/health", width=400)
    page.wait_until_loaded()
    page.evaluate(
        f"Object.entries({json.dumps(_MLFLOW_CHOICES)}).forEach(pair => localStorage.setItem(...pair))"
    )


def only_this_machine(page: Page, address: str) -> None:
    """Asserts that the page has asked nobody else for anything."""
    assert [url for url in page.requests() if not url.removeprefix("blob:").startswith(address)] == []


def take(page: Page, path: Path, height: int | None = None) -> None:
    """A picture in 256 colours, small enough for a repository, that names no folder of this machine."""
    page.evaluate(
        "(words => { while (words.nextNode()) words.currentNode.data ="
        f" words.currentNode.data.replaceAll({json.dumps(str(ROOT) + os.sep)}, '') }})"
        "(document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT))"
    )
    page.screenshot(path, height)
    with Image.open(path) as picture:
        picture.convert("RGB").quantize(
            256, Image.Quantize.MAXCOVERAGE, kmeans=2, dither=Image.Dither.NONE
        ).save(path, optimize=True)
    assert path.stat().st_size < _MAX_BYTES
