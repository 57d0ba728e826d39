"""One page that shows a whole run: figures, samples, curves, calibration, stages and lineage."""

import base64
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from jinja2 import Environment
from markupsafe import Markup
from pydantic import BaseModel
from safetensors.torch import load_file

from data.folders import is_address
from data.images import ShardImages
from data.redact import redact_address
from data.shards import read_manifest
from pipelines.context import StageContext, View
from pipelines.curves import Line, panels, steps_are
from pipelines.files import read_json, read_json_list
from pipelines.fingerprint import digest
from pipelines.graph_picture import draw_graph
from pipelines.number_text import MAIN_METRICS, SMOKE_PREFIX, shown
from pipelines.stages.charts import Draw, curves, draw_chart, histograms, reliability, write_png
from pipelines.stages.pictures import draw_frames
from pipelines.stages.report_page import PAGE
from pipelines.stages.tensors import ENERGIES_FILE, read_tensors
from pipelines.verdict import COURSE, warnings

if TYPE_CHECKING:
    from pipelines.settings import Published

REPORT_FILE = "report.html"
_MODELS = {"": "stage 2", "stage1": "stage 1", "plain": "plain twin"}  # by part
_CARDS = (
    ("clean_accuracy", "clean accuracy"),
    ("robust_accuracy", "robust accuracy (AutoAttack)"),
    ("frechet_distance", "Fréchet distance"),
    ("ece", "calibration error"),
)
_REAL_CLASSES, _REAL_IMAGES = 10, 4
_ABOUT_DATA = ("preprocess", "reference_stats")
_TRAINING = {"train_stage1": "Stage 1", "train_stage2": "Stage 2"}


def run(context: StageContext) -> dict[str, Any]:
    """Artifact: `report.html`, with every picture in it."""
    manifests = {name: read_json(folder / "manifest.json") or {} for name, folder in context.inputs.items()}
    settings = {name: _shown_setting(value) for name, value in _flat("", context.settings)}
    published = context.settings.published
    page = Environment(autoescape=True).from_string(PAGE)
    html = page.render(
        title=f"{settings['model.arch']} on {settings['data.in']}: {settings['stage2.objective']}",
        subtitle=_subtitle(manifests),
        cards=_cards(manifests),
        pictures=_pictures(context.inputs, manifests),
        smoke=_is_smoke(manifests),
        warnings=[] if _is_smoke(manifests) else list(warnings(_judged(manifests))),
        models=[_MODELS[part] for part in _parts(manifests)],
        metrics=_metrics(manifests, published),
        published=published.source if published else "",
        of_data=[(name, shown(value)) for name, value in sorted(_of_data(manifests).items())],
        absent=_absent(manifests),
        gates=_gates(manifests),
        counterfactuals=_counterfactuals(manifests),
        protocols=_protocols(manifests),
        charts=_charts(context.inputs, manifests),
        graph=_graph(manifests),
        lineage=_lineage(manifests, settings),
        stages=_stages(manifests),
        settings=sorted((k, v) for k, v in settings.items() if not k.startswith("published")),
    )
    (context.folder / REPORT_FILE).write_text(html, encoding="utf-8")
    for name, draw in _measured_charts(context.inputs, manifests).items():
        write_png(draw, context.folder / "figures" / f"{name}.png")
    return {"metrics": {}}


def _graph(manifests: Mapping[str, Mapping[str, Any]]) -> Markup:
    """Of what the report is made of, each with the seconds it took."""
    names = {manifest["fingerprint"]: name for name, manifest in manifests.items()}
    needs = {
        name: sorted({names[own] for own in manifest["identity"]["inputs"].values() if own in names})
        for name, manifest in manifests.items()
    }
    return draw_graph(needs, {name: f"{manifest['seconds']:.1f} s" for name, manifest in manifests.items()})


def _shown_setting(value: Any) -> Any:
    """An address without its secrets; any other value as it is."""
    return redact_address(value) if isinstance(value, str) and is_address(value) else value


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Settings by their dotted names, out of sections and views of sections."""
    if isinstance(value, View):
        value = {"in" if name == "in_" else name: inner for name, inner in vars(value).items()}
    elif isinstance(value, BaseModel):
        value = value.model_dump(by_alias=True)
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _flat(f"{prefix}.{name}" if prefix else name, inner)
    else:
        yield prefix, value


def _parts(manifests: Mapping[str, Mapping[str, Any]]) -> list[str]:
    present = {manifest["part"] for manifest in manifests.values()}
    return [part for part in _MODELS if part in present]


def _merged(manifests: Mapping[str, Mapping[str, Any]], key: str, part: str = "") -> dict[str, Any]:
    """One kind of facts of a model: what its training stages say is left out, and what is of the data."""
    merged: dict[str, Any] = {}
    for manifest in manifests.values():
        stage = manifest["stage"]
        if manifest["part"] == part and stage not in _ABOUT_DATA and not stage.startswith("train_"):
            merged |= manifest.get(key, {})
    return merged


def _absent(manifests: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str]]:
    """(names, reason) of the metrics that could not be computed."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in sorted(_merged(manifests, "absent").items()):
        by_reason.setdefault(reason, []).append(name)
    return [(", ".join(names), reason) for reason, names in by_reason.items()]


