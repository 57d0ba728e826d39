"""The main job: `python pipelines/run.py --pipeline digits` (see --help)."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # A script's own folder comes first on the path; the project's root belongs there instead, so that this
    # checkout's packages are the ones that run.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

    from data.command_line import app_of
    from pipelines.commands.run import run
    from pipelines.usage import run_app

    run_app(app_of(run))
