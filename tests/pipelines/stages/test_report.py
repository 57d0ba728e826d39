"""The report of a finished run: one file that needs nothing else."""

import re

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.ray]


def test_report_is_one_file_with_everything_in_it(demo):
    page = (demo.artifact("report") / "report.html").read_text()
    assert len(page) < 5_000_000
    for needed in (
        *("Fréchet distance", "Reliability", "Lineage", "Counterfactuals by budget", "train_stage2"),
        *("What each figure depends on", 'alt="energies"', "stage2.contrastive.step_size"),
    ):
        assert needed in page
    assert re.findall(r'(?:src|srcset|href)="(?!data:)', page) == []