def _gates(manifests: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each model's signs of masked gradients, and its accuracy under PGD by budget."""
    gates = []
    for part in _parts(manifests):
        for manifest in manifests.values():
            if manifest["part"] == part and "gate" in manifest:
                curve = ", ".join(f"{shown(p['accuracy'])} at {p['eps']:g}" for p in manifest["pgd_curve"])
                checks = [{**check, "seen": shown(check["seen"])} for check in manifest["gate"]]
                gates.append({"model": _MODELS[part], "checks": checks, "curve": curve})
    return gates


def _counterfactuals(manifests: Mapping[str, Mapping[str, Any]]) -> list[dict[str, str]]:
    """Each model's figures by budget."""
    return [
        {"model": _MODELS[part], **{name: shown(value) for name, value in row.items()}}
        for part in _parts(manifests)
        for manifest in manifests.values()
        if manifest["part"] == part
        for row in manifest.get("counterfactuals", [])
    ]


def _protocols(manifests: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, list[tuple[str, Any]]]]:
    """(names, what they depend on) of the figures of stage 2 and of the features."""
    by_text: dict[str, tuple[list[str], Mapping[str, Any]]] = {}
    for manifest in manifests.values():
        for name, protocol in sorted(manifest.get("protocols", {}).items()):
            if not manifest["part"] and name in manifest["metrics"]:
                by_text.setdefault(digest(protocol), ([], protocol))[0].append(name)
    return [(", ".join(names), list(protocol.items())) for names, protocol in by_text.values()]


def _subtitle(manifests: Mapping[str, Mapping[str, Any]]) -> str:
    seconds = sum(manifest["seconds"] for manifest in manifests.values())
    metrics = _of_data(manifests)
    counts = f"{shown(metrics.get('num_train_images'))} training and {shown(metrics.get('num_test_images'))}"
    return f"{counts} test images; {seconds / 60:.1f} minutes of stage time, counting reused stages"


def _is_smoke(manifests: Mapping[str, Mapping[str, Any]]) -> bool:
    return any("smoke" in manifest["identity"] for manifest in manifests.values())


