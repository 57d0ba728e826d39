"""What will happen and why: each node's fingerprint, and whether it runs, resumes or is cached.

Nothing here imports torch, Ray or MLflow, and no image is read.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Any

from data.sources.base import SourceError
from data.sources.named import open_source
from data.sources.noise_names import KINDS
from pipelines.files import path_exists
from pipelines.fingerprint import ROOT, changes, code_digests, digest, library_versions
from pipelines.graph import STAGES, Node, build_graph, stage_needs
from pipelines.problems import BadInput, Problem
from pipelines.settings import ENDS, RUNTIME, Settings, flatten
from pipelines.workdir.store import Store, essence

_KINDS = {"settings": "setting", "code": "code", "libraries": "library version"}
# Settings that name files: contents count.
FILES = ("model.checkpoint", "evaluate.inception_weights", "evaluate.reference_statistics")


@dataclass(frozen=True)
class Step:
    """One node's part in a run. `action`: run, resume, cached or skipped; no fingerprint: not known yet.

    key: what its checkpoints lie under: its fingerprint, had training no earlier end.
    essence: of the artifact that is reused (`pipelines.workdir.store.essence`).
    """

    node: Node
    action: str
    reason: str
    fingerprint: str | None
    identity: Mapping[str, Any]  # what the fingerprint was made of, for the manifest
    key: str | None
    forced: bool = False
    essence: str | None = None

    @property
    def will_run(self) -> bool:
        return self.action in ("run", "resume")


@dataclass(frozen=True)
class Plan:
    settings: Settings
    steps: Mapping[str, Step]  # by node name, in order
    smoke: bool = False

    @property
    def needs_work(self) -> bool:
        return any(step.will_run for step in self.steps.values())

    @property
    def code(self) -> dict[str, str]:
        """Digest of each file that the plan's numbers come from (`pipelines.fingerprint`)."""
        steps = [step for step in self.steps.values() if step.action != "skipped"]
        return {file: sha for step in steps for file, sha in sorted(step.identity["code"].items())}

    @property
    def fingerprint(self) -> str:
        """Of the whole pipeline: which results a run of it is about."""
        return digest(
            {name: step.fingerprint for name, step in self.steps.items() if step.action != "skipped"}
        )


def make_plan(
    settings: Settings,
    store: Store,
    *,
    start: str | None = None,
    until: str | None = None,
    force: Iterable[str] = (),
    only: Sequence[str] = (),
    smoke: bool = False,
    trust_checkpoint: bool = False,
) -> Plan:
    """Decides for each node. Raises BadInput for stage names that do not exist or lack what they need.

    `only` names nodes to which, with what they need, the plan is confined. `smoke` salts every fingerprint,
    so that no real run can take what a smoke run made. `trust_checkpoint` lets stage 1 unpickle the file that
    it starts from; no fingerprint depends on it.
    """
    graph, store = build_graph(settings), store.glance()
    if trust_checkpoint:
        trusted = settings.model.checkpoint or ""
        graph["train_stage1"] = replace(graph["train_stage1"], trusted=trusted)
    if only:
        confined = stage_needs(graph, only)
        graph = {name: node for name, node in graph.items() if name in confined}
    _check_names({"--from": start, "--until": until}, force)
    wanted = _wanted(graph, start, until)
    steps: dict[str, Step] = {}
    for name, node in graph.items():
        fingerprint, identity = _identify(node, settings, steps, smoke=smoke)
        key = fingerprint and _digest(node, _endless(identity))
        manifest = None if fingerprint is None else store.manifest(node.stage, fingerprint)
        action, reason = _decide(node, fingerprint, key, identity, manifest, store, steps)
        forced = node.stage in force
        if forced:
            action, reason = "run", "forced"
        if name not in wanted:
            action, reason = (action, reason) if action == "cached" else ("skipped", _skipped(start, until))
        own = essence(manifest) if manifest and action == "cached" else None
        steps[name] = Step(node, action, reason, fingerprint, identity, key, forced, own)
    if not wanted:
        raise BadInput(
            [Problem("--until", repr(until), f"comes before --from {start}; nothing would be run")]
        )
    _check_inputs(graph, steps, start)
    return Plan(settings, steps, smoke)


