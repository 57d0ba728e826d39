"""The stage graph is the contract's, and follows the settings."""

from pipelines.graph import build_graph, stage_needs
from tests.support.recipes import settings_of

GRAPH = build_graph(settings_of("digits"))


def test_graph_is_the_contracts():
    needs = {name: set(node.needs.values()) for name, node in GRAPH.items() if node.is_stage}
    assert needs.pop("report") == set(GRAPH) - {"report"}
    assert needs == {
        "preprocess": set(),
        "reference_stats": {"preprocess"},
        "train_stage1": {"preprocess"},
        "train_stage2": {"preprocess", "train_stage1"},
        "sample": {"preprocess", "train_stage2", "reference_stats"},
        "evaluate_fidelity": {"sample", "reference_stats"},
        "evaluate_classifier": {"preprocess", "train_stage2"},
    }


def test_counterfactuals_are_a_topic_so_that_their_features_do_not_repeat_the_attacks():
    topic = GRAPH["evaluate_classifier.counterfactuals"]
    assert topic.module == "pipelines.stages.counterfactuals"
    assert set(topic.needs.values()) == {"preprocess", "train_stage2", "reference_stats"}
    assert "reference_stats" not in GRAPH["evaluate_classifier"].needs.values()


def test_parts_follow_the_settings():
    assert {name for name, node in GRAPH.items() if node.part} == {
        "sample.stage1",
        "evaluate_fidelity.stage1",
        "evaluate_classifier.stage1",
        "evaluate_classifier.counterfactuals.stage1",
        "evaluate_classifier.plain",
    }
    alone = settings_of("digits", "evaluate.stage1=false", "evaluate.feature_extractor=inception")
    assert not [node for node in build_graph(alone).values() if node.part]


def test_stage_1_is_evaluated_without_waiting_for_stage_2():
    parts = ["sample.stage1", "evaluate_fidelity.stage1", "evaluate_classifier.stage1"]
    assert "train_stage2" not in stage_needs(GRAPH, parts)


def test_nodes_ask_for_no_more_than_they_use():
    graph = build_graph(settings_of("imagenet256"))
    without = {name for name, node in graph.items() if not node.uses_gpu}
    assert without == {"preprocess", "train_stage1", "evaluate_fidelity", "report"}
    alone = {name for name, node in graph.items() if not node.has_workers}
    assert alone == without, "published weights are taken without workers"
    one = settings_of("imagenet256", "compute.num_workers=1")
    assert not any(node.has_workers for node in build_graph(one).values())
