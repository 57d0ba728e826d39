"""Accuracy, AUROC and false positives against hand values and scikit-learn."""

import pytest
import torch
from sklearn.metrics import roc_auc_score

from atjem.scores import accuracy, auroc, fpr95

RNG = torch.Generator().manual_seed(0)
POSITIVE, NEGATIVE = torch.randn(37, generator=RNG) + 0.5, torch.randn(53, generator=RNG)
SCORES = {
    "overlapping": (POSITIVE, NEGATIVE),
    "many-ties": (POSITIVE.round(), NEGATIVE.round()),
    "all-tied": (torch.ones(4), torch.ones(3)),
    "separated": (POSITIVE + 100, NEGATIVE),
    "reversed": (POSITIVE - 100, NEGATIVE),
    "huge-logits": (1e4 + POSITIVE, 1e4 + NEGATIVE),
    "huge-negative-logits": (-1e4 + POSITIVE, -1e4 + NEGATIVE),
    "one-of-each": (POSITIVE[:1], NEGATIVE[:1]),
}


@pytest.mark.parametrize(("positive", "negative"), SCORES.values(), ids=SCORES)
def test_auroc_equals_scikit_learn(positive, negative):
    truth = [1] * len(positive) + [0] * len(negative)
    expected = roc_auc_score(truth, torch.cat([positive, negative]).double().numpy())
    assert auroc(positive, negative).item() == pytest.approx(expected, abs=1e-12)


def test_auroc_counts_ties_half():
    # Pairs: 2 > 1, 2 = 2, 3 > 1, 3 > 2.
    assert auroc(torch.tensor([2.0, 3.0]), torch.tensor([2.0, 1.0])).item() == 3.5 / 4


def test_accuracy_hand_value():
    logits = torch.tensor([[2.0, 1.0], [0.0, 3.0], [5.0, 4.0], [-1.0, -2.0]])
    assert accuracy(logits, torch.tensor([0, 1, 1, 0])).item() == 0.75


def test_fpr95_by_hand():
    positive = torch.arange(100.0)  # 95 of them are 5 or more
    assert fpr95(positive, torch.tensor([4.0, 4.9, 5.0, 50.0])) == 0.5
    assert fpr95(positive, torch.tensor([-1.0])) == 0
    assert fpr95(torch.tensor([1.0]), torch.tensor([0.0, 1.0, 2.0])).item() == pytest.approx(2 / 3)


def test_nan_scores_are_nan():
    broken = torch.tensor([torch.nan, 1.0])
    assert auroc(POSITIVE, broken).isnan()
    assert fpr95(POSITIVE, broken).isnan()
    assert accuracy(broken[None], torch.tensor([0])).isnan()
