"""The paper's recipes: their settings as published, their plan without data, what they say is missing."""

import pytest

from atjem.models.names import known_arch
from pipelines.recipe import RECIPES, load_recipe
from pipelines.settings import flatten

# arXiv 2510.13872, settings and results.
CIFAR = {
    "model.arch": "wrn-34-10",
    "data.image_size": 32,
    "data.paired_views": False,
    "stage2.batch_size": 128,
    "stage2.optimizer.name": "sgd",
    "stage2.optimizer.momentum": 0.9,
    "stage2.optimizer.schedule": "constant",
    "stage2.optimizer.weight_decay": 5e-4,
    "stage2.classifier_attack.norm": "L2",
    "stage2.classifier_attack.eps": 0.5,
    "stage2.classifier_attack.steps": 10,
    "stage2.classifier_attack.step_size": 0.1,
    "stage2.contrastive.step_size": 0.1,
    "stage2.contrastive.start_steps": 0,
    "stage2.contrastive.max_steps": 50,
    "stage2.contrastive.auc_window_images": 1000,
    "stage2.loss.classifier_weight": 1.0,
    "stage2.loss.energy_weight": 1.0,
    "stage2.loss.r1_weight": 0.0,
    "stage2.ema_decay": 0.999,
    "stage2.augment": "crop4+flip+autoaugment+cutout16",
    "stage2.augment_energy": "crop4+flip",
    "stage2.augment_ood": "crop4+flip",
    "stage2.select": "best_frechet",
    "stage2.select_samples": 10_000,
    "sample.num_samples": 50_000,
    "sample.num_selection": 2560,
    "sample.step_size": 0.2,
    "sample.steps": 33,
    "evaluate.feature_extractor": "inception",
    "evaluate.robust.norm": "L2",
    "evaluate.robust.eps": 0.5,
    "evaluate.robust.attack": "autoattack",
}
IMAGENET = {
    "data.image_size": 256,
    "stage1.steps": 0,
    "stage2.batch_size": 512,
    "stage2.classifier_attack.norm": "L2",
    "stage2.classifier_attack.eps": 3.0,
    "stage2.classifier_attack.steps": 3,
    "stage2.classifier_attack.step_size": 2.0,
    "stage2.contrastive.step_size": 2.0,
    "stage2.augment": "rrc+flip",
    "stage2.augment_energy": "flip",
    "stage2.augment_ood": "rrc+flip",
    "stage2.ema_decay": 0.999,
    "stage2.select": "best_frechet",
    "sample.num_samples": 50_000,
    "sample.num_selection": 2560,
    "sample.step_size": 8.0,
    "evaluate.robust.eps": 3.0,
    "evaluate.robust.num_images": 5000,
}
SGD = {"stage2.optimizer.name": "sgd", "stage2.optimizer.lr": 1e-3, "model.normalization": "imagenet"}
PUBLISHED = {
    "cifar10": CIFAR
    | {
        "stage2.optimizer.lr": 1e-3,
        "stage2.contrastive.auc_threshold": 0.8,
        "published.metrics.fid": 7.57,
        "published.metrics.robust_accuracy": 0.7465,
        "published.metrics.stage1_fid": 28.41,
    },
    "cifar100": CIFAR
    | {
        "stage2.optimizer.lr": 1e-2,
        "stage2.contrastive.auc_threshold": 0.75,
        "published.metrics.fid": 9.53,
        "published.metrics.clean_accuracy": 0.6012,
    },
    "imagenet256": IMAGENET
    | SGD
    | {
        "model.arch": "resnet-50",
        "stage2.contrastive.max_steps": 30,
        "stage2.contrastive.auc_threshold": 0.4,
        "sample.steps": 14,
        "published.metrics.fid": 5.28,
        "published.metrics.is_mean": 319.3,
    },
    "imagenet256-wrn50x4": IMAGENET
    | SGD
    | {
        "model.arch": "wrn-50-4",
        "stage2.contrastive.max_steps": 65,
        "stage2.contrastive.auc_threshold": 0.2,
        "sample.steps": 19,
        "published.metrics.robust_accuracy": 0.4074,
    },
    "imagenet256-convnext-large": IMAGENET
    | {
        "model.arch": "convnext-large-cvst",
        "model.normalization": "none",
        "stage2.optimizer.name": "adamw",
        "stage2.optimizer.lr": 3e-4,
        "stage2.optimizer.betas": [0.9, 0.95],
        "stage2.optimizer.weight_decay": 0.05,
        "stage2.contrastive.step_size": 3.0,
        "stage2.contrastive.max_steps": 110,
        "stage2.contrastive.auc_threshold": 0.2,
        "sample.steps": 36,
        "published.metrics.clean_accuracy": 0.7578,
    },
}


def test_the_papers_figures_are_not_set_beside_those_of_other_images():
    assert load_recipe("cifar10", ["data.root=elsewhere"])[0].settings.published is not None
    assert load_recipe("cifar10", ["data.in=IMAGES"])[0].settings.published is None


@pytest.mark.parametrize("name", PUBLISHED)
def test_settings_are_the_papers(name):
    recipe, problems = load_recipe(name)
    settings = flatten(recipe.settings)
    assert problems == []
    assert {key: settings[key] for key in PUBLISHED[name]} == PUBLISHED[name]
    assert known_arch(recipe.settings.model.arch)
    steps = recipe.settings.sample.steps
    assert recipe.settings.sample.step_candidates == tuple(range(steps - 3, steps + 4))


@pytest.mark.parametrize("name", PUBLISHED)
def test_header_tells_command_hardware_hours_expectation_and_source(name):
    header = (RECIPES / f"{name}.yaml").read_text().split("\nseed:")[0]
    for word in ("command", "try first", "hardware", "hours", "expected", "source"):
        assert f"# {word}" in header
    assert f"--pipeline {name} " in header
    assert "2510.13872" in header
    shown = load_recipe(name)[0].settings.published
    assert str(shown.metrics["fid"]) in header
    assert str(shown.metrics["is_mean"]) in header


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_is_missing_is_told_with_where_to_get_it(name, cli, tmp_path):
    result = cli("--pipeline", name, "--workdir", str(tmp_path), "--set", f"data.root={tmp_path}")
    assert result.code == 2
    told = {line.removeprefix("error: ").split(":")[0]: line for line in result.errors}
    assert "http" in told["data.in"]
    assert str(tmp_path) in told["data.in"]
    assert "http" in told["data.ood"]
    assert ("model.checkpoint" in told) == name.startswith("imagenet")
    if "model.checkpoint" in told:
        assert "get it from https://" in told["model.checkpoint"]
