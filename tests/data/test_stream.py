"""The order of training images: shuffled, resumable at any step, the same for any number of workers."""

import threading

import numpy as np
import pytest

from data.stream import WINDOW, Ahead, Order, rank_part, shares


def epoch(order: Order, number: int) -> np.ndarray:
    first = number * order.batches_per_epoch
    return np.concatenate([order.batch(first + step) for step in range(order.batches_per_epoch)])


SHARDS = np.array([7, 1, 30, 12, 5, 9, 3, 25] * 5)


@pytest.mark.parametrize("number", [0, 1, 7])
@pytest.mark.parametrize("seed", [3, 0, 2**63 - 1], ids=["some", "zero", "largest"])
@pytest.mark.parametrize(("num", "batch_size", "shards"), [(60, 12, None), (60, 60, None), (460, 20, SHARDS)])
def test_epoch_is_a_permutation(num, batch_size, shards, seed, number):
    assert sorted(epoch(Order(num, batch_size, seed, shards), number)) == list(range(num))


def test_last_part_batch_is_dropped_and_changes_from_epoch_to_epoch():
    order = Order(65, 12, seed=3)
    assert order.batches_per_epoch == 5
    batch = order.batch(123)
    assert (batch.shape, batch.dtype) == ((12,), np.int64)
    seen = [set(epoch(order, number).tolist()) for number in range(6)]
    assert {len(images) for images in seen} == {60}
    assert set().union(*seen) == set(range(65))
    assert len(set(map(frozenset, seen))) > 1


@pytest.mark.parametrize("shards", [None, SHARDS], ids=["any order", "by shards"])
def test_epochs_and_seeds_are_shuffled_differently_and_come_back(shards):
    keys = [(seed, number) for seed in (0, 1) for number in (0, 1)]
    first, again = ([epoch(Order(460, 20, seed, shards), n) for seed, n in keys] for _ in range(2))
    assert np.array_equal(first, again)
    assert len({tuple(order.tolist()) for order in [*first, np.arange(460)]}) == 5


def test_batch_is_a_function_of_seed_and_step():
    sequential, jumping = Order(31, 4, seed=9), Order(31, 4, seed=9)
    expected = [sequential.batch(step).copy() for step in range(4000)]
    for step in (3999, 0, 7, 6, *np.random.default_rng(0).permutation(4000)[:40].tolist()):
        assert np.array_equal(jumping.batch(step), expected[step])


@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 7, 12])
def test_workers_share_the_batch_of_one(world_size):
    alone, step = Order(65, 12, seed=3), 17
    workers = [Order(65, 12, seed=3) for _ in range(world_size)]
    parts = [worker.batch(step)[rank_part(12, rank, world_size)] for rank, worker in enumerate(workers)]
    assert {len(part) for part in parts} <= {12 // world_size, -(-12 // world_size)}
    assert np.array_equal(np.concatenate(parts), alone.batch(step))


@pytest.mark.parametrize(("batch_size", "world_size", "accumulate"), [(24, 3, 2), (25, 3, 4), (31, 7, 3)])
def test_micro_batches_do_not_depend_on_the_number_of_workers(batch_size, world_size, accumulate):
    def micros(num: int) -> list[list[int]]:
        table = shares(batch_size, num, accumulate)
        ends = [np.cumsum(own) for own in zip(*table, strict=True)]
        parts = [
            np.split(rank_part(batch_size, rank, num, accumulate), ends[rank][:-1]) for rank in range(num)
        ]
        return [np.concatenate(own).tolist() for own in zip(*parts, strict=True)]

    table = np.array(shares(batch_size, world_size, accumulate))
    assert table.shape == (accumulate, world_size)
    assert max(np.ptp(table, axis=1).max(), np.ptp(table.sum(axis=0))) <= 1
    assert micros(world_size) == micros(1)
    assert sorted(index for micro in micros(1) for index in micro) == list(range(batch_size))


@pytest.mark.parametrize("num_images", [0, 11])
def test_split_smaller_than_a_batch_is_an_error(num_images):
    with pytest.raises(
        ValueError, match=f"a batch of 12 images needs as many in the split, not {num_images}"
    ):
        Order(num_images, 12, seed=0)


@pytest.mark.parametrize(("batch_size", "world_size", "accumulate"), [(11, 12, 1), (11, 4, 3)])
def test_worker_without_an_image_is_an_error(batch_size, world_size, accumulate):
    with pytest.raises(ValueError, match=f"{batch_size} has not an image for each of {world_size} workers"):
        rank_part(batch_size, 0, world_size, accumulate)


def test_order_by_shards_needs_a_window_of_them_at_a_time():
    order = Order(int(SHARDS.sum()), 20, seed=3, shards=SHARDS)
    shard_of = np.repeat(np.arange(len(SHARDS)), SHARDS)[epoch(order, 1)]
    first = {shard: np.flatnonzero(shard_of == shard)[0] for shard in range(len(SHARDS))}
    last = {shard: np.flatnonzero(shard_of == shard)[-1] for shard in range(len(SHARDS))}
    needed = [sum(first[s] <= place <= last[s] for s in first) for place in range(len(shard_of))]
    assert 1 < max(needed) <= WINDOW
    assert len(set(np.diff(shard_of[:50]))) > 2  # mixed within the window


def test_batches_made_ahead_are_those_made_at_once():
    made = []
    ahead = Ahead(lambda step: made.append(step) or step * 10, end=8)
    assert [ahead(step) for step in range(8)] == [step * 10 for step in range(8)]
    assert sorted(made) == list(range(8))


def test_batches_are_made_ahead_up_to_the_end_alone():
    started = [threading.Event() for _ in range(6)]
    ahead = Ahead(lambda step: started[step].set() or step, end=6, depth=3)
    assert ahead(2) == 2
    assert all(started[step].wait(10) for step in (3, 4, 5))
    assert not started[0].is_set()


def test_skipped_batches_are_forgotten_and_none_lies_beyond_the_end():
    ahead = Ahead(lambda step: step, end=6)
    assert [ahead(0), ahead(4)] == [0, 4]
    assert set(ahead._made) == {5}
    for step in (-1, 6):
        with pytest.raises(ValueError, match=f"step {step} lies outside 0 to 5"):
            ahead(step)


def test_a_batch_that_is_written_to_leaves_the_order_alone():
    order = Order(10, 4, seed=0)
    before = order.batch(0).copy()
    order.batch(0)[:] = 0
    assert np.array_equal(order.batch(0), before)


def test_an_error_in_a_batch_comes_with_that_batch():
    def make(step: int) -> int:
        if step == 2:
            raise OSError("shard is gone")
        return step

    ahead = Ahead(make, end=4)
    assert [ahead(0), ahead(1)] == [0, 1]
    with pytest.raises(OSError, match="shard is gone"):
        ahead(2)
