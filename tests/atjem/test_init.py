"""`import atjem` is light, and offers what it says."""

import json
import subprocess
import sys

import pytest

import atjem

IMPORTS = [
    "import atjem",
    "import atjem.checkpoint_files, atjem.models.names, atjem.published_layouts, atjem.models.footprint",
    "from atjem import *",
]
OTHERS = {"ray", "mlflow", "optuna", "data", "pipelines", "sweeps"}


def test_imports_load_no_more_than_they_need():
    """In a new process: names and counts import no torch, and nothing imports another package of ours."""
    code = "import sys, json; sys.stdout.write(json.dumps(list(sys.modules)) + '\\n')"
    lines = [f"{line}; {code}" for line in IMPORTS]
    count = "footprint.footprint('wrn-34-10', num_classes=10, channels=3, image_size=32, precision='bf16')"
    lines[1] = lines[1].replace("; ", f"; atjem.models.{count}; ", 1)
    said = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True).stdout
    light, names, everything = map(set, map(json.loads, said.splitlines()))
    assert "atjem" in light
    assert not {"torch", "numpy", "torch_fidelity"} & (light | names)
    assert "torch" in everything
    assert not OTHERS & everything


@pytest.mark.parametrize("name", atjem.__all__)
def test_every_public_name_resolves(name):
    assert callable(getattr(atjem, name))
    assert name in dir(atjem)


def test_unknown_name_says_what_is_offered():
    with pytest.raises(AttributeError) as caught:
        atjem.train  # noqa: B018 - the look-up is what is tested
    assert str(caught.value).startswith("module 'atjem' has no attribute 'train'; it offers ")
    assert all(name in str(caught.value) for name in atjem.__all__)
