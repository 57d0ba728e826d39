"""The sweep's command line: what is searched, and every check before the first trial."""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from pathlib import Path
from typing import Annotated, Literal, cast

import optuna
import typer
from sqlalchemy.exc import SQLAlchemyError

from data.folders import is_address
from data.redact import has_secrets, redact, redact_address
from pipelines.compute.devices import check_fit, local_resources, visible_devices
from pipelines.interrupt import StopRequest
from pipelines.number_text import SMOKE_PREFIX
from pipelines.preflight.places import check_cluster, check_place, check_tracking
from pipelines.preflight.settings import check_settings
from pipelines.problems import BadInput, Problem, first_line
from pipelines.recipe import find_recipe, load_recipe
from pipelines.settings import Settings, flatten
from pipelines.terminal import Terminal
from pipelines.usage import INTERRUPTED
from pipelines.workdir.lock import locked
from pipelines.workdir.opening import resolve_workdir
from pipelines.workdir.store import Store
from sweeps.note import RECIPE_FILE, SPACE_FILE, Note, read_note, sweep_folder
from sweeps.objectives import against_the_grain, default_objectives, parse_objectives
from sweeps.results import print_json
from sweeps.search import SAMPLERS
from sweeps.session import Session
from sweeps.shape import check_shape, fitting
from sweeps.space import Space, incomparable, parse_space, read_text
from sweeps.sweep import Study

SPACE = Path(__file__).with_name("pgd.yaml")
_TRIALS = 20
_SEEDS = 1 << 63  # how many there are


@dataclass(frozen=True)
class Options:
    """As given. None: not given, so that a sweep that is gone on with keeps what it had."""

    pipeline: str | None
    space: str | None
    trials: int | None
    concurrent: int | None
    objectives: tuple[str, ...]
    resume: str | None
    seeds: int | None
    smoke: bool
    overrides: tuple[str, ...]
    sampler: str | None
    storage: str | None
    tracking_uri: str | None
    workdir: str
    ray_address: str | None
    trust_checkpoint: bool
    as_json: bool


def tune(
    pipeline: Annotated[
        str | None, typer.Option(help="a recipe's name or a path to a .yaml file; default: digits")
    ] = None,
    space: Annotated[
        str | None, typer.Option(metavar="FILE", help="settings to search; default: sweeps/pgd.yaml")
    ] = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help="trials, the recipe itself among them; default: 20")
    ] = None,
    concurrent: Annotated[
        int | None, typer.Option(min=1, help="trials at a time; default: as many as there are resources for")
    ] = None,
    objective: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METRIC:min|max ...",
            help="one or several; default: frechet_distance:min robust_accuracy:max",
        ),
    ] = None,
    resume: Annotated[str | None, typer.Option(metavar="NAME", help="go on with this sweep")] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="repeat the best over so many seeds before one wins; default: 1")
    ] = None,
    smoke: Annotated[bool, typer.Option("--smoke", help="try the sweep on a handful of images")] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY.PATH=VALUE", help="override one setting; may be repeated"),
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option(help="tpe (default), nsga2: Optuna chooses; grid: every combination of choices"),
    ] = None,
    storage: Annotated[
        str | None, typer.Option(metavar="URL", help="of the Optuna study; default: SQLite in its folder")
    ] = None,
    tracking_uri: Annotated[
        str | None, typer.Option(metavar="URI", help="MLflow tracking; default: WORKDIR/mlflow.db")
    ] = None,
    workdir: Annotated[
        str, typer.Option(metavar="DIR", help="as of pipelines/run.py; shared with it")
    ] = "runs",
    ray_address: Annotated[
        str | None, typer.Option(metavar="ADDR", help="an existing Ray cluster; default: one on this machine")
    ] = None,
    trust_checkpoint: Annotated[
        bool, typer.Option("--trust-checkpoint", help="as of pipelines/run.py; not remembered by --resume")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="end stdout with one JSON object")] = False,
) -> int:
    """Search the settings of a recipe: Ray Tune runs the trials, Optuna chooses them.

    The first trial is the recipe itself, so a sweep cannot end worse than it. Trials share what no
    parameter changes: images, stage 1 and reference statistics are made once, and a trial that changes only
    sample.* takes another's trained model. With one objective, trials that do badly early in their training
    are ended there (`rungs` in the space); with several, the result is a Pareto front.

    \b
    Examples:
      --pipeline digits --trials 20 --seeds 3
      --objective frechet_distance:min             one objective, with rungs
      --objective frechet_distance:min robust_accuracy:max
      --space my.yaml --set stage2.steps=2000      sweeps/README.md shows how to write one
      --space sweeps/objectives.yaml --sampler grid --seeds 3      DAT, AT and JEM under one protocol
      --resume digits-1                            after a crash, or to add trials: --trials 40
      --pipeline imagenet256 --smoke --trials 3    any recipe without its data

    WORKDIR/sweeps/NAME holds best.yaml, which pipelines/run.py runs, a recipe for each member of the front,
    pictures, and the study, which optuna-dashboard opens.

    Exit codes: 0 done, 1 no trial succeeded, 2 bad input (nothing was begun), 130 interrupted.
    """
    options = Options(
        pipeline,
        space,
        trials,
        concurrent,
        tuple(objective or ()),
        resume,
        seeds,
        smoke,
        tuple(set_ or ()),
        sampler,
        storage,
        tracking_uri,
        workdir,
        ray_address,
        trust_checkpoint,
        as_json,
    )
    try:
        return _main(options)
    except BadInput as bad:
        if as_json:
            print_json(resume, None, "refused", None, None, [str(problem) for problem in bad.problems])
        raise


