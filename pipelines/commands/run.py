"""The main job's command line: recipe, plan, preflight, run, result."""

from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Annotated

import typer

from pipelines.commands.options import DONE, Options
from pipelines.commands.session import carry_out, planned
from pipelines.commands.status import show_statuses, stage_statuses
from pipelines.compute.devices import check_fit, check_resources, local_resources, visible_devices
from pipelines.compute.memory import weight
from pipelines.interrupt import StopRequest
from pipelines.plan import Plan
from pipelines.preflight.places import check_cluster, check_place, check_remote, check_tracking
from pipelines.preflight.settings import check_settings
from pipelines.problems import BadInput, Problem
from pipelines.recipe import Recipe, load_recipe, shipped_recipes
from pipelines.results import print_json, stage_row
from pipelines.smoke import smoke_settings
from pipelines.terminal import Terminal
from pipelines.workdir.opening import open_store, readable
from pipelines.workdir.shared_store import SharedStore
from pipelines.workdir.store import Store


def run(
    pipeline: Annotated[
        str, typer.Option(help=f"a recipe ({', '.join(shipped_recipes())}) or a path to a .yaml file")
    ],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY.PATH=VALUE", help="override one setting; may be repeated"),
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="say what would run and why; start nothing")] = False,
    status: Annotated[bool, typer.Option("--status", help="say what is finished and how to go on")] = False,
    start: Annotated[
        str | None,
        typer.Option("--from", metavar="STAGE", help="start at this stage; earlier ones must be finished"),
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="STAGE", help="stop after this stage")
    ] = None,
    force: Annotated[
        list[str] | None,
        typer.Option("--force", metavar="STAGE", help="run this stage again; may be repeated"),
    ] = None,
    ray_address: Annotated[
        str | None, typer.Option(metavar="ADDR", help="an existing Ray cluster; default: one on this machine")
    ] = None,
    tracking_uri: Annotated[
        str | None, typer.Option(metavar="URI", help="MLflow tracking; default: WORKDIR/mlflow.db")
    ] = None,
    workdir: Annotated[
        str,
        typer.Option(
            metavar="DIR_OR_URI",
            help="artifacts, checkpoints and the tracking store; s3://BUCKET/PREFIX needs --tracking-uri too",
        ),
    ] = "runs",
    smoke: Annotated[
        bool, typer.Option("--smoke", help="try the whole recipe on a handful of images; no figure counts")
    ] = False,
    trust_checkpoint: Annotated[
        bool,
        typer.Option(
            "--trust-checkpoint",
            help="unpickle model.checkpoint, which may run any code; only for a file whose author you trust",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="end stdout with one JSON object")] = False,
) -> int:
    """Run a recipe: preprocess, train in two stages, sample, evaluate, report.

    The same command again reuses every finished stage and goes on with the others from their last
    checkpoints. Stages: preprocess, reference_stats, train_stage1, train_stage2, sample, evaluate_fidelity,
    evaluate_classifier, report.

    \b
    Examples:
      --pipeline digits                          real data, two CPU cores, four minutes
      --pipeline digits --set seed=1 --plan      what would run, and why
      --pipeline imagenet256 --smoke             any recipe without its data
      --pipeline digits --force sample           one stage anew
      --pipeline digits --status                 what is finished, and how to go on

    Exit codes: 0 done, 1 a stage failed, 2 bad input (nothing was begun), 130 interrupted.
    """
    options = Options(
        pipeline,
        tuple(set_ or ()),
        start,
        until,
        tuple(force or ()),
        ray_address,
        tracking_uri,
        workdir,
        smoke,
        trust_checkpoint,
        as_json,
    )
    try:
        return _main(options, plan_only=plan, status_only=status)
    except BadInput as bad:
        if as_json:
            errors = [str(problem) for problem in bad.problems]
            print_json(Path(pipeline).stem, None, "refused", [], {}, errors)
        raise


def _main(options: Options, *, plan_only: bool, status_only: bool) -> int:
    store = open_store(options.workdir)
    recipe, problems = load_recipe(options.pipeline, options.overrides)
    available = dict.fromkeys(("CPU", "GPU"), inf) if options.ray_address else visible_devices()
    if options.smoke:
        configured, recipe = recipe, replace(recipe, settings=smoke_settings(recipe.settings, available))
        Terminal(to_stderr=options.as_json).stand_ins(configured.settings, recipe.settings)
    if plan_only or status_only:
        if problems:
            raise BadInput(problems)
        with readable(store):
            store = store.glance()
            plan = planned(recipe, store, options)
            terminal = Terminal(to_stderr=options.as_json)
            if plan_only:
                unfit = [] if options.ray_address else _unfit(recipe, available)
                return _show_plan(recipe, plan, unfit, terminal, as_json=options.as_json)
            return _show_status(recipe, plan, store, terminal, options)
    problems += check_settings(recipe.settings, trust_checkpoint=options.trust_checkpoint)
    problems += _check_store(store, recipe, options)
    if not options.ray_address:
        problems += _unfit(recipe, local_resources(recipe.settings))
    tracking_uri = options.tracking_uri
    if tracking_uri is None:
        tracking_uri = f"sqlite:///{store.workdir / 'mlflow.db'}"
    problems += check_tracking(tracking_uri) + check_cluster(options.ray_address)
    if problems:
        raise BadInput(problems)
    with StopRequest() as stop, readable(store):
        return carry_out(recipe, store, tracking_uri, options, stop)


def _check_store(store: Store, recipe: Recipe, options: Options) -> list[Problem]:
    if not isinstance(store, SharedStore):
        return check_place(store.workdir, recipe.settings)
    here = check_place(store.workdir, recipe.settings, "ATJEM_CACHE")
    return here + check_remote(store.remote, options.tracking_uri)


def _unfit(recipe: Recipe, available: dict[str, float]) -> list[Problem]:
    return check_resources(recipe.settings, available, "this machine") + check_fit(recipe.settings)


def _show_plan(recipe: Recipe, plan: Plan, unfit: list[Problem], terminal: Terminal, *, as_json: bool) -> int:
    """Also what of the recipe does not fit here: it may be planned for another place."""
    terminal.plan(plan)
    for problem in unfit:
        terminal.say(f"beware: would be refused: {str(problem).removeprefix('error: ')}", "yellow")
    working = sum(step.will_run for step in plan.steps.values())
    reused = sum(step.action == "cached" for step in plan.steps.values())
    terminal.say(weight(recipe.settings))
    terminal.say(f"{working} would run, {reused} would be reused; --plan has started nothing")
    if as_json:
        stages = [
            stage_row(step, step.action, step.reason) for step in plan.steps.values() if step.node.is_stage
        ]
        print_json(recipe.name, None, "planned", stages, {})
    return DONE


def _show_status(recipe: Recipe, plan: Plan, store: Store, terminal: Terminal, options: Options) -> int:
    statuses = stage_statuses(plan, store)
    show_statuses(statuses, store, terminal, options.command.removesuffix(" --json"))
    if options.as_json:
        stages = [
            stage_row(step, statuses[name].state, step.reason)
            | {"checkpoint_step": statuses[name].checkpoint_step}
            for name, step in plan.steps.items()
            if step.node.is_stage
        ]
        finished = all(status.state == "finished" for status in statuses.values())
        print_json(recipe.name, None, "done" if finished else "unfinished", stages, {})
    return DONE
