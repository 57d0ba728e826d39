"""N steps == k steps + SIGKILL + the other N - k: everything that a checkpoint holds, bit for bit."""

import pytest

from tests.support.resuming import STEPS, Training, check_cut

pytestmark = pytest.mark.slow


PLACES = {"new epoch": ("train_stage1", 11), "new T": ("train_stage2", 6)}


@pytest.mark.parametrize(("stage", "cut"), PLACES.values(), ids=PLACES)
def test_killed_training_ends_as_one_that_was_not(inputs, tmp_path, stage, cut):
    folder = inputs["data"].parent
    whole = Training(tmp_path / "whole", "", folder, stage, STEPS).end()
    check_cut("", folder, whole, tmp_path, stage, cut)
