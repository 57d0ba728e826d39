"""Parameter names in published files: wrapper prefixes and the authors' layer names."""

import pytest
import torch

from atjem.published import export_published
from atjem.published_layouts import split_wrappers
from tests.support.published_sources import IDENTITY, network, robustness_file, with_prefix


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fc.bias", ("", "fc.bias")),
        ("module.attacker.model.fc.bias", ("module.", "attacker.model.fc.bias")),
        ("base_model.module.model.fc.bias", ("base_model.module.model.", "fc.bias")),
        ("models.fc.bias", ("", "models.fc.bias")),
    ],
)
def test_split_wrappers(name, expected):
    assert split_wrappers(name) == expected


@pytest.mark.parametrize(
    ("arch", "layout", "is_raw"),
    [
        ("resnet-18", "robustness", False),
        ("wrn-16-1", "robustbench", True),
        ("wrn-16-1", "robustbench", False),
        ("wrn-16-1", "dat", False),
        ("convnext-tiny-cvst", "convnext-cvst", True),
    ],
)
def test_exports_have_their_authors_names(arch, layout, is_raw, sources, tmp_path):
    names = [name for name in sources[arch].state_dict() if not name.startswith("sub_block1.")]
    own = dict.fromkeys(names)
    expected = {
        "robustness": lambda: robustness_file(own)["model"],
        "robustbench": lambda: own if is_raw else {**NORMALISE, **with_prefix("model.", own)},
        "dat": lambda: {"module.n_averaged": 0, **with_prefix("module.module.", own)},
        "convnext-cvst": lambda: with_prefix("base_model.", own),
    }[layout]()
    model = network(arch, **dict(zip(("mean", "std"), IDENTITY, strict=True)) if is_raw else {})
    export_published(model, layout, tmp_path / "weights.pt")
    content = torch.load(tmp_path / "weights.pt", weights_only=True)
    assert (content["model"] if layout == "robustness" else content).keys() == expected.keys()


NORMALISE = dict.fromkeys(("normalize.mean", "normalize.std"))
