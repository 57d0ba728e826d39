"""The order of training images: shuffled, resumable at any step, the same for any number of workers."""

import threading

import numpy as np
import pytest

from data.rng import stream_seed
from data.stream import WINDOW, Ahead, Order, rank_part


def epoch(order: Order, number: int) -> np.ndarray:
    first = number * order.batches_per_epoch
    return np.concatenate([order.batch(first + step) for step in range(order.batches_per_epoch)])


@pytest.mark.parametrize("number", [0, 1, 7])
def test_epoch_is_a_permutation(number):
    assert sorted(epoch(Order(60, 12, seed=3), number)) == list(range(60))


@pytest.mark.parametrize("number", [0, 1, 7])
def test_last_part_batch_is_dropped(number):
    order = Order(65, 12, seed=3)
    assert order.batches_per_epoch == 5
    seen = epoch(order, number)
    assert len(seen) == len(set(seen)) == 60
    assert set(seen) <= set(range(65))


def test_dropped_images_change_from_epoch_to_epoch():
    order = Order(65, 12, seed=3)
    dropped = [frozenset(range(65)) - set(epoch(order, number)) for number in range(6)]
    assert len(set(dropped)) > 1
    assert set().union(*(epoch(order, number).tolist() for number in range(6))) == set(range(65))


@pytest.mark.parametrize("step", [0, 4, 5, 123])
def test_batches_have_the_asked_size_and_type(step):
    batch = Order(65, 12, seed=0).batch(step)
    assert (batch.shape, batch.dtype) == ((12,), np.int64)


def test_epochs_and_seeds_are_shuffled_differently():
    orders = [epoch(Order(60, 12, seed), number) for seed in (0, 1) for number in (0, 1)]
    orders.append(np.arange(60))
    assert len({tuple(order.tolist()) for order in orders}) == 5


def test_batch_is_a_function_of_seed_and_step():
    sequential = Order(31, 4, seed=9)
    expected = [sequential.batch(step).copy() for step in range(40)]
    jumping = Order(31, 4, seed=9)
    for step in np.random.default_rng(0).permutation(40):
        assert np.array_equal(jumping.batch(int(step)), expected[step])


def test_far_step_is_the_one_reached_in_sequence():
    far, sequential = 10**6, Order(997, 4, seed=9)
    for step in range(far + 1):
        reached = sequential.batch(step)
    assert np.array_equal(Order(997, 4, seed=9).batch(far), reached)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 12])
def test_workers_share_the_batch_of_one(world_size):
    alone, step = Order(65, 12, seed=3), 17
    workers = [Order(65, 12, seed=3) for _ in range(world_size)]
    parts = [worker.batch(step)[rank_part(12, rank, world_size)] for rank, worker in enumerate(workers)]
    assert {len(part) for part in parts} == {12 // world_size}
    assert np.array_equal(np.concatenate(parts), alone.batch(step))


@pytest.mark.parametrize("seed", [0, 2**63 - 1], ids=["zero", "largest"])
def test_extreme_seeds(seed):
    assert sorted(epoch(Order(8, 4, seed), 0)) == list(range(8))


def test_whole_split_as_one_batch():
    order = Order(5, 5, seed=0)
    assert order.batches_per_epoch == 1
    assert sorted(order.batch(3)) == list(range(5))


@pytest.mark.parametrize("num_images", [0, 11])
def test_split_smaller_than_a_batch_is_an_error(num_images):
    with pytest.raises(
        ValueError, match=f"a batch of 12 images needs as many in the split, not {num_images}"
    ):
        Order(num_images, 12, seed=0)


@pytest.mark.parametrize(("batch_size", "world_size"), [(12, 5), (3, 2), (1, 2)])
def test_uneven_split_over_workers_is_an_error(batch_size, world_size):
    with pytest.raises(ValueError, match=f"{batch_size} cannot be split evenly over {world_size} workers"):
        rank_part(batch_size, 0, world_size)


def test_stream_seeds_differ_by_seed_and_name():
    seeds = {stream_seed(seed, name) for seed in range(20) for name in ("order", "augment", "noise", "")}
    assert len(seeds) == 80
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_stream_seed_is_the_same_in_every_process():
    assert stream_seed(0, "order") == 0x91374D56F0AE015B >> 1  # printf '0/order' | sha256sum


def test_stream_seeds_of_long_seeds_do_not_run_together():
    assert stream_seed(1, "1/a") != stream_seed(11, "/a")


SHARDS = np.array([7, 1, 30, 12, 5, 9, 3, 25] * 5)


@pytest.mark.parametrize("number", [0, 3])
def test_order_by_shards_is_a_permutation_too(number):
    order = Order(int(SHARDS.sum()), 20, seed=3, shards=SHARDS)
    assert sorted(epoch(order, number)) == list(range(SHARDS.sum()))


def test_order_by_shards_needs_a_window_of_them_at_a_time():
    order = Order(int(SHARDS.sum()), 20, seed=3, shards=SHARDS)
    shard_of = np.repeat(np.arange(len(SHARDS)), SHARDS)[epoch(order, 1)]
    first = {shard: np.flatnonzero(shard_of == shard)[0] for shard in range(len(SHARDS))}
    last = {shard: np.flatnonzero(shard_of == shard)[-1] for shard in range(len(SHARDS))}
    needed = [sum(first[s] <= place <= last[s] for s in first) for place in range(len(shard_of))]
    assert 1 < max(needed) <= WINDOW
    assert len(set(np.diff(shard_of[:50]))) > 2  # mixed within the window


def test_order_by_shards_changes_with_epoch_and_seed_and_comes_back():
    first, again, other = (Order(int(SHARDS.sum()), 20, seed=seed, shards=SHARDS) for seed in (3, 3, 4))
    assert np.array_equal(epoch(first, 2), epoch(again, 2))
    assert not np.array_equal(epoch(first, 2), epoch(first, 1))
    assert not np.array_equal(epoch(first, 2), epoch(other, 2))


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
