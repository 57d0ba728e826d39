"""Seeds of independent random streams."""

from data.rng import stream_seed


def test_stream_seeds_differ_by_seed_and_name():
    seeds = {stream_seed(seed, name) for seed in range(20) for name in ("order", "augment", "noise", "")}
    assert len(seeds) == 80
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_stream_seed_is_the_same_in_every_process():
    assert stream_seed(0, "order") == 0x91374D56F0AE015B >> 1  # printf '0/order' | sha256sum


def test_stream_seeds_of_long_seeds_do_not_run_together():
    assert stream_seed(1, "1/a") != stream_seed(11, "/a")
