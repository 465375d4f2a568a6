"""The page of all claims, made from what lies in the folder of results and from nothing else.

It is one file without scripts that refers to no other: styles are in it, and figures are embedded, each as the smaller
of its SVG and its PNG.
"""

from __future__ import annotations

import math
import re
import warnings
from base64 import b64encode
from collections import Counter
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from experiments import MODULES, records
from experiments.claims import Verdict

TEMPLATE = Template(Path(__file__).with_suffix(".html").read_text(encoding="utf-8"))
STYLE = Path(__file__).with_name("style.css").read_text(encoding="utf-8")

# Classes of the style sheet, and names of the icons.
KINDS = {Verdict.HOLDS: "holds", Verdict.FAILS: "fails", Verdict.OPEN: "open", "skipped": "skipped", "failed": "failed"}

PAGE = "index.html"

WIDE = 7
"""Inches from which on a figure is not shrunk to the width of a phone, but scrolls."""


def write(folder: Path) -> Path:
    """Write the page of the results in a folder into it."""
    path = folder / PAGE
    path.write_text(page(folder), encoding="utf-8")
    return path


def page(folder: Path) -> str:
    """The page of what the folder holds."""
    documents = records.load(folder, MODULES)
    return TEMPLATE.substitute(
        style=STYLE,
        tally=tally(documents),
        agreement=escape(agreement(documents)),
        summary=summary(documents),
        sections="\n".join(section(document, folder) for document in documents),
    )


def tally(documents: list[dict[str, Any]]) -> str:
    """How many claims have which verdict, and how many experiments have none."""
    claims = Counter(claim["verdict"] for document in documents for claim in document.get("claims", ()))
    outcomes = Counter(document["outcome"] for document in documents)
    names = {Verdict.HOLDS: ("claim holds", "claims hold"), Verdict.FAILS: ("does not hold", "do not hold")}
    names |= {Verdict.OPEN: ("without enough evidence",) * 2}
    counted = [(kind, claims[kind], names[kind]) for kind in Verdict if claims[kind]]
    counted += [
        (outcome, outcomes[outcome], (f"experiment {outcome}", f"experiments {outcome}"))
        for outcome in ("skipped", "failed")
        if outcomes[outcome]
    ]
    items = (f"<li>{badge(kind, f'{n} {words[n != 1]}')}</li>" for kind, n, words in counted)
    return f'<ul class="tally" aria-label="Verdicts">{"".join(items)}</ul>'


def agreement(documents: list[dict[str, Any]]) -> str:
    """One sentence on the two gradients in all experiments, and when these ran."""
    done = [document for document in documents if document["outcome"] == "done"]
    if not done:
        return ""
    found = [document["numbers"]["gradient_agreement"] for document in done]
    worst = max(number(dtypes["float64"]["relative_error"]) for dtypes in found)
    agreeing = sum(all(one["holds"] for one in dtypes.values()) for dtypes in found)
    seconds = sum(document["numbers"]["seconds"] for document in done)
    first, last = min(document["date"] for document in done), max(document["date"] for document in done)
    return (
        f"In {agreeing} of {len(done)} experiments the gradient by hand agrees with that of automatic differentiation, "
        f"to a relative error of {worst:.0e} at the most in float64. They took {duration(seconds)} in all and ended "
        + (f"at {last}." if first == last else f"between {first} and {last}.")
    )


def summary(documents: list[dict[str, Any]]) -> str:
    """The table of all claims with links to them, by experiment."""
    groups = []
    for document in documents:
        name, (title, *_) = document["experiment"], headings(document)
        link = f'<a href="#{escape(name)}">{escape(title)}</a>'
        note = "" if document["outcome"] == "done" else f" {badge(document['outcome'], document['outcome'])}"
        rows = "".join(
            f"<tr><td>{badge(claim['verdict'], claim['verdict'])}</td>"
            f'<td><a href="#{escape(name)}-{i}">{marked(claim["text"])}</a></td></tr>\n'
            for i, claim in enumerate(document.get("claims", ()), 1)
        )
        groups.append(f'<tbody>\n<tr><th scope="rowgroup" colspan="2">{link}{note}</th></tr>\n{rows}</tbody>')
    head = '<thead><tr><th scope="col">Verdict</th><th scope="col">Claim</th></tr></thead>'
    return f'<table class="claims">\n{head}\n{"".join(groups)}\n</table>'


def section(document: dict[str, Any], folder: Path) -> str:
    """All of one experiment."""
    name = escape(document["experiment"])
    title, lead, *paragraphs = headings(document)
    parts = [f'<h2 id="{name}-title">{escape(title)}</h2>', f'<p class="lead">{marked(lead)}</p>' if lead else ""]
    parts += [f"<p>{marked(paragraph)}</p>" for paragraph in paragraphs]
    if document["outcome"] == "done":
        parts += [
            claims(document),
            figures(document, folder),
            values("Numbers", records.rows(document["numbers"])),
        ]
    else:
        parts.append(f'<ul class="found"><li><span>{badge(document["outcome"], document["outcome"])}</span>')
        parts.append(f'<p class="reason">{escape(document["reason"])}</p></li></ul>')
    settings = [(key, shown(value)) for key, value in document["settings"].items() if key != "output"]
    parts += [values("Settings", settings), rerun(document)]
    return f'<section id="{name}" aria-labelledby="{name}-title">\n' + "\n".join(filter(None, parts)) + "\n</section>"


