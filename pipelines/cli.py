"""The main job's command line: recipe, plan, preflight, run, result."""

import shlex
from contextlib import ExitStack
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Annotated

import typer

from data.redact import redact
from pipelines.devices import check_fit, check_resources, local_resources, visible_devices
from pipelines.interrupt import StopRequest
from pipelines.lock import locked
from pipelines.memory import weight
from pipelines.number_text import SMOKE_PREFIX
from pipelines.plan import Plan, make_plan
from pipelines.preflight import check_cluster, check_place, check_settings, check_tracking
from pipelines.problems import BadInput, Problem, first_line
from pipelines.recipe import Recipe, load_recipe, shipped_recipes
from pipelines.results import print_json, say_where, stage_row, stage_rows
from pipelines.smoke import SUFFIX, smoke_settings
from pipelines.status import show_statuses, stage_statuses
from pipelines.store import Store
from pipelines.terminal import Terminal
from pipelines.usage import INTERRUPTED

DONE, FAILED = 0, 1


@dataclass(frozen=True)
class Options:
    pipeline: str
    overrides: tuple[str, ...]
    start: str | None
    until: str | None
    force: tuple[str, ...]
    ray_address: str | None
    tracking_uri: str | None
    workdir: str
    smoke: bool
    as_json: bool

    @property
    def title(self) -> str:
        """The run's name in MLflow: the recipe and what was changed."""
        words = [Path(self.pipeline).stem, *["--smoke"] * self.smoke, *self.overrides]
        return redact(" ".join(words))[:120]

    @property
    def command(self) -> str:
        """The command that goes on with this run."""
        words = ["python", "pipelines/run.py", "--pipeline", self.pipeline]
        words += [word for text in self.overrides for word in ("--set", text)]
        pairs = (
            ("--from", self.start),
            ("--until", self.until),
            ("--ray-address", self.ray_address),
            ("--tracking-uri", self.tracking_uri),
            ("--workdir", None if self.workdir == "runs" else self.workdir),
        )
        words += [word for option, value in pairs if value for word in (option, value)]
        words += ["--smoke"] * self.smoke
        return redact(shlex.join(words + ["--json"] * self.as_json))


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
        str, typer.Option(metavar="DIR", help="artifacts, checkpoints and the tracking store")
    ] = "runs",
    smoke: Annotated[
        bool, typer.Option("--smoke", help="try the whole recipe on a handful of images; no figure counts")
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
    workdir = resolve_workdir(options.workdir)
    recipe, problems = load_recipe(options.pipeline, options.overrides)
    if options.smoke:
        available = dict.fromkeys(("CPU", "GPU"), inf) if options.ray_address else visible_devices()
        configured, recipe = recipe, replace(recipe, settings=smoke_settings(recipe.settings, available))
        Terminal(to_stderr=options.as_json).stand_ins(configured.settings, recipe.settings)
    if plan_only or status_only:
        if problems:
            raise BadInput(problems)
        plan = _plan(recipe, Store(workdir), options)
        terminal = Terminal(to_stderr=options.as_json)
        if plan_only:
            return _show_plan(recipe, plan, terminal, options.as_json)
        return _show_status(recipe, plan, Store(workdir), terminal, options)
    problems += check_settings(recipe.settings) + check_place(workdir, recipe.settings)
    if not options.ray_address:
        problems += check_resources(recipe.settings, local_resources(recipe.settings), "this machine")
        problems += check_fit(recipe.settings)
    tracking_uri = options.tracking_uri
    if tracking_uri is None:
        tracking_uri = f"sqlite:///{workdir / 'mlflow.db'}"
    problems += check_tracking(tracking_uri) + check_cluster(options.ray_address)
    if problems:
        raise BadInput(problems)
    with StopRequest() as stop:
        return _run(recipe, Store(workdir), tracking_uri, options, stop)


def resolve_workdir(given: str) -> Path:
    """The folder that `--workdir` names. Raises BadInput."""
    allowed = ""
    if "://" in given:
        allowed = "object stores are not supported yet; give a folder"
    elif not given or any(sign in given for sign in "?%"):
        allowed = "must be a folder whose name has no ? and no %, which MLflow's SQLite address cannot hold"
    try:
        workdir = Path(given).expanduser().resolve()
    except (RuntimeError, OSError) as error:
        allowed = f"{error}; give another folder"
    if allowed:
        raise BadInput([Problem("--workdir", repr(given), allowed)])
    return workdir


def _plan(recipe: Recipe, store: Store, options: Options) -> Plan:
    return make_plan(
        recipe.settings,
        store,
        start=options.start,
        until=options.until,
        force=options.force,
        smoke=options.smoke,
    )


def _show_plan(recipe: Recipe, plan: Plan, terminal: Terminal, as_json: bool) -> int:
    terminal.plan(plan)
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


def _run(recipe: Recipe, store: Store, tracking_uri: str, options: Options, stop: StopRequest) -> int:
    """Takes the workdir's lock if there is work, then plans again: another run may have done it."""
    with ExitStack() as stack:
        terminal = Terminal(to_stderr=options.as_json)
        plan = _plan(recipe, store, options)
        if working := plan.needs_work:
            stack.enter_context(locked(store.workdir, terminal.waiting, lambda: stop.count > 0))
            if stop.count:
                terminal.say("interrupted while waiting; nothing was begun")
                if options.as_json:
                    print_json(recipe.name, None, "interrupted", [], {})
                return INTERRUPTED
            store.sweep()
            plan = _plan(recipe, store, options)
        if plan.needs_work:
            _connect(stack, recipe, options)
            stop.arm()  # Ray takes SIGTERM for itself
        return _follow(recipe, plan, store, tracking_uri, options, terminal, stop, alone=working)


def _connect(stack: ExitStack, recipe: Recipe, options: Options) -> None:
    """Imports Ray only now that there is something to run."""
    from pipelines import cluster

    local, threads = local_resources(recipe.settings), recipe.settings.compute.cpus_per_worker
    session = cluster.session(options.ray_address, int(local["CPU"]), int(local.get("GPU", 0)), threads)
    if problems := check_resources(recipe.settings, stack.enter_context(session), "the cluster"):
        raise BadInput(problems)


def _follow(
    recipe: Recipe,
    plan: Plan,
    store: Store,
    tracking_uri: str,
    options: Options,
    terminal: Terminal,
    stop: StopRequest,
    *,
    alone: bool,
) -> int:
    """Runs the plan, tells MLflow and the terminal, and returns the exit code."""
    from pipelines.record import Recorder
    from pipelines.runner import Runner
    from pipelines.tracking import TRACKING_ERRORS, Tracker

    artifacts = None if options.tracking_uri else store.workdir / "mlartifacts"
    try:
        tracker = Tracker(tracking_uri, recipe.name + SUFFIX * plan.smoke, artifacts)
        recorder = Recorder(tracker, recipe, options.title, plan, store.workdir, alone=alone)
    except TRACKING_ERRORS as error:
        raise BadInput(
            [Problem("--tracking-uri", tracking_uri, f"MLflow says: {first_line(error)}")]
        ) from error
    data, model = recipe.settings.data, recipe.settings.model
    terminal.say(f"{recipe.name}: run {recorder.run_id}, workdir {store.workdir}")
    terminal.say(f"{data.in_} as {data.image_size}x{data.image_size}x{model.channels} images, {model.arch}")
    if plan.needs_work:
        terminal.plan(plan)
    try:
        with terminal:
            outcome = Runner(plan, store, recorder, terminal, stop).run()
        status = "failed" if outcome.failed else "interrupted" if outcome.interrupted else "done"
        metrics = recorder.finish(outcome.manifests) if outcome.manifests else {}
        failed = {name: outcome.reason[name] for name in outcome.failed}
        recorder.close(status, "; ".join(f"{name}: {reason}" for name, reason in failed.items()))
    except TRACKING_ERRORS as error:
        line = f"error: --tracking-uri: {tracking_uri}; MLflow failed during the run: {first_line(error)}; "
        typer.echo(redact(f"{line}finished stages are kept, to go on: {options.command}"), err=True)
        if options.as_json:
            print_json(recipe.name, recorder.run_id, "failed", [], {})
        return FAILED
    stages = stage_rows(plan, outcome, recorder, store)
    terminal.stages(stages)
    if metrics and status == "done":
        paper = recipe.settings.published
        terminal.metrics(metrics, paper.metrics if paper else {}, SMOKE_PREFIX * plan.smoke)
    say_where(terminal, store, stages, tracking_uri, recorder, failed, status, options.command)
    if options.as_json:
        print_json(recipe.name, recorder.run_id, status, stages, metrics)
    return {"done": DONE, "failed": FAILED, "interrupted": INTERRUPTED}[status]
