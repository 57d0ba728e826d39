"""The main job: `python pipelines/run.py --pipeline digits` (see --help)."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # A script's own folder comes first on the path; the project's root belongs there instead, so that this
    # checkout's packages are the ones that run.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

    import typer

    from pipelines.cli import run
    from pipelines.usage import run_app

    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command()(run)
    run_app(app)
