"""Comparing finished runs, on a real MLflow store that is written without running anything."""

from collections.abc import Callable, Mapping
from functools import partialmethod
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from pipelines.tracking.run_archive import find_runs
from pipelines.tracking.tracker import OUTCOMES_FILE, PROTOCOLS_FILE
from tests.support.running import Result, run_python

SHAS = ["12ab" * 16, "34cd" * 16]
ATTACK = {"attack.eps": 0.5, "attack.steps": [10, 20]}


def _protocols(sha: str = SHAS[0], **attack: object) -> dict[str, dict[str, Any]]:
    fidelity = {"reference.sha256": sha, "num_samples": 2000}
    return {
        "frechet_distance": fidelity,
        "kernel_distance": fidelity,
        "robust_accuracy": ATTACK | {f"attack.{name}": value for name, value in attack.items()},
        "clean_accuracy": {"images.sha256": "ff" * 32},
    }


def _figures(clean: float, frechet: float = 0.25, **more: float) -> dict[str, float]:
    figures = {"zebra": 7.0, "robust_accuracy": 0.5, "kernel_distance": 0.125}
    return figures | {"clean_accuracy": clean, "frechet_distance": frechet} | more


class Archive:
    """A workdir's MLflow store, and the ids of its runs by name (the latest of each name)."""

    def __init__(self, workdir: Path) -> None:
        self.workdir, self.uri = workdir, f"sqlite:///{workdir / 'mlflow.db'}"
        self.client = MlflowClient(self.uri)
        self.experiments = {
            name: self.client.create_experiment(name, (workdir / "mlartifacts" / name).as_uri())
            for name in ("digits", "cifar10")
        }
        self.ids: dict[str, str] = {}

    def run(
        self,
        name: str,
        figures: dict[str, float],
        protocols: dict[str, Any] | None,
        *,
        recipe: str = "digits",
        tags: Mapping[str, str] | None = None,
        outcomes: dict[str, str] | None = None,
        **params: object,
    ) -> None:
        run_id = self.create(name, {"atjem.kind": "pipeline", "atjem.status": "done", **(tags or {})}, recipe)
        settings = {"seed": 0, "data.in": "digits", "stage2.contrastive.step_size": 0.1}
        settings |= {key.replace("__", "."): value for key, value in params.items()}
        for key, value in settings.items():
            self.client.log_param(run_id, key, value)
        for key, value in figures.items():
            self.client.log_metric(run_id, key, value)
        for file, content in ((PROTOCOLS_FILE, protocols), (OUTCOMES_FILE, outcomes)):
            if content is not None:
                self.client.log_dict(run_id, content, file)

    def create(self, name: str, tags: dict[str, str], recipe: str = "digits") -> str:
        self.ids[name] = self.client.create_run(
            self.experiments[recipe], run_name=name, tags=tags
        ).info.run_id
        return self.ids[name]


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Archive:
    writer = Archive(tmp_path_factory.mktemp("runs"))
    for seed, clean in enumerate((0.90, 0.92, 0.97)):
        writer.run(f"three seed={seed}", _figures(clean, ood_auroc=0.75), _protocols(), seed=seed)
    larger = {"stage2__contrastive__step_size": 0.2}
    writer.run("larger", _figures(0.99), _protocols(), **larger)
    writer.run("larger again", _figures(0.97), _protocols(), **larger)
    writer.run("other reference", _figures(0.5, 9.0), _protocols(SHAS[1]), data__in="letters")
    writer.run("weaker attack", _figures(0.5), _protocols(eps=0.25), data__in="letters", seed=1)
    colours = {"data__in": "cifar10", "model__channels": 3, "stage1__steps": 9, "stage2__steps": 8}
    writer.run("colours", _figures(0.9), _protocols(), recipe="cifar10", **colours)
    writer.run("infinite", {"clean_accuracy": float("inf"), "ece": float("nan")}, _protocols(), seed=7)
    writer.run("silent", _figures(0.5), None)
    writer.run("broken", _figures(0.5), None, tags={"atjem.status": "failed"})
    writer.run("twin", _figures(0.5), _protocols())
    writer.run("twin", _figures(0.5), _protocols())
    for seed in range(2):
        writer.run(f"code {seed}", _figures(0.5), _protocols(), tags={"git.commit": f"{seed}aaa"}, seed=seed)
    writer.run("damaged", _figures(0.5), {"frechet_distance": 3})
    for steps, (name, right) in enumerate({"half": "01", "most": "0111", "odd": "x"}.items()):
        told = {"clean_accuracy": right * (100 // len(right)), "robust_accuracy": "0" * 100}
        figures = _figures(right.count("1") / len(right), robust_accuracy=0)
        writer.run(name, figures, _protocols(), outcomes=told, stage1__steps=steps)
    wrong = {"clean_accuracy": "0" * 100, "robust_accuracy": "0" * 100}
    writer.run("wrong", _figures(0.5, robust_accuracy=0), _protocols(), outcomes=wrong, stage1__steps=9)
    writer.run("nothing told", _figures(0.5), {})
    writer.create("sample", {"mlflow.parentRunId": writer.ids["larger"], "atjem.stage": "sample"})
    return writer


@pytest.fixture
def compare(archive, cli) -> Callable[..., Result]:
    """Runs `python -m pipelines compare ...` over the module's store."""
    return lambda *words, workdir=archive.workdir: cli("compare", *words, "--workdir", str(workdir))


def _row(text: str, name: str) -> list[str]:
    """Cells of the first row of this name; two spaces or more part them."""
    line = next(line for line in text.splitlines() if line.startswith(f"{name}  "))
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


THREE = ("three seed=0", "three seed=1", "three seed=2")


@pytest.mark.slow
def test_seeds_that_other_code_made_are_told(compare):
    result = compare("code 0", "code 1")
    assert result.code == 0
    assert "its runs were made by commits 0aaa, 1aaa, not by seed alone" in result.out


def test_seeds_are_one_column_with_mean_and_sample_deviation(compare):
    result = compare(*THREE, "--json")
    assert result.code == 0
    assert [column["title"] for column in result.json["columns"]] == ["3 seeds"]
    [clean] = result.json["metrics"]["clean_accuracy"]
    assert clean["mean"] == pytest.approx(0.93)  # of 0.90, 0.92, 0.97
    assert clean["std"] == pytest.approx(0.0013**0.5)  # (0.03^2 + 0.01^2 + 0.04^2) / 2
    assert clean["num"] == 3
    assert _row(result.err, "clean_accuracy") == ["clean_accuracy", "0.93 ± 0.03606"]
    assert "the settings are the same" in result.err
    assert "beware" not in result.err


def test_columns_are_titled_by_the_settings_that_differ(compare, archive):
    result = compare(*THREE, "larger", "--json")
    first, second = result.json["columns"]
    assert first["title"] == "stage2.contrastive.step_size=0.1"
    assert second["title"] == "stage2.contrastive.step_size=0.2"
    assert second["runs"] == [{"run_id": archive.ids["larger"], "name": "larger", "seed": 0}]
    assert [run["seed"] for run in first["runs"]] == [0, 1, 2]
    assert result.json["differing"] == {"stage2.contrastive.step_size": ["0.1", "0.2"]}
    assert result.json["metrics"]["clean_accuracy"][1] == {"mean": 0.99, "std": None, "num": 1}
    assert result.json["metrics"]["ood_auroc"][1] is None
    assert "3 seeds" in result.err.splitlines()[1]
    assert _row(result.err, "clean_accuracy") == ["clean_accuracy", "0.93 ± 0.03606", "0.99"]
    assert _row(result.err, "ood_auroc") == ["ood_auroc", "0.75 ± 0"]  # the other column is empty
    assert _row(result.err, "stage2.contrastive.step_size") == ["stage2.contrastive.step_size", "0.1", "0.2"]
    people = compare(*THREE, "larger")
    assert (people.out, people.err) == (result.err, "")


def test_accuracies_on_the_same_images_are_compared_image_by_image(compare):
    result = compare("half", "most")
    assert _row(result.out, "difference from stage1.steps=0 (95 %)")[1:] == ["stage1.steps=1"]
    (clean,) = [line for line in result.out.splitlines() if line.startswith("clean_accuracy, 100 images")]
    assert "+0.2500 (+0.1594 to +0.3308)" in clean
    paired = compare("half", "most", "--json").json["paired"]
    (robust,) = paired["robust_accuracy"]
    assert (robust["difference"], robust["num"]) == (0.0, 100)
    assert robust["high"] == -robust["low"] == pytest.approx(0.0192, abs=1e-4)


def test_runs_that_tell_nothing_of_their_images_are_not_paired(compare):
    assert compare("half", "larger", "--json").json["paired"] == {}
    for other in ("odd", "wrong"):  # no digits; digits whose mean is another accuracy
        result = compare("half", other, "--json")
        assert set(result.json["paired"]) == {"robust_accuracy"}
        assert "clean_accuracy is not compared image by image: no sound outcomes.json" in result.err


def test_main_metrics_come_first_and_the_others_by_name(compare):
    names = list(compare("larger", "three seed=0", "--json").json["metrics"])
    main = ["clean_accuracy", "robust_accuracy", "ood_auroc", "frechet_distance", "kernel_distance"]
    assert names == [*main, "zebra"]


def test_table_leaves_out_what_is_the_same_in_all_but_the_main_metrics(compare):
    out = compare("half", "most").out
    assert "zebra" not in out
    assert "the same in all: 1 more" in out
    assert _row(out, "frechet_distance") == ["frechet_distance", "0.25", "0.25"]
    assert "zebra" in compare("half", "most", "--json").json["metrics"]
    assert "more" not in compare("half", "most", *["--metric", "zebra"] * 2).out
    assert _row(compare("half", "most", "--metric", "zebra").out, "zebra") == ["zebra", "7", "7"]
    assert _row(compare(*THREE).out, "zebra") == ["zebra", "7 ± 0"]


def test_figure_that_some_runs_of_a_column_lack_says_of_how_many_it_is(compare):
    result = compare("three seed=0", "three seed=1", "infinite", "--json")
    assert result.json["metrics"]["clean_accuracy"][0]["num"] == 2
    assert "ece" not in result.json["metrics"]  # no number: absent
    assert _row(result.err, "clean_accuracy")[1] == "0.91 ± 0.01414 (2 of 3)"


def test_repeats_of_one_configuration_are_told(compare, archive):
    result = compare("larger", "larger again")
    assert result.code == 0
    assert _row(result.out, "metric") == ["metric", "2 runs, 1 seed"]
    ids = ", ".join(archive.ids[name][:8] for name in ("larger", "larger again"))
    assert f"{ids} repeat one configuration" in result.out


def test_figures_of_two_references_are_refused(compare, archive):
    result = compare("larger", "other reference", "--json")
    labels = [f"{name} ({archive.ids[name][:8]})" for name in ("larger", "other reference")]
    assert result.error == (
        "error: frechet_distance, kernel_distance: measured under different protocols: "
        f"reference.sha256 is 12ab12ab12ab... in {labels[0]} and 34cd34cd34cd... in {labels[1]}; "
        "compare runs of one protocol, or --allow reference.sha256 if that is what you compare"
    )
    assert result.json["errors"] == result.errors
    assert result.json["metrics"]["frechet_distance"] == [None, None]
    assert result.json["metrics"]["clean_accuracy"][0]["mean"] == 0.99
    ids = [archive.ids[name] for name in ("larger", "other reference")]
    values = dict(zip(ids, SHAS, strict=True))
    assert result.json["refused"]["frechet_distance"] == [{"key": "reference.sha256", "values": values}]
    assert _row(result.err, "frechet_distance") == ["frechet_distance", "refused", "refused"]


def test_figures_are_refused_within_a_column_too(compare):
    result = compare("other reference", "weaker attack", "--json")  # one configuration, two seeds
    assert len(result.json["columns"]) == 1
    assert set(result.json["refused"]) == {"frechet_distance", "kernel_distance", "robust_accuracy"}
    assert len(result.errors) == 2  # a line for each set of keys


def test_what_may_differ_is_left_out_of_the_check_and_told(compare):
    result = compare("larger", "other reference", "--allow", "reference.sha256")
    assert result.code == 0
    assert _row(result.out, "frechet_distance") == ["frechet_distance", "0.25", "9"]
    assert "beware: frechet_distance, kernel_distance: reference.sha256 is 12ab" in result.out


def test_allowing_one_key_leaves_the_others_checked(compare):
    names = ("larger", "other reference", "weaker attack", "--json")
    assert set(compare(*names, "--allow", "reference.sha256").json["refused"]) == {"robust_accuracy"}


def test_restricted_to_metrics_that_are_not_refused(compare):
    result = compare("larger", "other reference", "--metric", "zebra", "--metric", "clean_accuracy", "--json")
    assert result.code == 0
    assert list(result.json["metrics"]) == ["clean_accuracy", "zebra"]


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (["larger"], ["error: RUN: only one given; a comparison needs two or more"]),
        (["larger", "larger"], ["are one run, larger"]),
        (["largr", "thre seed=1"], ["did you mean 'larger'?", "did you mean 'three seed=1'?"]),
        (["larger", "broken"], [") is failed; finish it first"]),
        (["larger", "twin"], ["'twin' stands for 2 runs; give one's id: "]),
        (["larger", "silent"], ["has no sound protocols.json", "run its pipeline command again"]),
        (["larger", "damaged"], ["has no sound protocols.json"]),
        (["larger", "nothing told"], ["has no sound protocols.json"]),
        (["larger", "qqqq"], ["'qqqq' names no finished pipeline run; give an id"]),
        (["larger", "twin", "broken", "nothing at all"], ["stands for", "is failed", "names no finished"]),
        (["larger", "three seed=0", "--metric", "clean_acuracy"], ["did you mean 'clean_accuracy'?"]),
        (["larger", "three seed=0", "--allow", "reference.sha"], ["did you mean 'reference.sha256'?"]),
        (["larger", "silent", "--metric", "q", "--allow", "q"], ["no sound", "--metric:", "--allow:"]),
        (["a", "b", "--tracking-uri", "nowhere"], ["error: --tracking-uri: 'nowhere'; "]),
        ([], ["Missing argument"]),
    ],
    ids=[
        "one", "twice", "near-misses", "unfinished", "ambiguous", "no-protocols", "odd-protocols",
        "no-protocol", "unknown", "all-at-once", "metric", "key", "run-and-options", "address", "none",
    ],
)  # fmt: skip
def test_bad_input(compare, arguments, lines):
    result = compare(*arguments, *["--json"] * bool(arguments))
    assert result.code == 2
    for text in lines:
        assert sum(text in line for line in result.errors) == 1
    assert "Traceback" not in result.err
    if arguments:
        empty = {"columns": [], "metrics": {}, "refused": {}, "differing": {}, "paired": {}}
        assert result.json == empty | {"errors": result.errors}


