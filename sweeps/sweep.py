"""A sweep from its first trial to its winner: what runs next, and what is done with what comes back."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pipelines.graph import build_graph, stage_needs
from pipelines.interrupt import StopRequest
from pipelines.number_text import shown
from pipelines.plan import reads
from pipelines.problems import Problem
from pipelines.recipe import Recipe, load_recipe
from pipelines.settings import Settings
from pipelines.smoke import SUFFIX, smoke_settings
from pipelines.terminal import Terminal
from sweeps.jobs import Job, Level, Result
from sweeps.objectives import Objective
from sweeps.ranking import Spread, finalists, ranked, spread
from sweeps.search import Search
from sweeps.space import Space, as_override

if TYPE_CHECKING:
    from sweeps.tuning import Mail

_LOST = "its process died (killed, or out of memory)"


@dataclass(frozen=True)
class Study:
    """What is searched: fixed from the sweep's first call to its last."""

    source: str  # the recipe's name or file
    overrides: tuple[str, ...]
    smoke: bool
    available: Mapping[str, float]  # CPUs and GPUs, for what smoke runs take
    recipe: Recipe
    space: Space
    objectives: tuple[Objective, ...]

    @property
    def experiment(self) -> str:
        """MLflow's."""
        return self.recipe.name + SUFFIX * self.smoke

    @property
    def looks(self) -> tuple[int, ...]:
        """Training steps at which trials are compared; none with several objectives."""
        if self.space.rungs is None or len(self.objectives) > 1:
            return ()
        return self.space.rungs.steps(self.settings(self.recipe).stage2.end)

    @property
    def score(self) -> str:
        """The metric by which trials are compared at rungs; empty without any."""
        if self.space.rungs is None or not self.looks:
            return ""
        recipe, _ = self.at({}, *self.space.rungs.settings)
        return self.objectives[0].at_rungs(recipe.settings.evaluate.robust.attack)

    @property
    def nodes(self) -> tuple[str, ...]:
        """What measures the objectives."""
        return tuple(dict.fromkeys(objective.node for objective in self.objectives))

    def settings(self, recipe: Recipe) -> Settings:
        """What is run of a recipe."""
        return smoke_settings(recipe.settings, dict(self.available)) if self.smoke else recipe.settings

    def at(self, values: Mapping[str, Any], *more: str) -> tuple[Recipe, list[Problem]]:
        """The recipe with a point of the space laid over it, and what is wrong with it."""
        point = [as_override(name, value) for name, value in values.items()]
        recipe, problems = load_recipe(self.source, [*self.overrides, *point, *more])
        return replace(recipe, name=self.recipe.name), problems

    def shared(self) -> set[str]:
        """Nodes that no parameter changes, so that all trials have them in common."""
        settings = self.settings(self.recipe)
        graph = build_graph(settings)
        searched = [parameter.name for parameter in self.space.parameters]
        own = {name for name, node in graph.items() if any(reads(node, setting) for setting in searched)}
        return {name for name in graph if not stage_needs(graph, [name]) & own}


