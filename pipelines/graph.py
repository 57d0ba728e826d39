"""The stage graph: what each stage needs, which settings it reads, whose versions make its numbers.

A node is a stage; or a part of one, which measures another model under the same protocol, as
`sample.stage1` does; or a topic of one, which measures something else of the model by itself, as
`evaluate_classifier.counterfactuals` does. The code is `run` in `pipelines/stages/<stage or topic>.py`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from graphlib import TopologicalSorter

from pipelines.settings import Settings

STAGES = (
    "preprocess",
    "reference_stats",
    "train_stage1",
    "train_stage2",
    "sample",
    "evaluate_fidelity",
    "evaluate_classifier",
    "report",
)
_FEATURES = ("evaluate.feature_extractor", "evaluate.inception_weights", "evaluate.precision")
_WORKERS = tuple(
    f"compute.{name}" for name in ("num_workers", "cpus_per_worker", "gpus_per_worker", "max_restarts")
)


@dataclass(frozen=True)
class Node:
    """`needs` maps a role, as the stage's code calls it, to the node that plays it."""

    stage: str
    needs: Mapping[str, str]
    reads: tuple[str, ...]
    libraries: tuple[str, ...]
    part: str = ""
    prefix: str = field(default="")  # of this node's metrics
    topic: str = ""
    has_workers: bool = False  # which hold the CPUs and GPUs, not the node itself
    uses_gpu: bool = True
    also_runs: tuple[str, ...] = ()  # modules beside its own that these settings bring in
    trusted: str = ""  # a file that it may unpickle: the command line's word, never a recipe's

    @property
    def name(self) -> str:
        return ".".join(word for word in (self.stage, self.topic, self.part) if word)

    @property
    def is_stage(self) -> bool:
        """True for the one node that bears its stage's name."""
        return self.name == self.stage

    @property
    def module(self) -> str:
        return f"pipelines.stages.{self.topic or self.stage}"


def build_graph(settings: Settings) -> dict[str, Node]:
    """All nodes of a recipe by name, in an order in which each comes after what it needs."""
    several = settings.compute.num_workers > 1
    nodes = [
        Node(
            "preprocess",
            {},
            (
                "data.seed",
                "data.in",
                "data.ood",
                "data.root",
                "data.image_size",
                "data.short_side",
                "data.encoding",
                "data.shard_mb",
                "data.max_images",
                "data.test_fraction",
                "data.max_bad_fraction",
                "model.channels",
            ),
            ("pillow", "webdataset", "scikit-learn"),
            uses_gpu=False,
        ),
        Node(
            "reference_stats",
            {"data": "preprocess"},
            (
                "data.seed",
                "model.arch",
                "model.normalization",
                "evaluate.extractor_steps",
                "evaluate.reference_statistics",
                "evaluate.reference_implementation",
                *_FEATURES,
                *_WORKERS,
            ),
            ("torch", "torchvision", "torch-fidelity"),
            has_workers=several,
        ),
        _train(settings, "train_stage1", {"data": "preprocess"}, ("stage1", "model")),
        _stage2(settings),
        *_measured("train_stage2", part="", prefix="", settings=settings),
    ]
    if settings.evaluate.stage1:
        nodes += _measured("train_stage1", part="stage1", prefix="stage1_", settings=settings)
    if settings.evaluate.feature_extractor == "classifier":
        nodes.append(_accuracy("reference_stats", part="plain", prefix="plain_", several=several))
    sections = ("seed", "data", "model", "stage1", "stage2", "sample", "evaluate", "compute.precision")
    reads = (*sections, "published")
    needs = {node.name: node.name for node in nodes}
    nodes.append(Node("report", needs, reads, ("matplotlib",), uses_gpu=False))
    graph = {node.name: node for node in nodes}
    return {name: graph[name] for name in _ordered(graph)}


def stage_needs(graph: Mapping[str, Node], names: Iterable[str]) -> set[str]:
    """These nodes and everything they need, directly or not."""
    found: set[str] = set()
    pending = list(names)
    while pending:
        name = pending.pop()
        if name not in found:
            found.add(name)
            pending += graph[name].needs.values()
    return found


def _ordered(graph: Mapping[str, Node]) -> list[str]:
    order = TopologicalSorter({name: sorted(node.needs.values()) for name, node in graph.items()})
    ranks = {name: rank for rank, name in enumerate(order.static_order())}
    return sorted(graph, key=lambda name: (STAGES.index(graph[name].stage), ranks[name]))


def _train(settings: Settings, stage: str, needs: dict[str, str], reads: tuple[str, ...]) -> Node:
    """Without steps, the weights that it starts from are published as they are: that takes no workers."""
    steps = (settings.stage1 if stage == "train_stage1" else settings.stage2).steps
    return Node(
        stage,
        needs,
        ("seed", *reads, "compute"),
        ("torch", "torchvision", "ray"),
        has_workers=settings.compute.num_workers > 1 and steps > 0,
        uses_gpu=steps > 0,
    )


def _stage2(settings: Settings) -> Node:
    """Choosing the best model in training takes sampling and the reference's features."""
    needs = {"data": "preprocess", "start": "train_stage1"}
    reads: tuple[str, ...] = ("stage2", "data.paired_views", "data.ood", "data.image_size", "model.channels")
    if settings.stage2.select == "best_frechet":
        needs["reference"] = "reference_stats"
        fields = ("step_size", "steps", "step_candidates", "mode", "seeds", "batch_size")
        reads += (*(f"sample.{field}" for field in fields), *_FEATURES)
        libraries = ("torch", "torchvision", "ray", "torch-fidelity")
        return replace(
            _train(settings, "train_stage2", needs, reads),
            also_runs=("pipelines.stages.selection",),
            libraries=libraries,
        )
    return _train(settings, "train_stage2", needs, reads)


def _measured(trained: str, *, part: str, prefix: str, settings: Settings) -> list[Node]:
    """Sampling and evaluation of the model that one training stage made."""
    reads = ("seed", "data.seed", "sample", "data.ood", "data.image_size", "model.channels")
    several = settings.compute.num_workers > 1
    sample = Node(
        "sample",
        {"data": "preprocess", "model": trained, "reference": "reference_stats"},
        (*reads, *_FEATURES, *_WORKERS),
        ("torch", "torchvision", "torch-fidelity"),
        part,
        prefix,
        has_workers=several,
    )
    fidelity = Node(
        "evaluate_fidelity",
        {"samples": sample.name, "reference": "reference_stats"},
        (),
        ("torch", "torchvision", "torch-fidelity"),
        part,
        prefix,
        uses_gpu=False,
    )
    counterfactuals = Node(
        "evaluate_classifier",
        {"data": "preprocess", "model": trained, "reference": "reference_stats"},
        ("data.seed", "evaluate.counterfactual", "evaluate.batch_size", *_FEATURES, *_WORKERS),
        ("torch", "torchvision", "torch-fidelity"),
        part,
        prefix,
        topic="counterfactuals",
        has_workers=several,
    )
    accuracy = _accuracy(trained, part=part, prefix=prefix, several=several)
    return [sample, fidelity, accuracy, counterfactuals]


def _accuracy(trained: str, *, part: str, prefix: str, several: bool) -> Node:
    own = tuple(f"evaluate.{name}" for name in ("robust", "ood", "precision", "batch_size"))
    return Node(
        "evaluate_classifier",
        {"data": "preprocess", "model": trained},
        ("data.seed", *own, "data.ood", "data.image_size", "model.channels", *_WORKERS),
        ("torch", "torchvision", "torchmetrics", "pyautoattack"),
        part,
        prefix,
        has_workers=several,
    )
