"""`python -m pipelines run --pipeline digits`, the same as `python pipelines/run.py`; see --help."""

from typing import Annotated

import typer

from pipelines.commands.compare import compare
from pipelines.commands.dag import dag
from pipelines.commands.deliver import deliver
from pipelines.commands.gc import gc
from pipelines.commands.reproduce import reproduce
from pipelines.commands.run import run
from pipelines.usage import run_app

app = typer.Typer(add_completion=False, rich_markup_mode=None, help="Pipelines of joint energy models.")
app.command("run")(run)
app.command("compare")(compare)
app.command("dag")(dag)
app.command("reproduce")(reproduce)
app.command("gc")(gc)
app.command("deliver")(deliver)


@app.command("status")
def status(
    pipeline: Annotated[str, typer.Option(help="a recipe's name or a path to a .yaml file")],
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY.PATH=VALUE")] = None,
    workdir: Annotated[str, typer.Option(metavar="DIR_OR_URI")] = "runs",
    as_json: Annotated[bool, typer.Option("--json", help="end stdout with one JSON object")] = False,
) -> int:
    """What of a recipe is finished, and how to go on."""
    return run(pipeline=pipeline, set_=set_, status=True, workdir=workdir, as_json=as_json)


if __name__ == "__main__":
    run_app(app)