def headings(document: dict[str, Any]) -> list[str]:
    """The title, the rest of the first sentence, and the paragraphs of an experiment's description."""
    first, *paragraphs = (" ".join(part.split()) for part in document["description"].split("\n\n"))
    title, _, lead = first.partition(": ")
    return [title.removesuffix("."), lead[:1].upper() + lead[1:], *paragraphs]


def claims(document: dict[str, Any]) -> str:
    """The claims of an experiment with verdict and evidence; last, that the two gradients agree."""
    name = escape(document["experiment"])
    items = [
        f'<li id="{name}-{i}"><span>{badge(claim["verdict"], claim["verdict"])}</span>'
        f'<div><p>{marked(claim["text"])}</p><p class="evidence">{marked(claim["evidence"])}</p></div></li>\n'
        for i, claim in enumerate(document["claims"], 1)
    ]
    found = document["numbers"]["gradient_agreement"]
    kind = Verdict.HOLDS if all(one["holds"] for one in found.values()) else Verdict.FAILS
    errors = ", ".join(
        f"{number(one['relative_error']):.1e} in {dtype} (at most {one['tolerance']:.0e})"
        for dtype, one in found.items()
    )
    items.append(
        f"<li><span>{badge(kind, 'agrees' if kind == Verdict.HOLDS else 'differs')}</span>"
        "<div><p>The gradient by hand, against automatic differentiation.</p>"
        f'<p class="evidence">Relative error {errors}</p></div></li>\n'
    )
    return f'<ul class="found">\n{"".join(items)}</ul>'


def number(value: float | None) -> float:
    """A number of a file, which holds null for those that are not finite; such an error is beyond all others."""
    return math.inf if value is None else value


def figures(document: dict[str, Any], folder: Path) -> str:
    """The figures of an experiment."""
    shown = []
    for figure in document["figures"]:
        if not (folder / f"{figure['file']}.png").exists():
            warnings.warn(f"{folder / figure['file']}.png is missing; run the experiment again", stacklevel=2)
            continue
        (width, height), alt = figure["inches"], escape(figure["alt"])
        wide = width > WIDE
        scrolls = f' tabindex="0" role="group" aria-label="{alt}"' if wide else ""
        shown.append(
            f'<figure class="{"wide" if wide else "narrow"}" style="--inches: {width:.4g}"><div class="sheet"{scrolls}>'
            f'<img src="{embedded(folder / figure["file"])}" alt="{alt}" '
            f'width="{80 * width:.0f}" height="{80 * height:.0f}"></div></figure>\n'
        )
    return f'<div class="figures">\n{"".join(shown)}</div>' if shown else ""


def embedded(path: Path) -> str:
    """A figure as the address that is its content."""
    kinds = {"image/svg+xml": path.with_name(f"{path.name}.svg"), "image/png": path.with_name(f"{path.name}.png")}
    kind, content = min(
        ((kind, file.read_bytes()) for kind, file in kinds.items() if file.exists()), key=lambda item: len(item[1])
    )
    return f"data:{kind};base64,{b64encode(content).decode()}"


def values(title: str, rows: list[tuple[str, str]]) -> str:
    """A table of names and values that unfolds."""
    body = "\n".join(f'<tr><th scope="row">{escape(key)}</th><td>{escape(text)}</td></tr>' for key, text in rows)
    return (
        f'<details><summary>{title} <span class="muted">({len(rows)})</span></summary>'
        f'<div class="scroll" tabindex="0" role="group" aria-label="{title}">'
        f'<table class="values"><tbody>\n{body}\n</tbody></table></div></details>'
    )


def rerun(document: dict[str, Any]) -> str:
    """How long it took, on what, and the command that does it again."""
    versions = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    took = f"{duration(document['numbers']['seconds'])} on " if document["outcome"] == "done" else ""
    told = f"{took}{document['device']}; {versions}; {document['date']}. Run it again:"
    return (
        f'<p class="meta">{escape(told)}</p>\n'
        f'<pre tabindex="0" aria-label="command"><code>{escape(document["command"])}</code></pre>'
    )


def badge(kind: str, words: str) -> str:
    """A verdict or an outcome, as icon and words."""
    style = KINDS[kind]
    return (
        f'<span class="badge {style}"><svg aria-hidden="true"><use href="#icon-{style}"/></svg>{escape(words)}</span>'
    )


def marked(text: str) -> str:
    """The text with what stands between backticks as code."""
    return re.sub(r"(`+)(.+?)\1", r"<code>\2</code>", escape(text))


def shown(value: Any) -> str:
    """A setting as the table shows it."""
    return ", ".join(map(shown, value)) if isinstance(value, list) else str(value)


def duration(seconds: float) -> str:
    """A time as people say it."""
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
