"""Who is best: fronts, the recipe's own place, spreads, how well rungs foretell."""

import optuna
import pytest

from sweeps.objectives import Objective
from sweeps.ranking import dominates, finalists, front, rank_correlations, ranked, spread

DISTANCE, ROBUST = Objective("frechet_distance", maximize=False), Objective("robust_accuracy", maximize=True)
BOTH = (DISTANCE, ROBUST)
POINTS = {0: (0.20, 0.50), 1: (0.10, 0.30), 2: (0.15, 0.55), 3: (0.30, 0.60), 4: (0.25, 0.40)}


def test_front_holds_what_no_other_beats():
    assert dominates(POINTS[2], POINTS[0], BOTH)
    assert not dominates(POINTS[0], POINTS[0], BOTH)
    assert front(POINTS, BOTH) == [1, 2, 3]


def test_winner_is_no_worse_than_the_recipe_in_any_objective():
    assert ranked(POINTS, BOTH, first=0)[0] == 2
    without = {number: point for number, point in POINTS.items() if number != 2}
    assert ranked(without, BOTH, first=0)[0] == 0
    assert ranked({}, BOTH, first=None) == []


def test_without_the_recipe_the_nearest_to_the_ideal_wins():
    points = {1: (0.0, 0.0), 2: (0.2, 0.9), 3: (1.0, 1.0)}
    assert ranked(points, BOTH, first=None) == [2, 1, 3]


def test_one_objective_in_either_direction():
    points = {0: (0.2,), 1: (0.1,), 2: (0.3,)}
    assert ranked(points, (DISTANCE,), first=0) == [1]
    assert ranked(points, (ROBUST,), first=0) == [2]
    assert finalists(points, (DISTANCE,), first=0) == [0, 1, 2]


def test_spread_over_seeds():
    own = spread(3, [(1.0, 0.5), (2.0, 0.5), (3.0, 0.5)])
    assert (own.mean, own.std, own.num_seeds) == ((2.0, 0.5), (1.0, 0.0), 3)
    assert spread(3, [(1.0,)]).std is None


@pytest.mark.parametrize(("scores", "rho"), [((1, 2, 3, 4), 1.0), ((4, 3, 2, 1), -1.0)])
def test_rank_correlation_of_rungs_with_full_figures(scores, rho):
    study = optuna.create_study()
    for score, value in zip(scores, (10.0, 20.0, 30.0, 40.0), strict=True):
        trial = study.ask()
        trial.report(score, 100)
        study.tell(trial, value)
    ended = study.ask()
    ended.report(9, 100)
    study.tell(ended, state=optuna.trial.TrialState.PRUNED)
    assert rank_correlations(study.trials) == {100: (pytest.approx(rho), 4)}


def test_too_few_trials_tell_nothing():
    study = optuna.create_study()
    for score in (1, 2):
        trial = study.ask()
        trial.report(score, 100)
        study.tell(trial, score)
    assert rank_correlations(study.trials) == {}
