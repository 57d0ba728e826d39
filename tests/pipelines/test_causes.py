"""The one line that a failure ends in."""

import pytest
from ray.exceptions import RayTaskError
from ray.train import ControllerError

from pipelines.causes import cause


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (
            RayTaskError("start", "traceback", RuntimeError("no CUDA device\nmore")),
            "RuntimeError: no CUDA device",
        ),
        (TimeoutError(), "the training workers could not all be started: a node may be gone"),
    ],
    ids=["raised in a worker", "anything else"],
)
def test_training_workers_that_do_not_start(failure, told):
    assert cause(ControllerError(failure)) == told
