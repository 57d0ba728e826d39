"""The runs of a whole tracking store, for reading."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipelines.tracking.tracker import connect


class Archive:
    """Raises TRACKING_ERRORS when the store cannot be read."""

    def __init__(self, uri: str) -> None:
        self.client = connect(uri, retries=3)

    def runs(self, query: str) -> list[tuple[Any, str]]:
        """Every run that answers a query, newest first, with its experiment's name."""
        experiments = _every(lambda token: self.client.search_experiments(page_token=token))
        names = {experiment.experiment_id: experiment.name for experiment in experiments}
        runs = _every(lambda token: self.client.search_runs(list(names), query, page_token=token))
        return [(run, names[run.info.experiment_id]) for run in runs]

    def data(self, run_id: str) -> dict[str, str]:
        """Digest of each collection of images that a run was given, by its name there."""
        inputs = self.client.get_run(run_id).inputs.dataset_inputs
        return {found.dataset.name: found.dataset.digest for found in inputs}

    def text(self, run_id: str, name: str) -> str:
        """What a file at the root of a run's artifacts holds; nothing when it is not there, or no text."""
        with TemporaryDirectory() as folder:
            path = self.file(run_id, name, Path(folder))
            try:
                return path.read_text(encoding="utf-8") if path else ""
            except UnicodeDecodeError:
                return ""

    def file(self, run_id: str, name: str, folder: Path) -> Path | None:
        """Copies a file at the root of a run's artifacts into a folder; None when it is not there."""
        if name not in {file.path for file in self.client.list_artifacts(run_id)}:
            return None
        return Path(self.client.download_artifacts(run_id, name, str(folder)))


def _every(search: Any) -> list[Any]:
    """All pages of a search: `search(token)`, where None begins."""
    page = search(None)
    found = list(page)
    while page.token:
        page = search(page.token)
        found += page
    return found
