"""The page of all benchmarks, made from what lies in the folder of results, in the style of the experiments' page."""

from __future__ import annotations

from html import escape
from pathlib import Path
from string import Template
from typing import Any

from benchmarks import MODULES
from experiments import records
from experiments.claims import Verdict
from experiments.gallery import STYLE, badge, duration, figures, marked, shown, values

TEMPLATE = Template(Path(__file__).with_suffix(".html").read_text(encoding="utf-8"))
FOLDER, PAGE = "benchmarks", "benchmarks.html"


def write(folder: Path) -> Path:
    """Write the page of the results in a folder into it."""
    paths = (folder / FOLDER / f"{name}.json" for name in MODULES)
    documents = records.documents(paths, "tables")
    sections = "\n".join(section(document, folder / FOLDER) for document in documents)
    path = folder / PAGE
    path.write_text(TEMPLATE.substitute(style=STYLE, summary=summary(documents), sections=sections), encoding="utf-8")
    return path


def summary(documents: list[dict[str, Any]]) -> str:
    """What was aimed at in all benchmarks, and what was found."""
    groups = []
    for document in documents:
        name = escape(document["benchmark"])
        rows = "".join(
            f"<tr><td>{_badge(bar)}</td><td>{marked(bar['text'])}: {escape(bar['found'])}</td></tr>\n"
            for bar in document["bars"]
        )
        link = f'<a href="#{name}">{name}</a>'
        groups.append(f'<tbody>\n<tr><th scope="rowgroup" colspan="2">{link}</th></tr>\n{rows}</tbody>')
    head = '<thead><tr><th scope="col">Aim</th><th scope="col">What was found</th></tr></thead>'
    return f'<table class="claims">\n{head}\n{"".join(groups)}\n</table>'


def section(document: dict[str, Any], folder: Path) -> str:
    """All of one benchmark."""
    name = escape(document["benchmark"])
    lead, *paragraphs = (" ".join(part.split()) for part in document["description"].split("\n\n"))
    parts = [f'<h2 id="{name}-title">{name}</h2>', f'<p class="lead">{marked(lead)}</p>']
    parts += [f"<p>{marked(paragraph)}</p>" for paragraph in paragraphs]
    parts += [table(found) for found in document["tables"]]
    parts += [f'<p class="meta">{marked(note)}</p>' for note in document["notes"]]
    parts += [figures(document, folder)]
    machine = {key: f"{value:.2f}" if isinstance(value, float) else value for key, value in document["machine"].items()}
    settings = [(key, shown(value)) for key, value in document["settings"].items() if key not in ("output", "json")]
    parts += [values("Machine and versions", [(key, str(value)) for key, value in machine.items()])]
    parts += [values("Settings", settings)]
    told = f"{duration(document['seconds'])}; {document['dtype']}; {limits(document['peaks'])}; {document['date']}."
    parts += [f'<p class="meta">{escape(told)} Run it again:</p>']
    parts += [f'<pre tabindex="0" aria-label="command"><code>{escape(document["command"])}</code></pre>']
    return f'<section id="{name}" aria-labelledby="{name}-title">\n' + "\n".join(filter(None, parts)) + "\n</section>"


def table(found: dict[str, Any]) -> str:
    """A table, with its title above and its note below."""
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in found["columns"])
    body = "\n".join(
        f'<tr><th scope="row">{escape(row[0])}</th>' + "".join(f"<td>{escape(text)}</td>" for text in row[1:]) + "</tr>"
        for row in found["rows"]
    )
    title, note = escape(found["title"]), f'<p class="meta">{escape(found["note"])}</p>' if found["note"] else ""
    return (
        f'<h3>{title}</h3>\n<div class="scroll" tabindex="0" role="group" aria-label="{title}">'
        f'<table class="values figures-of"><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>{note}'
    )


def limits(peaks: dict[str, float]) -> str:
    """The machine's own measured limits, in words."""
    products = ", ".join(
        f"{value / 1e9:,.0f} GFLOP/s in {name.removeprefix('matmul ')}"
        for name, value in peaks.items()
        if name != "copy"
    )
    return f"large products reach {products}; copying moves {peaks['copy'] / 1e9:.0f} GB/s"


def _badge(bar: dict[str, Any]) -> str:
    return badge(Verdict.HOLDS, "reached") if bar["reached"] else badge(Verdict.OPEN, "missed")