def hashed_settings(node: Node, settings: Settings) -> dict[str, Any]:
    """The flat settings that the node reads and that can change its result."""
    return {
        name: _meaning(name, value)
        for name, value in flatten(settings).items()
        if name not in RUNTIME and reads(node, name) and not (name in ENDS and value is None)
    }


def node_code(node: Node, root: Path = ROOT) -> dict[str, str]:
    """Digest of each file that the node's stage, and what its settings bring in, is made of."""
    modules = (node.module, *node.also_runs)
    return {name: sha for module in modules for name, sha in code_digests(module, root).items()}


def _files_read(node: Node, settings: Settings) -> list[str]:
    flat = flatten(settings)
    return [str(flat[name]) for name in FILES if flat[name] and reads(node, name)]


def reads(node: Node, name: str) -> bool:
    """True when the node itself reads the setting, not only what it needs."""
    return any(name == path or name.startswith(f"{path}.") for path in node.reads)


def _meaning(name: str, value: Any) -> Any:
    """What a setting's value stands for: files count by what they are, not by where they lie."""
    if name in FILES and value:
        return _file_identity(str(value))
    if name in ("data.in", "data.ood") and value not in KINDS:
        return "files"  # their listing's digest is in the preprocess node's identity
    return value


def _file_identity(path: str) -> list[str]:
    """What a path leads to, without reading it: sizes and times of its files."""
    if not path_exists(path):
        return []
    root = Path(path)
    files = sorted(file for file in root.iterdir() if file.is_file()) if root.is_dir() else [root]
    return [
        f"{file.name}:{file.stat().st_size}:{file.stat().st_mtime_ns}" for file in files if file.is_file()
    ]


def source_identities(settings: Settings) -> dict[str, str] | str:
    """Digests of the image collections' listings; or why one cannot be read now."""
    names = {"data.in": settings.data.in_, "data.ood": settings.data.ood}
    found = {}
    for setting, name in names.items():
        try:
            found[setting] = name if name in KINDS else open_source(name, settings.data.root).identity
        except (SourceError, OSError, RuntimeError) as error:
            return f"{setting}: {error}"
    return found


def _identify(
    node: Node, settings: Settings, steps: Mapping[str, Step], *, smoke: bool
) -> tuple[str | None, dict[str, Any]]:
    inputs = {role: steps[name].fingerprint for role, name in node.needs.items()}
    identity: dict[str, Any] = {
        **({"smoke": True} if smoke else {}),
        "settings": hashed_settings(node, settings),
        "inputs": inputs,
        "code": node_code(node),
        "libraries": library_versions(node.libraries),
    }
    known = all(fingerprint is not None for fingerprint in inputs.values())
    if absent := [path for path in _files_read(node, settings) if not path_exists(path)]:
        identity["absent"], known = absent, False
    if node.stage == "preprocess":
        identity["sources"] = source_identities(settings)
        known = not isinstance(identity["sources"], str)
    return (_digest(node, identity) if known else None), identity


def _digest(node: Node, identity: Mapping[str, Any]) -> str:
    return digest({**identity, "stage": node.stage})


def _endless(identity: Mapping[str, Any]) -> dict[str, Any]:
    """The identity of the same training to its very end."""
    settings = {name: value for name, value in identity["settings"].items() if name not in ENDS}
    return {**identity, "settings": settings}