def spread_objectives(arguments: Sequence[str]) -> list[str]:
    """`--objective A B` as `--objective A --objective B`, which the command line's library understands."""
    spread: list[str] = []
    following = False
    for word in arguments:
        if following and not word.startswith("-") and spread[-1] != "--objective":
            spread.append("--objective")
        following = word == "--objective" or (following and not word.startswith("-"))
        spread.append(word)
    return spread


def _main(options: Options) -> int:
    workdir = resolve_workdir(options.workdir)
    store = Store(workdir)
    note = _note(options, store)
    available = dict.fromkeys(("CPU", "GPU"), inf) if options.ray_address else visible_devices()
    study, problems = _study(note, options, store, available)
    note = replace(note, objectives=tuple(map(str, study.objectives)))
    if note.sampler == "grid":
        problems += _check_grid(study.space, options)
        note = replace(note, trials=len(study.space.grid(study.recipe.settings)))
    settings = study.settings(study.recipe)
    problems += check_settings(settings, trust_checkpoint=options.trust_checkpoint)
    problems += check_place(workdir, settings)
    concurrent = options.concurrent
    if not options.ray_address:
        there = local_resources(settings)
        concurrent = concurrent or fitting(settings, there)
        problems += check_shape(settings, there, concurrent, "this machine") + check_fit(settings)
    tracking_uri = options.tracking_uri or f"sqlite:///{workdir / 'mlflow.db'}"
    problems += check_tracking(tracking_uri) + check_cluster(options.ray_address)
    problems += _check_storage(options.storage) if options.storage else []
    problems += _check_secrets(settings, study.space)
    if problems:
        raise BadInput(problems)
    terminal = Terminal(to_stderr=options.as_json)
    if names := incomparable(study.space):
        terminal.say(
            f"beware: {', '.join(names)} changes how trials are measured: compare with care", "yellow"
        )
    if odd := against_the_grain(study.objectives):
        terminal.say(f"beware: {', '.join(odd)} asks for the worse", "yellow")
    on_wait = partial(terminal.waiting, store.in_the_making())
    with StopRequest() as stop, locked(workdir, on_wait, lambda: stop.count > 0) as free:
        if not free:
            terminal.say("interrupted while waiting; nothing was begun")
            if options.as_json:
                print_json(options.resume, None, "interrupted", None, None)
            return INTERRUPTED
        store.sweep()
        session = Session(
            note,
            study,
            store,
            tracking_uri,
            concurrent,
            options.ray_address,
            options.trust_checkpoint,
            terminal,
            stop,
            lambda name: _command(options, name),
        )
        return session.run(options.resume, as_json=options.as_json)


def _check_grid(space: Space, options: Options) -> Iterator[Problem]:
    ranges = [parameter.name for parameter in space.parameters if not parameter.is_choice]
    if ranges:
        yield Problem("--sampler", "'grid'", f"needs choices; the space has a range for {', '.join(ranges)}")
    elif options.trials:
        yield Problem("--trials", str(options.trials), "a grid has as many as its points; leave it out")


