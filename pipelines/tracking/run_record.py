"""What a run can be made again from: its settings, code and libraries, in two files beside its figures."""

import json
import re
from collections.abc import Mapping
from importlib.metadata import distributions
from typing import Any

from data.redact import redact
from pipelines.graph import STAGES
from pipelines.plan import Plan
from pipelines.provenance import Origin
from pipelines.recipe import Recipe

RECORD_FILE, CHANGES_FILE = "record.json", "changes.diff"
_COMMIT = re.compile(r"unknown|[0-9a-f]{40,64}(\+changes)?")


def run_record(recipe: Recipe, plan: Plan, origin: Origin, provenance: Mapping[str, str]) -> dict[str, str]:
    """Texts by the names of their files, without secrets. provenance: as of the run's tags."""
    record = {
        "recipe": recipe.name,
        "settings": recipe.settings.model_dump(by_alias=True, mode="json"),
        "smoke": plan.smoke,
        "until": _last_stage(plan),
        "fingerprints": {name: step.fingerprint for name, step in plan.steps.items()},
        "code": plan.code,
        "libraries": installed(),
        **provenance,
    }
    texts = {RECORD_FILE: redact(json.dumps(record, indent=1))}
    return texts | ({CHANGES_FILE: origin.changes} if origin.changes else {})


def installed() -> dict[str, str]:
    """Versions of everything that is installed."""
    return dict(sorted((found.metadata["Name"].lower(), found.version) for found in distributions()))


def _last_stage(plan: Plan) -> str | None:
    """The last that the run was to make; None for all."""
    wanted = [step.node.stage for step in plan.steps.values() if step.action != "skipped"]
    last = max(wanted, key=STAGES.index)
    return None if last == STAGES[-1] else last


def read_record(text: str) -> dict[str, Any] | None:
    """None when it is no record of a run."""
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return None
    wanted = {"recipe": str, "settings": dict, "code": dict, "libraries": dict, "smoke": bool}
    sound = isinstance(record, dict) and all(isinstance(record.get(key), own) for key, own in wanted.items())
    if not sound or "/" in record["recipe"] or not _COMMIT.fullmatch(str(record.get("git.commit"))):
        return None
    return dict(record)
