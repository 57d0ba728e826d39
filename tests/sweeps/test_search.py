"""The search: what is asked for after a crash, how trials end, who is ended early."""

import pytest
from optuna.trial import TrialState

from sweeps.objectives import Objective
from sweeps.search import NameTakenError

ONE = (Objective("frechet_distance", maximize=False),)
CHOICES = """
settings:
  stage2.objective: {choices: [dat, at, jem]}
  stage2.loss.energy_weight: {choices: [1.0, 2.0], when: {stage2.objective: dat}}
"""


def _measured(search, number):
    size = search.trials[number].params["stage2.contrastive.step_size"]
    search.tell(number, [abs(size - 0.4), size][: len(search.objectives)], {"run_id": f"run {number}"})


def _run(search, most=100):
    for _ in range(most):
        asked = search.ask()
        if asked is None:
            return
        _measured(search, asked.number)


def test_the_recipe_comes_first(open_search):
    asked = open_search().ask()
    assert asked.number == 0
    assert asked.values == {"stage2.contrastive.step_size": 0.3, "stage2.contrastive.max_steps": 40}


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_a_search_that_died_goes_on_as_it_would_have(open_search, sampler):
    whole = open_search("whole.db", trials=11, sampler=sampler)
    _run(whole)
    _run(open_search("cut.db", trials=11, sampler=sampler), most=5)
    dying = open_search("cut.db", trials=11, sampler=sampler)
    lost = dying.ask()  # nobody hears of it again
    resumed = open_search("cut.db", trials=11, sampler=sampler)
    again = resumed.ask()
    assert (again.number, again.values) == (lost.number, lost.values) == (5, lost.values)
    _measured(resumed, again.number)
    _run(resumed)
    assert [t.params for t in resumed.trials] == [t.params for t in whole.trials]
    assert [t.values for t in resumed.trials] == [t.values for t in whole.trials]
    assert {t.state for t in resumed.trials} == {TrialState.COMPLETE}


def test_several_that_were_running_are_all_asked_for_again(open_search):
    first = open_search()
    lost = [first.ask() for _ in range(3)]
    again = open_search()
    assert [again.ask() for _ in range(3)] == lost
    assert again.ask().number == 3
    assert again.ask() is None


def test_another_sweeps_study_is_left_alone(open_search):
    search = open_search(trials=2)
    search.ask()
    with pytest.raises(NameTakenError):
        open_search(trials=2, identity="of another")
    assert [trial.state for trial in search.trials] == [TrialState.RUNNING]


def test_work_is_noted_whatever_becomes_of_a_trial(open_search):
    search = open_search(trials=1)
    search.note_work(search.ask().number, "a run", ["train_stage2"], 3.0)
    again = open_search(trials=1)
    again.note_work(again.ask().number, "a run", ["sample"], 2.0)
    _measured(again, 0)
    [trial] = again.trials
    assert (trial.user_attrs["executed"], trial.user_attrs["seconds"]) == (["train_stage2", "sample"], 5.0)


def test_more_trials_may_be_asked_for_later(open_search):
    _run(open_search(trials=2))
    more = open_search(trials=3)
    assert not more.complete
    _run(more)
    assert len(more.trials) == 3
    assert more.complete


def test_failed_trials_count_and_keep_their_cause(open_search):
    search = open_search(trials=2)
    search.tell_failed(search.ask().number, "train_stage2: FloatingPointError: diverged", {"run_id": "a"})
    _run(search)
    failed, done = open_search(trials=2).trials
    assert failed.state == TrialState.FAIL
    assert failed.user_attrs["cause"] == "train_stage2: FloatingPointError: diverged"
    assert done.state == TrialState.COMPLETE
    assert search.first is None


def test_rungs_end_the_worse_and_never_the_recipe(open_search):
    search = open_search(objectives=ONE, trials=4, looks=(100, 300))
    numbers = [search.ask().number for _ in range(4)]
    ended = {
        number: search.prunes(number, 100, score) for number, score in zip(numbers, (9, 1, 2, 3), strict=True)
    }
    assert ended == {0: False, 1: False, 2: True, 3: True}
    search.tell_pruned(2, {})
    assert search.trials[2].state == TrialState.PRUNED
    assert open_search(objectives=ONE, looks=(100, 300)).trials[2].intermediate_values == {100: 2.0}


def test_a_trial_whose_end_was_not_told_of_ends_again(open_search):
    search = open_search(objectives=ONE, trials=2, looks=(100, 300))
    first, second = search.ask(), search.ask()
    search.prunes(first.number, 100, 1.0)
    assert search.prunes(second.number, 100, 2.0)  # and the driver dies
    again = open_search(objectives=ONE, trials=2, looks=(100, 300))
    assert [again.ask().number, again.ask().number] == [0, 1]
    assert not again.prunes(0, 100, 1.0)
    assert again.prunes(1, 100, 2.0)


def test_repeats_over_seeds_are_remembered(open_search):
    search = open_search(trials=1)
    _run(search)
    search.note_repeat(0, 1, {"values": [0.1, 0.5]})
    search.note_repeat(0, 2, {"cause": "diverged"})
    assert open_search(trials=1).repeats(0) == {1: {"values": [0.1, 0.5]}, 2: {"cause": "diverged"}}


def test_a_grid_is_every_point_once_and_the_recipe_first(open_search):
    search = open_search(sampler="grid", trials=4, text=CHOICES)
    weight, objective = "stage2.loss.energy_weight", "stage2.objective"
    points = []
    while asked := search.ask():
        points.append(asked.values)
        search.tell(asked.number, [1.0, 1.0], {})
        search = open_search(sampler="grid", trials=4, text=CHOICES)
    assert points == [
        {objective: "dat", weight: 1},
        {objective: "dat", weight: 2},
        {objective: "at"},
        {objective: "jem"},
    ]
