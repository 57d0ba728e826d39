"""Parts of a stage: what is finished stays, what is lost, shortened or made otherwise is made again."""

from typing import ClassVar

import pytest
import torch

from pipelines.compute.cluster import session
from pipelines.stages import counterfactuals, evaluate_classifier, reference_stats
from pipelines.stages.parts import Part, Parts
from tests.support.stages import make_context


class Squares:
    """A part holds its number squared, times a factor, and a file beside it."""

    made: ClassVar[list[int]] = []

    def __init__(self, context):
        self.context = context

    def squared(self, part: Part, factor: int):
        Squares.made.append(part.number)
        text = part.beside(".txt")
        text.write_text(str(part.number))
        return {"square": torch.tensor([factor * part.number**2])}, [text]


@pytest.fixture
def squares(tmp_path):
    context = make_context(tmp_path, {})

    def make(num: int, factor: int = 1) -> list[Part]:
        Squares.made.clear()
        return Parts(context, Squares).make(Squares.squared, num, "squares", factor)

    return make


@pytest.mark.parametrize("damage", ["shortened tensors", "lost tensors", "shortened text", "lost record"])
def test_damaged_part_is_made_again_and_the_others_stay(squares, damage):
    parts = squares(3)
    assert Squares.made == [0, 1, 2]
    how, what = damage.split()
    file = {"tensors": parts[1].tensors, "text": parts[1].beside(".txt"), "record": parts[1].record}[what]
    if how == "lost":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-1])
    squares(3)
    assert Squares.made == [1]
    squares(3)
    assert Squares.made == []


def test_part_made_with_other_arguments_is_made_again(squares):
    squares(2)
    (_, last) = squares(2, factor=3)
    assert Squares.made == [0, 1]
    assert last.beside(".txt").read_text() == "1"


@pytest.mark.ray
@pytest.mark.slow
def test_two_workers_make_what_one_makes(inputs, tmp_path):
    """Every stage that has parts: the same metrics and the same files, bit for bit."""
    changes = (
        "evaluate.robust.num_images=40",
        "evaluate.robust.pgd_steps=2",
        "evaluate.batch_size=12",
        "evaluate.ood.steps=2",
    )
    stages = {
        "reference_stats": reference_stats,
        "evaluate_classifier": evaluate_classifier,
        "evaluate_classifier.counterfactuals": counterfactuals,
    }
    with session(None, 2, 0, 1, also=("tests",)):
        for node, stage in stages.items():
            facts, files = [], []
            for num in (1, 2):
                own = (*changes, f"compute.num_workers={num}")
                context = make_context(tmp_path / node / str(num), inputs, *own, node=node)
                facts.append(stage.run(context))
                files.append({f.name: f.read_bytes() for f in context.folder.rglob("*") if f.is_file()})
            assert facts[0] == facts[1]
            assert files[0] == files[1]
