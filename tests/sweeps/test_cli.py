"""The sweep's command line: several objectives after one option, and the options of sweeps/README.md."""

import re
import shlex

import pytest
import yaml
from typer.testing import CliRunner

from data.command_line import app_of
from pipelines.recipe import load_recipe
from sweeps.cli import spread_objectives, tune
from sweeps.space import parse_space
from tests.support.running import ROOT

README = (ROOT / "sweeps" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("given", "understood"),
    [
        ("--objective a:min b:max --smoke", "--objective a:min --objective b:max --smoke"),
        ("--objective a:min --objective b:max", "--objective a:min --objective b:max"),
        ("--smoke --objective a:min b c", "--smoke --objective a:min --objective b --objective c"),
        ("--trials 3 --seeds 2", "--trials 3 --seeds 2"),
    ],
)
def test_several_objectives_after_one_option(given, understood):
    assert spread_objectives(given.split()) == understood.split()


def test_options_of_the_readme_are_those_of_the_command():
    known = set(re.findall(r"--[a-z-]+", CliRunner().invoke(app_of(tune), ["--help"]).output))
    commands = re.findall(r"^python sweeps/tune_pgd.py (.*?)(?:#.*)?$", README, flags=re.MULTILINE)
    assert len(commands) == 6
    for command in commands:
        assert {word for word in shlex.split(command) if word.startswith("--")} <= known
    assert set(re.findall(r"`(--[a-z-]+)", README)) <= known | {"--allow"}  # of compare


def test_space_of_the_readme_is_accepted():
    (text,) = re.findall(r"^```yaml\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    space, problems = parse_space(text, "my.yaml", "digits", (), load_recipe("digits")[0].settings)
    assert problems == []
    assert {parameter.name for parameter in space.parameters} == yaml.safe_load(text)["settings"].keys()
    assert space.rungs is not None


def test_files_that_the_readme_points_to_exist():
    for link in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / "sweeps" / link).is_file(), link
