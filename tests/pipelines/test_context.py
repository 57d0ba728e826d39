"""A stage sees the settings that its node declares, and no others."""

import pickle

import pytest

from pipelines.context import select
from tests.support.recipes import settings_of


def test_only_declared_settings_are_there():
    settings = settings_of("digits")
    view = select(settings, ["seed", "stage1", "data.in", "evaluate.robust.eps"])
    assert view.seed == 0
    assert view.stage1.optimizer.lr == settings.stage1.optimizer.lr
    assert view.data.in_ == "digits"
    assert view.evaluate.robust.eps == 0.75
    for read in (lambda: view.stage2, lambda: view.data.image_size, lambda: view.evaluate.robust.norm):
        with pytest.raises(AttributeError, match="not among those the node reads"):
            read()
    assert pickle.loads(pickle.dumps(view)).stage1 == settings.stage1