def _note(options: Options, store: Store) -> Note:
    """What to search: as given, or as the sweep to go on with remembers it. Raises BadInput."""
    sampler = options.sampler
    if sampler is not None and sampler not in SAMPLERS:
        raise BadInput([Problem("--sampler", repr(sampler), f"use one of {', '.join(SAMPLERS)}")])
    pipeline = options.pipeline
    if pipeline is not None and pipeline.endswith((".yaml", ".yml")):
        pipeline = str(Path(pipeline).absolute())
    if options.resume is None:
        path = find_recipe(pipeline or "digits")
        return Note(
            pipeline=pipeline or "digits",
            recipe=read_text(path, "--pipeline"),
            space=read_text(Path(options.space or SPACE), "--space"),
            objectives=options.objectives,
            overrides=options.overrides,
            smoke=options.smoke,
            sampler=cast(Literal["tpe", "nsga2", "grid"], sampler or "tpe"),
            trials=options.trials or _TRIALS,
            seeds=options.seeds or 1,
            storage=options.storage or "",
        )
    old = read_note(store, options.resume)
    given = {
        "--pipeline": (pipeline, old.pipeline),
        "--space": (options.space and read_text(Path(options.space), "--space"), old.space),
        "--objective": (options.objectives, old.objectives),
        "--set": (options.overrides, old.overrides),
        "--smoke": (options.smoke, old.smoke),
        "--sampler": (sampler, old.sampler),
    }
    problems = [
        Problem(option, "differs from the sweep's own", "leave it out, or start a new sweep")
        for option, (new, kept) in given.items()
        if new and new != kept
    ]
    if problems:
        raise BadInput(problems)
    return replace(
        old,
        trials=options.trials or old.trials,
        seeds=options.seeds or old.seeds,
        storage=_storage(old.storage, options.storage),
    )


def _storage(noted: str, given: str | None) -> str:
    """The study's own. Raises BadInput when another is given, or none where the noted one hides a secret."""
    if given is None and "***" not in noted:
        return noted
    if given is None or redact(given) != noted:
        allowed = f"the sweep was begun with {noted or 'none'}"
        raise BadInput([Problem("--storage", given or "not given", allowed)])
    return given


def _study(
    note: Note, options: Options, store: Store, available: dict[str, float]
) -> tuple[Study, list[Problem]]:
    source = note.pipeline
    if options.resume:
        source = str(sweep_folder(store, options.resume) / RECIPE_FILE)
    recipe, problems = load_recipe(source, note.overrides)
    recipe = replace(recipe, name=Path(note.pipeline).stem)
    where = SPACE_FILE if options.resume else options.space or SPACE.name
    space, found = parse_space(note.space, where, source, note.overrides, recipe.settings)
    texts = note.objectives or default_objectives(recipe.settings)
    objectives, wrong = parse_objectives(texts, recipe.settings, SMOKE_PREFIX * note.smoke)
    problems += found + wrong
    if not objectives or not space.parameters:
        raise BadInput(problems)
    if recipe.settings.seed + note.seeds > _SEEDS:
        given = f"{note.seeds} from seed {recipe.settings.seed} on"
        problems.append(Problem("--seeds", given, "no seed may be 2^63 or more"))
    study = Study(source, note.overrides, note.smoke, available, recipe, space, objectives)
    return study, problems


def _check_secrets(settings: Settings, space: Space) -> list[Problem]:
    """A sweep writes its recipe into files that are handed on: best.yaml, a recipe for each of the front."""
    values = [
        *flatten(settings).items(),
        *((parameter.name, value) for parameter in space.parameters for value in parameter.extremes),
    ]
    allowed = "a sweep keeps its recipe in files: give secrets in the environment (AWS_ACCESS_KEY_ID, ...)"
    return [
        Problem(name, redact_address(value), allowed)
        for name, value in values
        if isinstance(value, str) and is_address(value) and has_secrets(value)
    ]


def _check_storage(url: str) -> list[Problem]:
    try:
        optuna.storages.get_storage(url)
    except (SQLAlchemyError, ImportError, ValueError, OSError) as error:
        return [Problem("--storage", url, f"Optuna says: {first_line(error)}")]
    return []


def _command(options: Options, name: str) -> str:
    """The command that goes on with this sweep."""
    words = ["python", "sweeps/tune_pgd.py", "--resume", name]
    pairs = (
        ("--concurrent", options.concurrent and str(options.concurrent)),
        ("--storage", options.storage),
        ("--ray-address", options.ray_address),
        ("--tracking-uri", options.tracking_uri),
        ("--workdir", None if options.workdir == "runs" else options.workdir),
    )
    words += [word for option, value in pairs if value for word in (option, value)]
    words += ["--trust-checkpoint"] * options.trust_checkpoint
    return redact(shlex.join(words))
