"""Which checkpoints are kept, and which one a training resumes from."""

from contextlib import suppress

from pipelines.workdir.checkpoints import checkpoint_steps, new_checkpoint, sound_checkpoint


def _save(folder, step):
    with new_checkpoint(folder, step) as path:
        (path / "state").write_text(f"at {step}")


def test_an_earlier_end_keeps_the_checkpoints_of_a_later_one(tmp_path):
    for step in (700, 800, 100, 200, 300):
        _save(tmp_path, step)
    assert [step for step, _ in checkpoint_steps(tmp_path)] == [200, 300, 700, 800]
    assert sound_checkpoint(tmp_path, 400) == (300, tmp_path / "step_300")
    assert sound_checkpoint(tmp_path) == (800, tmp_path / "step_800")


def test_last_two_checkpoints_are_kept_in_numeric_order(tmp_path):
    for step in (5, 10, 9, 100):
        _save(tmp_path, step)
    assert [step for step, _ in checkpoint_steps(tmp_path)] == [10, 100]


def test_damaged_checkpoint_is_passed_over(tmp_path):
    _save(tmp_path, 10)
    _save(tmp_path, 20)
    assert sound_checkpoint(tmp_path) == (20, tmp_path / "step_20")
    (tmp_path / "step_20" / "state").write_text("at 2x")
    assert sound_checkpoint(tmp_path) == (10, tmp_path / "step_10")
    (tmp_path / "step_10" / "checksums.json").unlink()
    assert sound_checkpoint(tmp_path) is None


def test_failed_save_leaves_nothing(tmp_path):
    with suppress(RuntimeError), new_checkpoint(tmp_path, 1) as path:
        (path / "state").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