def test_runs_by_id_and_by_its_beginning(compare, archive):
    ids = [archive.ids[name] for name in ("larger", "three seed=0")]
    found = compare(ids[0], ids[1][:10], "--json").json["columns"]
    assert [column["runs"][0]["run_id"] for column in found] == ids


def test_a_stage_has_no_place_in_a_comparison(compare, archive):
    parent = f"larger ({archive.ids['larger'][:8]})"
    error = compare("three seed=0", archive.ids["sample"]).error
    assert error.endswith(f"is a stage's run; give its pipeline's: {parent}")


def test_runs_of_two_recipes(compare, archive):
    columns = compare("larger", "colours", "--json").json["columns"]
    assert (
        [column["title"] for column in columns]
        == [  # more settings differ than a title holds
            f"digits, larger ({archive.ids['larger'][:8]})",
            f"cifar10, colours ({archive.ids['colours'][:8]})",
        ]
    )


@pytest.mark.parametrize("as_uri", [False, True], ids=["workdir", "uri"])
def test_a_database_that_is_not_there_is_not_made(compare, tmp_path, as_uri):
    uri = ["--tracking-uri", f"sqlite:///{tmp_path / 'none.db'}"] if as_uri else []
    error = compare("a", "b", *uri, workdir=tmp_path / "none").error
    assert error.startswith("error: --tracking-uri: " if as_uri else "error: --workdir: ")
    assert "there is no " in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"not a database" * 99], ids=["empty", "torn"])
