"""One run from its lock to its exit code: Ray, MLflow and the terminal around the runner."""

from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from data.command_line import say_error
from pipelines.commands.options import DONE, FAILED, Options
from pipelines.compute.devices import check_resources, local_resources
from pipelines.interrupt import StopRequest
from pipelines.number_text import SMOKE_PREFIX
from pipelines.plan import Plan, make_plan
from pipelines.problems import BadInput, Problem, first_line
from pipelines.provenance import origin, trust_tag
from pipelines.recipe import Recipe
from pipelines.results import print_json, say_where, stage_rows
from pipelines.smoke import SUFFIX
from pipelines.terminal import Terminal
from pipelines.usage import INTERRUPTED
from pipelines.workdir.remote import RemoteError
from pipelines.workdir.shared_store import SharedStore
from pipelines.workdir.store import Store

if TYPE_CHECKING:
    from pipelines.tracking.courier import Courier
    from pipelines.tracking.record import Recorder


def carry_out(recipe: Recipe, store: Store, tracking_uri: str, options: Options, stop: StopRequest) -> int:
    """Takes the workdir's lock if there is work, then plans again: another run may have done it."""
    with ExitStack() as stack:
        terminal = Terminal(to_stderr=options.as_json)
        plan = planned(recipe, store, options)
        if working := plan.needs_work:
            lost = partial(_lost, terminal, stop)
            on_wait = partial(terminal.waiting, store.in_the_making())
            stack.enter_context(store.alone(on_wait, lambda: stop.count > 0, lost))
            if stop.count:
                terminal.say("interrupted while waiting; nothing was begun")
                if options.as_json:
                    print_json(recipe.name, None, "interrupted", [], {})
                return INTERRUPTED
            store.sweep()
            before, plan = plan, planned(recipe, store, options)
            terminal.reused(before, plan)
        if plan.needs_work:
            place = f"joining the cluster at {options.ray_address}" if options.ray_address else "starting Ray"
            terminal.say(f"{place}: seconds, or a minute on a busy machine")
            _connect(stack, recipe, plan, store, options)
            stop.arm()  # Ray takes SIGTERM for itself
        return _follow(recipe, plan, store, tracking_uri, options, terminal, stop, alone=working)


def planned(recipe: Recipe, store: Store, options: Options) -> Plan:
    return make_plan(
        recipe.settings,
        store,
        start=options.start,
        until=options.until,
        force=options.force,
        smoke=options.smoke,
        trust_checkpoint=options.trust_checkpoint,
    )


def _lost(terminal: Terminal, stop: StopRequest, other: str) -> None:
    terminal.say(f"the workdir was out of reach for so long that process {other} works in it now", "red")
    stop.count += 1


def _connect(stack: ExitStack, recipe: Recipe, plan: Plan, store: Store, options: Options) -> None:
    """Imports Ray only now that there is something to run."""
    from pipelines.compute import cluster
    from pipelines.compute.nodes import check_memory_of_nodes, check_nodes

    local, threads = local_resources(recipe.settings), recipe.settings.compute.cpus_per_worker
    num_cpus, num_gpus = int(local["CPU"]), int(local.get("GPU", 0))
    session = cluster.session(options.ray_address, num_cpus, num_gpus, threads, code=plan.code)
    there = stack.enter_context(session)
    if options.ray_address:  # nodes may still join: training waits for them
        problems = check_memory_of_nodes(recipe.settings)
        problems += check_nodes(store, recipe.settings) if isinstance(store, SharedStore) else []
    else:
        problems = check_resources(recipe.settings, there, "this machine")
    if problems:
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
    from pipelines.runner import Runner
    from pipelines.tracking.courier import Courier
    from pipelines.tracking.delivery import Server
    from pipelines.tracking.handover import bring_leftovers, settle

    server = Server(store.workdir, tracking_uri)
    bring_leftovers(server, terminal, stop)
    with Courier(server, recipe.name + SUFFIX * plan.smoke, terminal.say) as courier:
        recorder = _open_run(courier, recipe, plan, store, options, alone=alone)
        _say_what(recipe, plan, recorder, terminal)
        try:
            with terminal:
                outcome = Runner(plan, store, recorder, terminal, stop).run()
            status = "failed" if outcome.failed else "interrupted" if outcome.interrupted else "done"
            metrics = recorder.finish(outcome.manifests) if outcome.manifests else {}
            failed = {name: outcome.reason[name] for name in outcome.failed}
            recorder.close(status, "; ".join(f"{name}: {reason}" for name, reason in failed.items()))
        except RemoteError as error:
            recorder.close("failed", str(error))
            return _broken_off(str(error), recipe, recorder, options)
        except OSError as error:
            reason = f"{store.workdir}; its disk failed during the run: {first_line(error)}"
            return _broken_off(reason, recipe, recorder, options)
        terminal.stages(stage_rows(plan, outcome, recorder, store))
        if metrics and status == "done":
            paper = recipe.settings.published
            terminal.metrics(metrics, paper.metrics if paper else {}, SMOKE_PREFIX * plan.smoke)
        left = settle(courier, terminal, stop, options.command)
        stages = stage_rows(plan, outcome, recorder, store)  # with the ids that their runs have by now
        say_where(terminal, store, stages, tracking_uri, recorder, failed, status, options.command)
        if options.as_json:
            print_json(recipe.name, recorder.run_id, status, stages, metrics, undelivered=left)
        return {"done": DONE, "failed": FAILED, "interrupted": INTERRUPTED}[status]


def _open_run(
    courier: "Courier", recipe: Recipe, plan: Plan, store: Store, options: Options, *, alone: bool
) -> "Recorder":
    """The pipeline's run in MLflow, and what follows it. Raises BadInput when MLflow does not take it."""
    from pipelines.tracking.delivery import UndeliveredError
    from pipelines.tracking.record import Recorder
    from pipelines.tracking.tracker import TRACKING_ERRORS

    try:
        recorder = Recorder(courier, recipe, options.title, plan, store, origin(), alone=alone)
        if trust := trust_tag(plan):
            recorder.send(courier.tracker.tag, recorder.run_id, trust)
    except (*TRACKING_ERRORS, UndeliveredError) as error:
        allowed = f"MLflow says: {first_line(error)}"
        raise BadInput([Problem("--tracking-uri", courier.server.uri, allowed)]) from error
    courier.start()
    return recorder


def _say_what(recipe: Recipe, plan: Plan, recorder: "Recorder", terminal: Terminal) -> None:
    data, model = recipe.settings.data, recipe.settings.model
    terminal.say(f"{recipe.name}: run {recorder.run_id}, workdir {recorder.store.place}")
    terminal.say(f"{data.in_} as {data.image_size}x{data.image_size}x{model.channels} images, {model.arch}")
    if plan.needs_work:
        terminal.plan(plan)


def _broken_off(reason: str, recipe: Recipe, recorder: "Recorder", options: Options) -> int:
    say_error(f"--workdir: {reason}; finished stages are kept, to go on: {options.command}")
    if options.as_json:
        print_json(recipe.name, recorder.run_id, "failed", [], {})
    return FAILED
