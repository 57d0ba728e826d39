"""The report's HTML: one file, no network, light and dark, readable on a phone."""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{{ title }}</title>
<link rel="icon" href="data:,">
<style>
:root { --ink: #1f2430; --soft: #5d6678; --line: #dfe3ea; --page: #ffffff; --card: #f6f7f9; --accent: #2f6fb2; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e8f0; --soft: #9aa5b8; --line: #343b49; --page: #161920; --card: #1e232d; --accent: #7db4ea; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 62rem; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.15rem; margin: 2.6rem 0 .8rem; border-bottom: 1px solid var(--line); padding-bottom: .3rem; }
p, figcaption { color: var(--soft); margin: .3rem 0 .8rem; }
figcaption, .small { font-size: .88rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .7rem; margin: 1.2rem 0; }
.card { background: var(--card); border-radius: .5rem; padding: .7rem .9rem; }
.card b, .card span { display: block; }
.card b { font-size: 1.5rem; line-height: 1.3; font-variant-numeric: tabular-nums; }
.card .small { line-height: 1.35; }
.card .note { color: var(--soft); margin-top: .3rem; }
.warning { border-left: .3rem solid #d1602b; background: var(--card); color: var(--ink); padding: .6rem .9rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); gap: 1rem; }
.samples { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 25rem), 1fr)); gap: 1rem 1.5rem; }
figure { margin: 0; }
img { max-width: 100%; height: auto; display: block; }
.pixels { background: #fff; border-radius: .3rem; margin-bottom: .4rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
code { font-size: .85rem; overflow-wrap: anywhere; }
summary { cursor: pointer; color: var(--accent); }
svg.graph { width: 100%; min-width: 44rem; height: auto; }
svg.graph rect { fill: var(--card); stroke: var(--line); }
svg.graph path { fill: none; stroke: var(--soft); opacity: .55; }
svg.graph text { fill: var(--ink); font: 12px system-ui, sans-serif; }
svg.graph text.soft { fill: var(--soft); font-size: 11px; }
details { margin-top: .8rem; }
@media (max-width: 30rem) {
  table { font-size: .78rem; }
  th, td { padding-right: .35rem; overflow-wrap: anywhere; }
}
</style>
</head>
<body>
<h1>{{ title }}</h1>
<p>{{ subtitle }}</p>
{% if smoke %}<p class="warning">Smoke run: a handful of images and steps, random features. It shows that everything
runs; none of these figures or pictures is a result.</p>
{% endif %}
{% for warning in warnings %}<p class="warning">Beware: {{ warning }}.</p>
{% endfor %}<div class="cards">
{% for card in cards %}<div class="card"><b>{{ card.value }}</b><span class="small">{{ card.label }}</span>
<span class="small note">{{ card.note }}</span></div>
{% endfor %}</div>

<h2>Samples</h2>
<div class="samples">
{% for picture in pictures %}<figure><img class="pixels" src="{{ picture.uri }}" alt="{{ picture.caption }}">
<figcaption>{{ picture.caption }}</figcaption></figure>
{% endfor %}</div>

<h2>Metrics</h2>
<div class="wide"><table>
<tr><th>metric</th>{% for model in models %}<th class="number">{{ model }}</th>{% endfor %}{% if published %}<th class="number">paper</th>{% endif %}</tr>
{% for row in metrics %}<tr><td>{{ row.name }}</td>
{% for value in row["values"] %}<td class="number">{{ value }}</td>{% endfor %}</tr>
{% endfor %}</table></div>
{% if published %}<p class="small">paper: {{ published }}</p>{% endif %}
{% for names, reason in absent %}<p class="small">Absent: <code>{{ names }}</code>, since {{ reason }}.</p>
{% endfor %}

<details><summary>Can the robust accuracies be believed?</summary><div class="wide"><table>
<tr><th>model</th><th>sign</th><th>verdict</th><th class="number">seen</th><th>what</th></tr>
{% for gate in gates %}{% for check in gate.checks %}<tr><td>{{ gate.model }}</td><td>{{ check.name }}</td>
<td>{{ check.verdict }}</td><td class="number">{{ check.seen }}</td><td>{{ check.told }}</td></tr>
{% endfor %}<tr><td>{{ gate.model }}</td><td>PGD by eps</td><td></td><td></td><td>{{ gate.curve }}</td></tr>
{% endfor %}</table></div></details>
<details><summary>Counterfactuals by budget</summary><div class="wide"><table>
<tr><th>model</th><th class="number">eps (L2)</th><th class="number">confidence</th><th class="number">flip rate</th>
<th class="number">L2 moved</th><th class="number">Fréchet distance in a class</th></tr>
{% for row in counterfactuals %}<tr><td>{{ row.model }}</td><td class="number">{{ row.eps }}</td>
<td class="number">{{ row.confidence }}</td><td class="number">{{ row.flip_rate }}</td><td class="number">{{ row.l2 }}</td>
<td class="number">{{ row.frechet_distance }}</td></tr>
{% endfor %}</table></div></details>
<details><summary>What each figure depends on</summary><div class="wide"><table>
{% for names, protocol in protocols %}<tr><td>{{ names }}</td><td>{% for name, value in protocol %}<code>{{ name }}: {{ value }}</code><br>{% endfor %}</td></tr>
{% endfor %}</table></div>
<p class="small"><code>python -m pipelines compare</code> sets figures of several runs side by side, and refuses those
whose protocols differ.</p></details>
<details><summary>Images and features</summary><div class="wide"><table>
{% for name, value in of_data %}<tr><td>{{ name }}</td><td class="number">{{ value }}</td></tr>
{% endfor %}</table></div></details>

<h2>Curves</h2>
<div class="charts">
{% for chart in charts %}<figure><picture>
<source media="(prefers-color-scheme: dark)" srcset="{{ chart.dark }}"><img src="{{ chart.light }}" alt="{{ chart.alt }}">
</picture></figure>
{% endfor %}</div>

<h2>Stages</h2>
<div class="wide">{{ graph }}</div>

<h2>Lineage</h2>
<div class="wide"><table>
{% for name, value in lineage %}<tr><td>{{ name }}</td><td><code>{{ value }}</code></td></tr>
{% endfor %}</table></div>
<details><summary>Stages, fingerprints and runs</summary><div class="wide"><table>
<tr><th>stage</th><th>fingerprint</th><th>MLflow run</th><th>code</th></tr>
{% for row in stages %}<tr><td>{{ row.name }}</td><td><code>{{ row.fingerprint }}</code></td>
<td><code>{{ row.run_id }}</code></td><td><code>{{ row.code }}</code></td></tr>
{% endfor %}</table></div></details>
<details><summary>Settings</summary><div class="wide"><table>
{% for name, value in settings %}<tr><td><code>{{ name }}</code></td><td><code>{{ value }}</code></td></tr>
{% endfor %}</table></div></details>
</body>
</html>
"""