def test_a_file_that_is_no_store_is_left_as_it_is(compare, tmp_path, content):
    path = tmp_path / "mlflow.db"
    path.write_bytes(content)
    assert "no database of MLflow's" in compare("a", "b", workdir=tmp_path).error
    assert path.read_bytes() == content


def test_a_store_by_its_address_from_another_folder(archive, cli, tmp_path):
    found = cli("compare", *THREE, "--tracking-uri", archive.uri, "--json", cwd=tmp_path)
    assert found.code == 0, found.err
    assert found.json.keys() == {"columns", "metrics", "refused", "differing", "paired", "errors"}
    assert list(tmp_path.iterdir()) == []


def test_help_needs_no_mlflow():
    code = (
        "import sys; from pipelines.__main__ import app\n"
        "try: app(['compare', '--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'ray', 'mlflow'} & set(sys.modules)))"
    )
    help = run_python("-c", code).out
    assert help.splitlines()[-1] == "[]"
    assert help.count("\n    compare ") == 2


def test_every_page_of_a_long_store_is_read(archive, monkeypatch):
    by_two = partialmethod(MlflowClient.search_runs, max_results=2)
    monkeypatch.setattr(MlflowClient, "search_runs", by_two)
    assert [run.name for run in find_runs(archive.uri, THREE)] == list(THREE)
