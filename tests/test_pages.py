"""The report and MLflow's pages of our runs, as a person sees them in a real headless browser.

With ATJEM_PICTURES=1 (`make pictures`) they show the full runs in runs/, and the pictures go to docs/.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow import MlflowClient
from PIL import Image
from playwright.sync_api import Browser

from tests.support.browser import BROWSER, PICTURES, Seen, mlflow_ui, open_page
from tests.support.browser import chromium as start_chromium
from tests.support.running import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray,
    pytest.mark.skipif(BROWSER is None, reason="no chromium or chrome on PATH to render the pages with"),
]

CHANGED = "stage2.contrastive.step_size=0.2"
_FOLDED = "![...document.querySelectorAll('.js-plotly-plot')].some(plot => plot.offsetHeight)"
_TWO_GRIDS = (
    "new Set([...document.images]"
    ".filter(image => image.naturalWidth > 100 && image.getBoundingClientRect().width > 100)"
    ".map(image => image.src)).size === 2"
)
_LONG = 2000  # pixels of a picture's height


@dataclass(frozen=True)
class Runs:
    """Two finished runs in one workdir; the second differs from the first by `CHANGED`.

    `ids`: of the MLflow runs that made the samples, not of later ones that reused them.
    """

    workdir: Path
    client: MlflowClient
    report: Path
    samples: Path
    ids: tuple[str, str]

    @property
    def names(self) -> list[str]:
        return [str(self.client.get_run(run_id).info.run_name) for run_id in self.ids]

    @property
    def experiment(self) -> str:
        return str(self.client.get_run(self.ids[0]).info.experiment_id)


@pytest.fixture(scope="module")
def runs(pipeline, request) -> Runs:
    """The reduced runs of the README; for pictures the full ones."""
    if PICTURES:
        workdir, first = ROOT / "runs", ["--pipeline", "digits", "--json"]
        results = [pipeline(*first)]
    else:
        demo, _ = request.getfixturevalue("demo"), request.getfixturevalue("changed_demo")
        workdir, first, results = demo.workdir, [*demo.arguments(), "--json"], [demo.result]
    results.append(pipeline(*first, "--set", CHANGED))
    for result in results:
        assert result.code == 0, result.err
    stages = [{stage["name"]: stage for stage in result.json["stages"]} for result in results]
    client = MlflowClient(f"sqlite:///{workdir / 'mlflow.db'}")
    samplers = [client.get_run(own["sample"]["run_id"]) for own in stages]
    return Runs(
        workdir=workdir,
        client=client,
        report=Path(stages[0]["report"]["artifact"]) / "report.html",
        samples=Path(stages[0]["sample"]["artifact"]) / "figures" / "sample_grid.png",
        ids=(samplers[0].data.tags["mlflow.parentRunId"], samplers[1].data.tags["mlflow.parentRunId"]),
    )


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with start_chromium() as running:
        yield running


@pytest.fixture(scope="module")
def ui(runs, tmp_path_factory) -> Iterator[str]:
    with mlflow_ui(runs.workdir, tmp_path_factory.mktemp("ui") / "log") as address:
        yield address


@pytest.fixture
def pictures(tmp_path) -> Path:
    return ROOT / "docs" if PICTURES else tmp_path


@pytest.mark.parametrize(
    ("name", "width", "dark", "height"),
    [
        ("report", 1200, False, _LONG),
        ("report-dark", 1200, True, _LONG),
        ("report-phone", 400, False, _LONG),
        ("report-phone-dark", 400, True, None),
    ],
)
def test_report_renders_everywhere(runs, chromium, pictures, tmp_path, name, width, dark, height):
    page = open_page(chromium, runs.report.as_uri(), width=width, dark=dark)
    assert "Samples" in page.text
    assert page.errors == []
    assert page.requests == [runs.report.as_uri()]
    assert page.page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
    red, green, blue = _corner(page, tmp_path / "corner.png")
    assert (red + green + blue < 200) == dark
    page.take((tmp_path if name.endswith("phone-dark") else pictures) / f"{name}.png", height)


def test_mlflow_compares_two_runs(runs, ui, chromium, pictures):
    query = f"runs={json.dumps(runs.ids, separators=(',', ':'))}&experiments=[%22{runs.experiment}%22]"
    page = open_page(chromium, f"{ui}/#/compare-runs?{query}", width=1300, height=1720)
    page.wait_for_text(*runs.names, "clean_accuracy", "stage2.contrastive.step_size")
    page.wait_for("document.querySelectorAll('[role=switch]').length > 1")
    page.page.evaluate("document.querySelectorAll('[role=switch]')[0].click()")  # parameters: show diff only
    page.wait_for("!document.body.innerText.includes('data.image_size')")
    assert CHANGED.partition("=")[0] in page.text
    page.click("Visualizations", until=_FOLDED)
    page.click("sample_grid.png", until=_TWO_GRIDS)
    page.only_asked(ui)
    page.take(pictures / "mlflow-compare.png")


def test_mlflow_shows_a_run_with_its_samples(runs, ui, chromium, pictures):
    address = f"{ui}/#/experiments/{runs.experiment}/runs/{runs.ids[0]}"
    page = open_page(chromium, address, width=1300, height=1300)
    page.wait_for_text("clean_accuracy", "Each seed above the sample")
    page.wait_for(
        "[...document.images].some(image => image.src.includes('sample_grid') && image.naturalWidth)"
    )
    page.click("Show more")
    page.wait_for_text("Show less")
    metrics = page.text.partition("Metrics (")[2]
    assert metrics.index("clean_accuracy") < metrics.index("pgd_accuracy") < metrics.index("num_train_images")
    page.only_asked(ui)
    page.take(pictures / "mlflow-run.png")


def test_address_that_a_run_prints_opens_its_table_of_runs(runs, ui, chromium):
    """Without it MLflow opens the experiment in its view of chats, which shows none of our runs."""
    address = f"{ui}/#/experiments/{runs.experiment}/runs?workflowType=machine_learning"
    page = open_page(chromium, address, width=1600, chosen=False)
    page.wait_for_text("Run Name", "Joint energy models trained by one recipe", "train (")


def test_mlflow_table_has_the_metrics_and_below_each_run_its_stages(runs, ui, chromium, pictures):
    address = f"{ui}/#/experiments/{runs.experiment}/runs?workflowType=machine_learning"
    page = open_page(chromium, address, width=1700, height=560)
    page.wait_for_text("Run Name", "Columns")
    page.click("Columns")
    names = ("clean_accuracy", "frechet_distance", "robust_accuracy")
    for name in names:
        page.wait_for(f"document.querySelector('[title={name}]')")
        page.page.evaluate(f"document.querySelector('[title={name}]').previousElementSibling.click()")
    page.click("Columns")
    figures = runs.client.get_run(runs.ids[0]).data.metrics
    page.wait_for_text(*names, *(str(figures[name]) for name in names))
    row = f'document.querySelector(\'.ag-row[row-id="{runs.ids[0]}"] [col-id*="Run Name"] button\')'
    page.wait_for(row)
    page.page.evaluate(f"{row}.click()")
    page.wait_for_text("train_stage1", "train_stage2", "evaluate_classifier", "report")
    page.take(pictures / "mlflow-table.png")
    page.page.evaluate(
        "[...document.querySelectorAll('a')].find(a => a.innerText === 'train_stage2').click()"
    )
    page.wait_for_text("Parent run", runs.names[0])
    page.click("Model metrics")
    page.wait_for("document.querySelectorAll('.js-plotly-plot .scatterlayer .trace').length > 2")
    page.only_asked(ui)


def test_mlflow_model_page_opens(runs, ui, chromium):
    (model,) = (
        model
        for model in runs.client.search_logged_models([runs.experiment])
        if model.source_run_id == runs.ids[0]
    )
    page = open_page(chromium, f"{ui}/#/experiments/{runs.experiment}/models/{model.model_id}", width=1300)
    figure = runs.client.get_run(runs.ids[0]).data.metrics["clean_accuracy"]
    page.wait_for_text("clean_accuracy", str(figure), runs.names[0])
    page.click("Artifacts")
    page.wait_for_text("MLmodel")
    page.only_asked(ui)


def test_sample_grid_is_a_picture(runs, pictures):
    with Image.open(runs.samples) as grid:
        assert min(grid.size) > 100
    shutil.copy(runs.samples, pictures / "samples.png")


@pytest.mark.parametrize("name", ["energies", "trajectory", "counterfactuals", "train_stage2_curves"])
def test_concepts_have_their_pictures(runs, pictures, tmp_path, name):
    path = runs.client.download_artifacts(runs.ids[0], f"figures/{name}.png", str(tmp_path))
    with Image.open(path) as picture:
        assert min(picture.size) > 100
    (pictures / "figures").mkdir(exist_ok=True)
    shutil.copy(path, pictures / "figures" / f"{name}.png")


def _corner(page: Seen, path: Path) -> tuple[int, int, int]:
    page.page.screenshot(path=path)
    with Image.open(path) as picture:
        return picture.convert("RGB").getpixel((2, 2))
