"""The search: one Optuna study, of which the driver is the only writer.

Everything that a sweep must not lose lies in the study: parameters, figures, causes, rungs, repeats over
seeds. Nothing else is needed to go on after the driver died: trials that it left running are asked for first.
"""

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler
from optuna.trial import FrozenTrial, Trial, TrialState

from data.rng import stream_seed
from pipelines.settings import Settings
from sweeps.objectives import Objective
from sweeps.space import Space

SAMPLERS = ("tpe", "nsga2", "grid")
_IDENTITY = "identity"  # of the sweep that a study is of
_FIRST = 0  # the trial that holds the recipe's own settings
_ENDS = "ends_at_step"  # note of a trial that its rung ends
_STARTUP = 8  # trials drawn at random before TPE has anything to go by
_POPULATION = 10  # of NSGA-II


class NameTakenError(Exception):
    """The storage holds another sweep's study under this name."""


@dataclass(frozen=True)
class Asked:
    """A trial to run: its number, and its value for each parameter."""

    number: int
    values: Mapping[str, Any]


class Search:
    """A sweep's trials. `num_trials` counts the recipe itself, which comes first."""

    def __init__(
        self,
        storage: str,
        name: str,
        identity: str,
        space: Space,
        objectives: Sequence[Objective],
        settings: Settings,
        *,
        num_trials: int,
        sampler: str,
        looks: Sequence[int] = (),
    ) -> None:
        """Opens the study, or makes it. Trials that a dead driver left running wait to be run again.

        identity: tells the sweep from others of its name; raises NameTakenError when the study is another's.
        looks: the training steps at which trials are compared and ended early; only with one objective.
        """
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.simplefilter("ignore", ExperimentalWarning)
        self.name, self.identity, self.space = name, identity, space
        self.objectives, self.settings = objectives, settings
        self.num_trials, self.sampler = num_trials, sampler
        pruner = (
            SuccessiveHalvingPruner(looks[0], space.rungs.factor) if space.rungs and looks else NopPruner()
        )
        self.study = optuna.create_study(
            storage=storage,
            study_name=name,
            directions=[objective.direction for objective in objectives],
            pruner=pruner,
            load_if_exists=True,
        )
        own = self.study.user_attrs.get(_IDENTITY, identity)
        if own != identity:
            raise NameTakenError(name)
        self.study.set_user_attr(_IDENTITY, identity)
        self.study.set_metric_names([objective.label for objective in objectives])
        if not self.study.get_trials(deepcopy=False):
            for point in space.grid(settings) if sampler == "grid" else [space.own(settings)]:
                self.study.enqueue_trial(point)
        self._running: dict[int, Trial] = {}
        self.requeue()

    @property
    def trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    @property
    def finished(self) -> list[FrozenTrial]:
        """Measured in full."""
        return [trial for trial in self.trials if trial.state == TrialState.COMPLETE]

    @property
    def first(self) -> FrozenTrial | None:
        """The recipe itself, once it is measured."""
        return next((trial for trial in self.finished if trial.number == _FIRST), None)

    @property
    def is_running(self) -> bool:
        """True while a trial has been asked for and not been told of."""
        return bool(self._running)

    @property
    def complete(self) -> bool:
        """True when no trial is left to ask for."""
        trials = self.trials
        return len(trials) >= self.num_trials and all(t.state != TrialState.WAITING for t in trials)

    def requeue(self) -> None:
        """Trials that nobody runs any more keep their number and settings, and are asked for first."""
        for trial in self.trials:
            if trial.state == TrialState.RUNNING:
                self.study._storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)
        self._running.clear()

    def ask(self) -> Asked | None:
        """The next trial to run; None when all have been asked for.

        Random numbers are a function of the recipe's seed and the trial's number, so a search that was cut
        short goes on as it would have.
        """
        if self.complete:
            return None
        trials = self.trials
        waiting = [trial.number for trial in trials if trial.state == TrialState.WAITING]
        number = min(waiting, default=len(trials))
        self.study.sampler = self._sampler(stream_seed(self.settings.seed, f"sweep/{number}") % (1 << 32))
        trial = self.study.ask()
        self._running[trial.number] = trial
        return Asked(trial.number, self.space.suggest(trial, self.settings))

    def prunes(self, number: int, step: int, value: float) -> bool:
        """Notes the score at a rung; True when the trial is not worth more. The recipe itself always is.

        A trial that is asked about again, since a driver died over the answer, gets the same one.
        """
        trial = self._running[number]
        if trial.user_attrs.get(_ENDS) == step:
            return True
        if step not in self.trials[number].intermediate_values:
            trial.report(value, step)
        ends = trial.should_prune() and number != _FIRST  # the pruner learns of the recipe's score too
        if ends:
            trial.set_user_attr(_ENDS, step)
        return ends

    def note_work(self, number: int, run_id: str, executed: Sequence[str], seconds: float) -> None:
        """What was done for a trial until now, whatever becomes of it. seconds: of its stages together."""
        trial = self._running[number]
        before = trial.user_attrs
        trial.set_user_attr("run_id", run_id)
        trial.set_user_attr("executed", [*before.get("executed", []), *executed])
        trial.set_user_attr("seconds", round(before.get("seconds", 0.0) + seconds, 1))

    def tell(self, number: int, values: Sequence[float], facts: Mapping[str, Any]) -> None:
        """The trial is measured. facts: whatever else is worth knowing of it, as JSON can hold it."""
        self._end(number, TrialState.COMPLETE, facts, values)

    def tell_pruned(self, number: int, facts: Mapping[str, Any]) -> None:
        self._end(number, TrialState.PRUNED, facts)

    def tell_failed(self, number: int, cause: str, facts: Mapping[str, Any]) -> None:
        self._end(number, TrialState.FAIL, {**facts, "cause": cause})

    def note_repeat(self, number: int, seed: int, facts: Mapping[str, Any]) -> None:
        """Figures of a trial's settings under another seed; the study keeps them, as trials are closed."""
        self.study.set_user_attr(f"repeat/{number}/{seed}", dict(facts))

    def repeats(self, number: int) -> dict[int, dict[str, Any]]:
        """What was noted of a trial's repeats, by seed."""
        prefix = f"repeat/{number}/"
        noted = self.study.user_attrs.items()
        return {int(key.removeprefix(prefix)): facts for key, facts in noted if key.startswith(prefix)}

    def _end(
        self, number: int, state: TrialState, facts: Mapping[str, Any], values: Sequence[float] | None = None
    ) -> None:
        trial = self._running.pop(number)
        for name, fact in json.loads(json.dumps(facts)).items():
            trial.set_user_attr(name, fact)
        self.study.tell(trial, values, state)

    def _sampler(self, seed: int) -> BaseSampler:
        if self.sampler == "nsga2":
            return NSGAIISampler(population_size=_POPULATION, seed=seed)
        conditional = any(parameter.when for parameter in self.space.parameters)
        return TPESampler(
            n_startup_trials=_STARTUP,
            multivariate=True,  # settings of one attack belong together
            group=conditional,
            constant_liar=True,  # trials that run beside this one are not tried again
            seed=seed,
        )