def _decide(
    node: Node,
    fingerprint: str | None,
    key: str | None,
    identity: Mapping[str, Any],
    manifest: Mapping[str, Any] | None,
    store: Store,
    steps: Mapping[str, Step],
) -> tuple[str, str]:
    if fingerprint is None or key is None:
        if isinstance(identity.get("sources"), str):
            return "run", identity["sources"]
        absent = ", ".join(identity.get("absent", []))
        told = any("absent" in steps[name].identity for name in node.needs.values())
        reason = f"{absent} does not exist yet" if absent and not told else "its inputs are not known yet"
        return "run", reason
    if manifest is not None:
        known = ((role, name, steps[name].essence) for role, name in node.needs.items())
        other = [name for role, name, own in known if own and manifest["made_from"].get(role) != own]
        if other:
            return "run", f"{other[0]} came out differently"
        return "cached", "nothing it depends on has changed"
    failure = store.failure(node.stage, fingerprint)
    after = f"; failed the last time: {failure}" if failure else ""
    if saved := store.steps(node.stage, key, last_step(identity)):
        return "resume", f"goes on from the checkpoint at step {saved[-1]}{after}"
    parts = "" if node.stage.startswith("train_") else store.finished_parts(node.stage, key)
    if parts:
        return "resume", f"goes on after {parts}{after}"
    anew = [name for name in node.needs.values() if steps[name].will_run]
    if anew:
        named = ", ".join(sorted(set(anew))) if len(anew) <= 3 else f"{len(anew)} of its inputs"
        return "run", f"made anew: {named}"
    if failure:
        return "run", f"failed the last time: {failure}"
    return "run", _why(identity, store.manifests(node.name, smoke="smoke" in identity))


def last_step(identity: Mapping[str, Any]) -> float:
    """The step that a training ends at before its end; infinity for any other node."""
    return min((identity["settings"].get(name, inf) for name in ENDS), default=inf)


def _why(identity: Mapping[str, Any], finished: list[dict[str, Any]]) -> str:
    """What differs from the most similar finished artifact of the same node; of equals, the newest."""
    if not finished:
        return "has not been run yet"
    then = min(reversed(finished), key=lambda manifest: _distance(manifest["identity"], identity))["identity"]
    found = []
    for kind, what in _KINDS.items():
        if names := changes(then.get(kind, {}), identity[kind]):
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            found.append(f"changed {what}: {', '.join(names[:3])}{more}")
    if then.get("sources") != identity.get("sources"):
        found.append("other source images")
    if not found and then.get("inputs") != identity["inputs"]:
        found.append("its inputs changed")
    return "; ".join(found) or "its files are missing or damaged"


def _distance(then: Mapping[str, Any], now: Mapping[str, Any]) -> int:
    return sum(len(changes(then.get(kind, {}), now[kind])) for kind in _KINDS)


def _check_names(options: Mapping[str, str | None], force: Iterable[str]) -> None:
    given = [(option, stage) for option, stage in options.items() if stage is not None]
    given += [("--force", stage) for stage in force]
    problems = [
        Problem(option, repr(stage), f"use one of {', '.join(STAGES)}")
        for option, stage in given
        if stage not in STAGES
    ]
    if problems:
        raise BadInput(problems)


def _wanted(graph: Mapping[str, Node], start: str | None, until: str | None) -> set[str]:
    names = set(graph)
    if until is not None:
        names = stage_needs(graph, [name for name, node in graph.items() if node.stage == until])
    if start is not None:
        names = {name for name in names if _reaches(graph, name, start)}
    return names


def _reaches(graph: Mapping[str, Node], name: str, stage: str) -> bool:
    return any(graph[needed].stage == stage for needed in stage_needs(graph, [name]))


def _skipped(start: str | None, until: str | None) -> str:
    options = [f"{option} {stage}" for option, stage in (("--from", start), ("--until", until)) if stage]
    return f"outside {' '.join(options)}"


def _check_inputs(graph: Mapping[str, Node], steps: Mapping[str, Step], start: str | None) -> None:
    missing = sorted(
        {
            needed
            for name, step in steps.items()
            if step.will_run
            for needed in graph[name].needs.values()
            if steps[needed].action == "skipped"
        }
    )
    if missing:
        raise BadInput(
            [Problem("--from", repr(start), f"{', '.join(missing)} has no finished artifact; start earlier")]
        )
