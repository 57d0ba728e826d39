"""The report's page: values from elsewhere are text in it."""

from jinja2 import Environment

from pipelines.graph_picture import draw_graph
from pipelines.stages.report_page import PAGE

SCRIPT = """"'><script>alert(1)</script><img src=x onerror='alert(2)'>"""


class Hostile(dict):
    """Whatever is asked of it, it is a script, or a list of one."""

    def __missing__(self, name: str) -> str:
        return SCRIPT


def test_a_report_shows_markup_as_text():
    one, pair = [Hostile()], [(SCRIPT, SCRIPT)]
    rows = dict.fromkeys(("cards", "pictures", "metrics", "counterfactuals", "charts", "stages"), one)
    pairs = dict.fromkeys(("absent", "of_data", "lineage", "settings"), pair)
    html = (
        Environment(autoescape=True)
        .from_string(PAGE)
        .render(
            **rows,
            **pairs,
            **dict.fromkeys(("title", "subtitle", "published"), SCRIPT),
            **{name: [SCRIPT] for name in ("warnings", "models")},
            gates=[{"model": SCRIPT, "curve": SCRIPT, "checks": one}],
            protocols=[(SCRIPT, pair)],
            graph=draw_graph({SCRIPT: []}, {SCRIPT: SCRIPT}),
        )
    )
    assert html.count("alert(1)") > 30
    assert "<script" not in html
    assert "<img src=x" not in html
    assert "'alert(2)'" not in html