def _judged(manifests: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Both stages' figures, by the names that they have on a pipeline's run."""
    first = {f"stage1_{name}": value for name, value in _merged(manifests, "metrics", "stage1").items()}
    course = {
        prefix + name: manifests[stage]["metrics"][name]
        for stage, prefix in (("train_stage1", "stage1_"), ("train_stage2", ""))
        for name in COURSE
        if name in manifests[stage]["metrics"]
    }
    return {**_merged(manifests, "metrics"), **first, **course}


def _of_data(manifests: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Figures that belong to the images and their features, not to a model."""
    return {name: v for stage in _ABOUT_DATA for name, v in manifests[stage]["metrics"].items()}


def _cards(manifests: Mapping[str, Mapping[str, Any]]) -> list[dict[str, str]]:
    own, first = _merged(manifests, "metrics"), _merged(manifests, "metrics", "stage1")
    cards = []
    for name, label in _CARDS:
        note = f"stage 1: {shown(first[name])}" if name in first else ""
        if name == "frechet_distance":
            note += f"; test images: {shown(_of_data(manifests)['train_test_frechet_distance'])}"
        cards.append({"label": label, "value": shown(own.get(name)) or "absent", "note": note.strip("; ")})
    return cards


def _metrics(
    manifests: Mapping[str, Mapping[str, Any]], published: "Published | None"
) -> list[dict[str, Any]]:
    """One column a model, and the paper's figures last."""
    by_part = [_merged(manifests, "metrics", part) for part in _parts(manifests)]
    by_part += [published.metrics] if published else []
    present = {name for metrics in by_part for name in metrics}
    names = [name for name in MAIN_METRICS if name in present]
    names += sorted(present - set(names))
    prefix = SMOKE_PREFIX if _is_smoke(manifests) else ""
    return [
        {"name": prefix + name, "values": [shown(metrics.get(name)) for metrics in by_part]} for name in names
    ]


def _pictures(inputs: Mapping[str, Path], manifests: Mapping[str, Mapping[str, Any]]) -> list[dict[str, str]]:
    steps = {part: _merged(manifests, "metrics", part).get("sample_steps") for part in _MODELS}
    wanted = (
        (
            "sample",
            "sample_grid.png",
            f"Stage 2 after {steps['']} steps: each seed above its sample, a column a class",
        ),
        ("sample.stage1", "sample_grid.png", f"Stage 1 after {steps['stage1']} steps, from the same seeds"),
        ("sample", "trajectory.png", f"From seed to sample in {steps['']} steps, one row an image"),
        (
            "evaluate_classifier.counterfactuals",
            "counterfactuals.png",
            f"Test images, what makes them another class within L2 {_budgets(manifests)}, and what the "
            "middle one changes",
        ),
    )
    files = [(inputs[node] / "figures" / file, caption) for node, file, caption in wanted if node in inputs]
    pictures = [_picture(file, caption) for file, caption in files if file.is_file()]
    with tempfile.TemporaryDirectory() as temporary:
        real = Path(temporary, "real.png")
        _draw_real(inputs["preprocess"], real)
        return [*pictures, _picture(real, "Real training images, a column a class")]


def _budgets(manifests: Mapping[str, Mapping[str, Any]]) -> str:
    rows = manifests["evaluate_classifier.counterfactuals"]["counterfactuals"]
    return ", ".join(f"{row['eps']:g}" for row in rows)


def _picture(file: Path, caption: str) -> dict[str, str]:
    encoded = base64.b64encode(file.read_bytes()).decode()
    return {"uri": f"data:image/png;base64,{encoded}", "caption": caption}


def _draw_real(data: Path, path: Path) -> None:
    """The first images of the first classes that have any."""
    images = ShardImages(data / "images", "train")  # decodes only what is shown
    by_label: dict[int, list[int]] = {}
    for index, label in enumerate(read_manifest(data / "images", "train")["label"].to_pylist()):
        by_label.setdefault(label, []).append(index)
    members = [by_label[label][:_REAL_IMAGES] for label in sorted(by_label)[:_REAL_CLASSES]]
    shown = min(len(indices) for indices in members)
    draw_frames([images.get(indices[:shown]) for indices in members], path)


def _charts(inputs: Mapping[str, Path], manifests: Mapping[str, Mapping[str, Any]]) -> list[dict[str, str]]:
    drawn: list[tuple[str, Draw]] = []
    for stage, label in _TRAINING.items():
        for title, lines in panels(read_json_list(inputs[stage] / "curve.json") or []):
            drawn.append((f"{label}: {title}", curves(lines, f"{label}: {title}", "optimiser steps")))
    for name in ("sample", "evaluate_classifier", "evaluate_classifier.counterfactuals"):
        stage = name.split(".")[0]
        for title, lines in panels(manifests[name].get("points", [])):
            shown_lines, xlabel = (lines, steps_are(stage)) if stage == "sample" else (_by_eps(lines), "eps")
            title = title[0].upper() + title[1:]
            drawn.append((title, curves(shown_lines, title, xlabel)))
    drawn += _measured_charts(inputs, manifests).items()
    charts = []
    for title, draw in drawn:
        variants = {theme: _svg_uri(svg) for theme, svg in draw_chart(draw).items()}
        charts.append({"alt": title, **variants})
    return charts


def _by_eps(lines: Iterable[Line]) -> list[Line]:
    """Lines whose steps are thousandths, since MLflow's are whole numbers."""
    return [(name, [(x / 1000, y) for x, y in line]) for name, line in lines]


def _measured_charts(
    inputs: Mapping[str, Path], manifests: Mapping[str, Mapping[str, Any]]
) -> dict[str, Draw]:
    """What the evaluated models are like, by the names of their pictures in MLflow."""
    bins = {
        _MODELS[manifest["part"]]: manifest["reliability"]
        for manifest in manifests.values()
        if "reliability" in manifest
    }
    stored = load_file(inputs["evaluate_classifier"] / ENERGIES_FILE)
    samples = read_tensors(sorted(inputs["sample"].glob("samples-*.safetensors")), "energy")["energy"]
    energies = {
        "real images": stored["real"],
        "contrastive (samples)": samples,
        "seeds": stored["ood"],
        "seeds that climbed": stored["ood_adversarial"],
    }
    values = {name: energy.tolist() for name, energy in energies.items()}
    title = "Energy of stage 2: low is like the data"
    return {"reliability": reliability(bins), "energies": histograms(values, title, "energy")}


def _svg_uri(svg: str) -> str:
    return "data:image/svg+xml," + quote(svg)


def _lineage(
    manifests: Mapping[str, Mapping[str, Any]], settings: Mapping[str, Any]
) -> Iterable[tuple[str, str]]:
    prepared = manifests["preprocess"]
    for name, facts in prepared["datasets"].items():
        yield f"{name}: source", str(facts["source"])
        yield f"{name}: content sha256", str(facts["sha256"])
    yield "seed", str(settings.get("seed"))
    for name, value in manifests["train_stage2"].get("provenance", {}).items():
        yield name, value
    libraries: dict[str, str] = {}
    for manifest in manifests.values():
        libraries |= manifest["identity"]["libraries"]
    yield "libraries", ", ".join(f"{name} {version}" for name, version in sorted(libraries.items()))


def _stages(manifests: Mapping[str, Mapping[str, Any]]) -> list[dict[str, str]]:
    return [
        {
            "name": name,
            "fingerprint": manifest["fingerprint"],
            "run_id": manifest["run_id"],
            "code": digest(manifest["identity"]["code"]),
        }
        for name, manifest in manifests.items()
    ]
