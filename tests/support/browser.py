"""A real headless browser, through Playwright: the report and MLflow's pages as people see them."""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, Request, sync_playwright
from playwright.sync_api import TimeoutError as PlaywrightTimeout

from tests.support.running import ROOT
from tests.support.servers import free_port, served

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None
)
PICTURES = os.environ.get("ATJEM_PICTURES") == "1"  # of full runs, for docs/
_OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--hide-scrollbars"]
_MAX_BYTES = 400_000
# What a person sets once in MLflow's pages: the view for training, and no chat panel.
_MLFLOW_CHOICES = {
    "mlflow.workflowType_v1": '"machine_learning"',
    "mlflow.assistant.panelOpen_v1": "false",
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true",
}


@contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=_OPTIONS)
        yield browser
        browser.close()


class Seen:
    """A page, its console errors, and the addresses that it requested."""

    def __init__(self, page: Page) -> None:
        self.page, self.errors, self.requests = page, [], []
        page.on("console", lambda message: message.type == "error" and self.errors.append(message.text))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", self._asked)

    def _asked(self, request: Request) -> None:
        if not request.url.startswith("data:"):
            self.requests.append(request.url)

    @property
    def text(self) -> str:
        """What a person can read on the page."""
        return self.page.inner_text("body")

    def wait_for(self, expression: str) -> None:
        """Until a JavaScript expression is true."""
        self.page.wait_for_function(f"() => Boolean({expression})")

    def wait_for_text(self, *texts: str) -> None:
        """Until a person can read all of them on the page."""
        self.wait_for(f"{json.dumps(texts)}.every(text => document.body?.innerText.includes(text))")

    def click(self, text: str, until: str = "true") -> None:
        """Clicks the first element that shows just this text; once more if `until` does not become true."""
        self.page.get_by_text(text, exact=True).first.click()
        try:
            self.page.wait_for_function(f"() => Boolean({until})", timeout=20_000)
        except PlaywrightTimeout:
            self.page.get_by_text(text, exact=True).first.click()
            self.wait_for(until)

    def only_asked(self, address: str) -> None:
        """Asserts that the page has asked nobody else for anything."""
        assert [url for url in self.requests if not url.removeprefix("blob:").startswith(address)] == []

    def take(self, path: Path, height: int | None = None) -> None:
        """Saves a screenshot in 256 colours, without absolute paths of this machine."""
        self.page.evaluate(
            "root => { const words = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);"
            " while (words.nextNode())"
            " words.currentNode.data = words.currentNode.data.replaceAll(root, ''); }",
            str(ROOT) + os.sep,
        )
        self.page.screenshot(path=path, full_page=True)
        with Image.open(path) as picture:
            whole = picture.convert("RGB").crop((0, 0, picture.width, min(picture.height, height or 10**6)))
        colours = whole.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=2, dither=Image.Dither.NONE)
        colours.save(path, optimize=True)
        assert path.stat().st_size < _MAX_BYTES


def open_page(
    browser: Browser, url: str, *, width: int, height: int = 900, dark: bool = False, chosen: bool = True
) -> Seen:
    """Opens a page in a new profile. chosen: MLflow's view of training runs is already selected."""
    scheme = "dark" if dark else "light"
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    context.set_default_timeout(60_000)
    if chosen and url.startswith("http"):
        choices = json.dumps(_MLFLOW_CHOICES)
        context.add_init_script(f"Object.entries({choices}).forEach(pair => localStorage.setItem(...pair))")
    seen = Seen(context.new_page())
    seen.page.goto(url)
    return seen


@contextmanager
def mlflow_ui(workdir: Path, log: Path) -> Iterator[str]:
    """The address of `make ui` for a workdir, on a free port."""
    port = free_port()
    variables = (f"BIN={Path(sys.executable).parent}", f"PORT={port}", f"RUNS={workdir}")
    with served(["make", "--old-file=.venv/.installed", "ui", *variables], port, log):
        yield f"http://127.0.0.1:{port}"
