"""`import atjem` is light, and offers what it says."""

import subprocess
import sys

import pytest

import atjem

HEAVY = ["torch", "numpy", "ray", "mlflow", "optuna", "torch_fidelity", "data", "pipelines", "sweeps"]


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_import_is_light():
    loaded = run_python("import sys; import atjem; sys.stdout.write(' '.join(sys.modules))").split()
    assert "atjem" in loaded
    assert not set(HEAVY) & set(loaded)


def test_checkpoint_names_and_architectures_need_no_torch():
    light = "atjem.checkpoint_files, atjem.models.names, atjem.published_layouts"
    code = f"import sys, {light}; sys.stdout.write(' '.join(sys.modules))"
    assert "torch" not in run_python(code).split()


def test_using_a_name_loads_no_other_room():
    loaded = run_python("import sys; from atjem import *; sys.stdout.write(' '.join(sys.modules))").split()
    assert "torch" in loaded
    assert not {"ray", "mlflow", "optuna", "data", "pipelines", "sweeps"} & set(loaded)


@pytest.mark.parametrize("name", atjem.__all__)
def test_every_public_name_resolves(name):
    assert callable(getattr(atjem, name))


def test_dir_lists_the_public_names():
    assert dir(atjem) == sorted(atjem.__all__)


def test_unknown_name_says_what_is_offered():
    with pytest.raises(AttributeError) as caught:
        atjem.train  # noqa: B018 - the look-up is what is tested
    assert str(caught.value).startswith("module 'atjem' has no attribute 'train'; it offers ")
    assert all(name in str(caught.value) for name in atjem.__all__)