@dataclass
class Sweep:
    """`sweeps.tuning.Source`: trials of the search first, then repeats of the best over seeds."""

    study: Study
    search: Search
    terminal: Terminal
    stop: StopRequest
    num_seeds: int
    on_change: Callable[[], object] = lambda: None  # called when a trial has ended
    on_pruned: Callable[[str, str], object] = lambda run_id, why: None  # with a trial's MLflow run
    on_lost: Callable[[Job, str], object] = lambda job, why: None  # with a job whose process died
    real: Callable[[str | None], str | None] = lambda run_id: run_id  # MLflow's id of a run
    mail: "Mail | None" = None  # once Ray runs
    running: set[str] = field(default_factory=set)
    broken: str = ""  # why no trial of this sweep can succeed
    _repeats: list[tuple[int, int]] | None = None
    _passed_on: bool = False

    def next(self) -> Job | None:
        if self.stop.count or self.broken:
            return None
        return self._next_trial() or (None if self.search.is_running else self._next_repeat())

    @property
    def has_work(self) -> bool:
        """True when a trial or a repeat is left to run."""
        return not self.search.complete or bool(self._missing_repeats())

    def exhausted(self) -> bool:
        if self.stop.count or self.broken:
            return True
        if not self.search.complete or self.num_seeds == 1:
            return self.search.complete
        return not self.search.is_running and not self._repeats

    def looked(self, job: Job, result: Result) -> bool:
        self.search.note_work(job.number, **result.work)
        name = self.study.score
        score = result.metrics.get(name)
        if score is None or result.step is None:
            return False
        self.terminal.say(f"{job.label}: at step {result.step} {name} {shown(score)}")
        return self.search.prunes(job.number, result.step, score)

    def ended(self, job: Job, result: Result | None) -> None:
        self.running.discard(job.label)
        if result is None:
            result = Result("failed", None, cause=_LOST)
            self.on_lost(job, _LOST)
        self.terminal.gone(job.label)
        if job.seed is not None:
            self._repeat_ended(job, job.seed, result)
        else:
            if result.outcome != "rung":  # whose work was noted when it was looked at
                self.search.note_work(job.number, **result.work)
            self._trial_ended(job, result)
        self.on_change()

    def turn(self) -> None:
        """Shows how far trials are; passes the wish to stop on to them."""
        assert self.mail is not None
        for name, message in self.mail.progress().items():
            if "ended" in message:
                self.terminal.gone(name)
            elif "said" in message:
                self.terminal.say(f"{name.partition(':')[0]}: {message['said']}", "yellow")
            elif name.partition(":")[0] in self.running:
                self.terminal.progress(name, message)
        if (self.stop.count or self.broken) and not self._passed_on:
            self._passed_on = True
            if not self.broken:
                self.terminal.say("stopping: trials write their last checkpoints (up to 30 s)")
            self.mail.stop()

    def points(self) -> dict[int, tuple[float, ...]]:
        """Objective values of the trials that were measured in full."""
        return {trial.number: tuple(trial.values) for trial in self.search.finished}

    def order(self) -> list[int]:
        """The front's trials, the best first, each with its own seed alone."""
        return ranked(self.points(), self.study.objectives, self._first())

    def spreads(self) -> list[Spread]:
        """Trials that were repeated over seeds without a failure, the best first.

        Over all seeds; while no trial has these, over as many as some have.
        """
        for num in range(self.num_seeds, 1, -1):
            if found := self._spreads(num):
                means = {number: own.mean for number, own in found.items()}
                first = self._first() if self._first() in found else None
                best = ranked(means, self.study.objectives, first)
                return [found[number] for number in [*best, *(n for n in found if n not in best)]]
        return []

    def _spreads(self, num_seeds: int) -> dict[int, Spread]:
        found = {}
        for number, own in self.points().items():
            noted = self.search.repeats(number)
            wanted = [noted.get(seed, {}) for seed in self._seeds[: num_seeds - 1]]
            if all("values" in facts for facts in wanted) and number not in self._unfit():
                found[number] = spread(number, [own, *(facts["values"] for facts in wanted)])
        return found

    def _unfit(self) -> set[int]:
        """Trials of which a repeat failed."""
        return {
            number
            for number in self.points()
            if any("cause" in facts for facts in self.search.repeats(number).values())
        }

    def best(self) -> int | None:
        """The winner: by its mean over seeds where there are several; none of which a repeat failed."""
        if spreads := self.spreads():
            return spreads[0].number
        fit = {number: own for number, own in self.points().items() if number not in self._unfit()}
        first = self._first() if self._first() in fit else None
        return next(iter(ranked(fit, self.study.objectives, first)), None)

    @property
    def _seeds(self) -> range:
        """Of the repeats; the trials themselves have the recipe's."""
        own = self.study.recipe.settings.seed
        return range(own + 1, own + self.num_seeds)

    def _first(self) -> int | None:
        return None if self.search.first is None else self.search.first.number

    def _next_trial(self) -> Job | None:
        """Points that the recipe refuses fail at once, with its words."""
        while (asked := self.search.ask()) is not None:
            recipe, problems = self.study.at(asked.values)
            if not problems:
                return self._job(asked.number, None, asked.values, recipe)
            cause = "; ".join(str(problem).removeprefix("error: ") for problem in problems)
            self.search.tell_failed(asked.number, cause, {})
            self.terminal.say(f"trial {asked.number}: failed: {cause}", "red")
        return None

    def _next_repeat(self) -> Job | None:
        if self._repeats is None:
            self._repeats = self._missing_repeats()
        if not self._repeats:
            return None
        number, seed = self._repeats.pop(0)
        values = self.search.trials[number].params
        recipe, problems = self.study.at(values, f"seed={seed}")
        assert not problems  # it ran with another seed
        return self._job(number, seed, values, recipe)

    def _missing_repeats(self) -> list[tuple[int, int]]:
        """Trial and seed of each repeat that the finalists still need."""
        numbers = finalists(self.points(), self.study.objectives, self._first())
        return [
            (number, seed)
            for seed in self._seeds
            for number in numbers
            if seed not in self.search.repeats(number)
        ]

    def _job(self, number: int, seed: int | None, values: Mapping[str, Any], recipe: Recipe) -> Job:
        levels = [Level(self.study.settings(recipe), None)]
        rungs = self.study.space.rungs
        if seed is None and rungs is not None:
            looks = []
            for step in self.study.looks:
                own, problems = self.study.at(values, *rungs.settings, f"stage2.until={step}")
                if not problems:  # else it cannot be looked at like this, and is measured in full alone
                    looks.append(Level(self.study.settings(own), step))
            levels = [*looks, *levels]
        title = f"{self.search.name} trial {number}" + (" (the recipe itself)" if number == 0 else "")
        title += "" if seed is None else f" seed {seed}"
        job = Job(number, seed, title, recipe, tuple(levels))
        self.running.add(job.label)
        words = "the recipe itself" if number == 0 else self.study.space.told(values)
        self.terminal.say(f"{job.label} starts: {words}")
        return job

    def _trial_ended(self, job: Job, result: Result) -> None:
        values, missing = self._values(result)
        match result.outcome:
            case "done" if not missing:
                self.search.tell(job.number, values, result.facts)
                self.terminal.say(f"{job.label}: {self._told(values)}", "green")
            case "rung":
                self.search.tell_pruned(job.number, result.facts)
                why = f"ended at step {result.step}: others did better"
                self.on_pruned(result.run_id, why)
                self.terminal.say(f"{job.label}: {why}", "yellow")
            case "interrupted":
                self.terminal.say(f"{job.label}: interrupted; --resume goes on with it", "yellow")
            case _ if self._breaks(result):
                self.broken = self._broken(result)
                self.terminal.say(f"{job.label}: {self.broken}", "red")
            case _:
                cause = result.cause or missing
                self.search.tell_failed(job.number, cause, result.facts)
                self.terminal.say(f"{job.label}: failed: {cause}", "red")

    def _repeat_ended(self, job: Job, seed: int, result: Result) -> None:
        if result.outcome == "interrupted":
            return
        if self._breaks(result):
            self.broken = self._broken(result)
            return
        facts = result.facts | result.work
        values, missing = self._values(result)
        if result.outcome == "done" and not missing:
            self.search.note_repeat(job.number, seed, {**facts, "values": values})
            self.terminal.say(f"{job.label}: {self._told(values)}", "green")
        else:
            cause = result.cause or missing
            self.search.note_repeat(job.number, seed, {**facts, "cause": cause})
            self.terminal.say(f"{job.label}: failed: {cause}; it cannot win", "red")

    def _breaks(self, result: Result) -> bool:
        """True when no trial can succeed; those that ran into it are run again by --resume."""
        return result.outcome == "broken" or bool(set(result.failed) & self.study.shared())

    def _broken(self, result: Result) -> str:
        return f"{result.cause} (no trial can do without)"

    def _values(self, result: Result) -> tuple[list[float], str]:
        """The objectives' values, and why there are none where one is missing."""
        metrics = [objective.metric for objective in self.study.objectives]
        missing = [metric for metric in metrics if metric not in result.metrics]
        if missing:
            return [], f"{', '.join(missing)} could not be computed"
        return [result.metrics[metric] for metric in metrics], ""

    def _told(self, values: list[float]) -> str:
        pairs = zip(self.study.objectives, values, strict=True)
        return "  ".join(f"{objective.metric} {shown(value)}" for objective, value in pairs)
