"""The picture of the graph."""

from pipelines.graph_picture import draw_graph


def test_a_line_that_follows_from_others_is_left_out():
    drawn = draw_graph({"a": [], "b": ["a"], "c": ["a", "b"]}, {"a": "", "b": "", "c": ""})
    assert drawn.count("<path") == 2


def test_names_may_be_markup():
    drawn = draw_graph({"<script>": []}, {"<script>": "<b>"}, alone=True)
    assert "<script>" not in drawn
