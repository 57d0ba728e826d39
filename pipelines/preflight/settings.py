"""What needs the settings and the files they name, and nothing else."""

from collections.abc import Callable, Iterator
from functools import partial

from data.augment_text import parse_augment
from pipelines.preflight.files import check_checkpoint, check_reference, check_weights
from pipelines.preflight.images import check_images, check_seeds
from pipelines.problems import Problem
from pipelines.settings import Settings


def check_settings(settings: Settings, *, trust_checkpoint: bool = False) -> list[Problem]:
    """What needs the settings and the files they name, and nothing else.

    trust_checkpoint: unpickle the file that stage 1 starts from.
    """
    checks: list[Callable[[Settings], Iterator[Problem]]] = [
        _check_workers,
        partial(check_checkpoint, trusted=trust_checkpoint),
        check_weights,
        check_reference,
        _check_augment,
        _check_buffer,
        _check_choice,
    ]
    problems = [problem for check in checks for problem in check(settings)]
    return problems + list(check_images(settings)) + list(check_seeds(settings))


def _check_workers(settings: Settings) -> Iterator[Problem]:
    workers = settings.compute.num_workers
    for name, stage in (("stage1", settings.stage1), ("stage2", settings.stage2)):
        if stage.batch_size < (least := workers * stage.accumulate):
            parts = f"{workers} workers x {stage.accumulate} micro-batches"
            allowed = f"must be at least {least}: an image for each of {parts}"
            yield Problem(f"{name}.batch_size", str(stage.batch_size), allowed)


def _check_augment(settings: Settings) -> Iterator[Problem]:
    """What is cut off or covered leaves something to see."""
    size, stage2 = settings.data.image_size, settings.stage2
    texts = {
        "stage1.augment": settings.stage1.augment,
        "stage2.augment": stage2.augment,
        "stage2.augment_energy": stage2.augment_energy,
        "stage2.augment_ood": stage2.augment_ood,
    }
    for name, text in texts.items():
        spec = parse_augment(text)
        if spec and (2 * spec.crop > size or spec.cutout >= size):
            allowed = f"images are {size} pixels a side: pad by half of it or less, and cut out less than it"
            yield Problem(name, repr(text), allowed)


def _check_buffer(settings: Settings) -> Iterator[Problem]:
    if settings.stage2.objective == "jem" and settings.compute.num_workers > 1:
        given = f"{settings.compute.num_workers} with stage2.objective=jem"
        yield Problem("compute.num_workers", given, "its replay buffer belongs to one worker; use 1")


def _check_choice(settings: Settings) -> Iterator[Problem]:
    if settings.stage2.select == "best_frechet" and settings.sample.seeds == "test":
        allowed = (
            "stage2.select: best_frechet measures against the test images; use ood, or stage2.select: last"
        )
        yield Problem("sample.seeds", "'test'", allowed)
