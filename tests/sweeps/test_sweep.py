"""What runs next, and what is made of what comes back: results as trials would send them."""

from dataclasses import replace

import pytest

from pipelines.recipe import load_recipe
from sweeps.jobs import Job, Result
from sweeps.objectives import Objective
from sweeps.sweep import Sweep

ROBUST = (Objective("robust_accuracy", maximize=True),)


def _done(distance: float, robust: float, **more: object) -> Result:
    metrics = {"frechet_distance": distance, "robust_accuracy": robust}
    return Result("done", None, metrics=metrics, executed=("train_stage2",), seconds=5.0, **more)


def _states(sweep: Sweep) -> list[str]:
    return [trial.state.name for trial in sweep.search.trials]


@pytest.mark.parametrize(
    "result",
    [
        Result("failed", None, cause="preprocess: no disk", failed=("preprocess",)),
        Result("broken", None, cause="preprocess: no disk"),
    ],
    ids=["shared-stage", "store"],
)
def test_a_failure_of_what_all_trials_share_ends_the_sweep_and_costs_no_trial(result, make):
    sweep = make()
    first, second = sweep.next(), sweep.next()
    sweep.ended(first, result)
    assert "preprocess: no disk" in sweep.broken
    assert sweep.next() is None
    sweep.ended(second, Result("interrupted", None))
    assert sweep.exhausted()
    sweep.search.requeue()
    assert _states(sweep) == ["WAITING", "WAITING"]


def test_a_trials_own_failure_is_its_own(make):
    sweep = make()
    sweep.ended(
        sweep.next(), Result("failed", None, cause="train_stage2: diverged", failed=("train_stage2",))
    )
    assert not sweep.broken
    assert sweep.search.trials[0].user_attrs["cause"] == "train_stage2: diverged"
    assert sweep.next().number == 1


def test_a_process_that_died_is_told_of(make):
    sweep = make()
    lost: list[Job] = []
    sweep.on_lost = lambda job, why: lost.append(job)
    job = sweep.next()
    sweep.ended(job, None)
    assert lost == [job]
    assert "died" in sweep.search.trials[0].user_attrs["cause"]


def test_an_objective_that_is_absent_is_a_failure_and_never_a_number(make):
    sweep = make()
    sweep.ended(sweep.next(), Result("done", None, metrics={"frechet_distance": 0.1}))
    assert _states(sweep) == ["FAIL"]
    assert sweep.search.trials[0].user_attrs["cause"] == "robust_accuracy could not be computed"
    assert sweep.best() is None


def test_a_point_that_the_recipe_refuses_fails_at_once_with_its_words(make):
    text = """
settings:
  stage2.contrastive.start_steps: {low: 1, high: 40}
  stage2.contrastive.max_steps: {low: 10, high: 40}
"""
    sweep = make(text=text, trials=30)
    numbers = []
    while (job := sweep.next()) is not None:
        numbers.append(job.number)
        sweep.ended(job, _done(0.1, 0.5))
    causes = [trial.user_attrs.get("cause", "") for trial in sweep.search.trials]
    refused = [number for number, cause in enumerate(causes) if "must be at least start_steps" in cause]
    assert refused
    assert sorted([*numbers, *refused]) == list(range(30))


def test_rungs_are_levels_before_the_full_one_and_count_once(make):
    sweep = make(objectives=ROBUST, trials=2)
    job = sweep.next()
    assert [level.step for level in job.levels] == [100, 300, None]
    assert [level.settings.stage2.until for level in job.levels] == [100, 300, None]
    assert [level.settings.evaluate.robust.attack for level in job.levels] == ["pgd", "pgd", "autoattack"]
    other = sweep.next()
    looks = [
        Result("rung", 100, metrics={"pgd_accuracy": score}, executed=("sample",), seconds=2.0)
        for score in (0.5, 0.4)
    ]
    assert not sweep.looked(job, looks[0])
    assert sweep.looked(other, looks[1])
    sweep.ended(other, looks[1])
    sweep.ended(job, _done(0.1, 0.45))
    first, second = sweep.search.trials
    assert (first.user_attrs["executed"], first.user_attrs["seconds"]) == (["sample", "train_stage2"], 7.0)
    assert second.state.name == "PRUNED"
    assert (second.user_attrs["executed"], second.user_attrs["seconds"]) == (["sample"], 2.0)
    assert sweep.points() == {0: (0.45,)}


def test_winner_over_seeds_is_the_best_by_its_mean_and_failed_repeats_win_nothing(make):
    sweep = make(seeds=2)
    own = {0: (0.20, 0.5), 1: (0.10, 0.6), 2: (0.15, 0.7)}
    again = {0: (0.20, 0.5), 1: (0.60, 0.6)}  # the luck of one seed; another that breaks
    order = []
    while (job := sweep.next()) is not None:
        order.append((job.number, job.seed))
        if job.seed is None:
            sweep.ended(job, _done(*own[job.number]))
        elif job.number in again:
            assert job.recipe.settings.seed == job.levels[-1].settings.seed == 1
            sweep.ended(job, _done(*again[job.number]))
        else:
            sweep.ended(job, Result("failed", None, cause="diverged", failed=("train_stage2",)))
    assert sorted(order, key=str) == sorted([(n, seed) for n in range(3) for seed in (None, 1)], key=str)
    assert sweep.exhausted()
    assert sweep.order()[0] in (1, 2)
    assert [spread.number for spread in sweep.spreads()] == [0, 1]
    assert sweep.best() == 0


def test_more_seeds_leave_the_winner_by_mean_until_they_are_there(make):
    sweep = make(trials=2, seeds=2)
    for number, distance in ((0, 0.2), (1, 0.1)):
        assert sweep.next().number == number
        sweep.search.tell(number, [distance, 0.5], {})
    assert sweep.best() == 1
    sweep.search.note_repeat(0, 1, {"values": [0.2, 0.5]})
    sweep.search.note_repeat(1, 1, {"values": [0.9, 0.5]})
    assert sweep.best() == 0
    sweep.num_seeds = 5
    assert sweep.best() == 0
    assert [own.num_seeds for own in sweep.spreads()] == [2, 2]


def test_looks_come_before_the_end_that_is_asked_for(make):
    assert make(objectives=ROBUST).study.looks == (100, 300)
    recipe, _ = load_recipe("digits", ["stage2.until=150"])
    study = replace(make(objectives=ROBUST).study, recipe=recipe)
    assert max(study.looks) < 150


def test_repeats_wait_for_the_last_trial(make):
    sweep = make(trials=2, seeds=2)
    first, second = sweep.next(), sweep.next()
    sweep.ended(first, _done(0.2, 0.5))
    assert sweep.next() is None
    assert not sweep.exhausted()
    sweep.ended(second, _done(0.1, 0.6))
    repeats = [sweep.next(), sweep.next()]
    assert [(job.number, job.seed) for job in repeats] == [(0, 1), (1, 1)]
