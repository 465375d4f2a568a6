"""A graph in the languages of Mermaid and of Graphviz."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from jaxnet._colours import BLUE, VERMILLION
from jaxnet.graph.drawing.labels import compact, is_opaque, shape, summary
from jaxnet.graph.drawing.plan import Box, Link, Open, Plan

__all__ = ["dot", "mermaid"]


# ----------------------------------------------------------------------------------------------------------------------
# Boxes and links, as both languages need them


def _lines(box: Box, plan: Plan) -> tuple[str, str, str]:
    """Title, value and gradient of a box."""
    node = box.node
    if node is None:
        title, node = f"{box.title} ({len(box.nodes)} nodes)", plan.result_in(box)
        if node is None:
            return title, "", ""
    else:
        title = " = ".join(part for part in plan.names.equation(node) if part)
    size = f" ({shape(node.value)})" if node.value.ndim and not is_opaque(node.value) else ""
    gradient = "" if node.gradient is None else f"← {compact(node.gradient)}"
    return title + size, f"→ {compact(node.value)}", gradient


def _on_link(link: Link) -> str:
    """The local derivative between numbers; what a folded box hands on."""
    if link.source.node is not None and link.target.node is not None:
        derivative = link.uses[0].derivative
        return "" if derivative is None else f"∂ {compact(derivative)}"
    if link.source.node is not None:
        return ""
    operands = list(dict.fromkeys(use.operand for use in link.uses))
    rest = f" +{len(operands) - 2}" if len(operands) > 2 else ""
    return ", ".join(summary(node.value) for node in operands[:2]) + rest


def _is_dashed(link: Link) -> bool:
    return not any(use.edges for use in link.uses)


def _kind(box: Box, plan: Plan) -> str:
    if any(node in plan.graph.outputs for node in box.nodes):
        return "output"
    node = box.node
    return "folded" if node is None else "argument" if node.equation is None else "operation"


# ----------------------------------------------------------------------------------------------------------------------
# Mermaid


def mermaid(plan: Plan) -> str:
    """A Mermaid flowchart."""
    ids = {box: f"n{i}" for i, box in enumerate(plan.boxes)}
    counter = itertools.count()

    def write(frame: Open, indent: str) -> Iterator[str]:
        for member in frame.members:
            if isinstance(member, Open):
                yield f'{indent}subgraph s{next(counter)}["{_for_mermaid(member.title)}"]'
                yield from write(member, indent + "  ")
                yield f"{indent}end"
            else:
                title, value, gradient = _lines(member, plan)
                text = _for_mermaid(title)
                if value:
                    text += f"<br/><font color='{BLUE}'>{_for_mermaid(value)}</font>"
                if gradient:
                    text += f" <font color='{VERMILLION}'>{_for_mermaid(gradient)}</font>"
                yield f'{indent}{ids[member]}["{text}"]:::{_kind(member, plan)}'

    lines = ["flowchart LR", *write(plan.root, "  ")]
    for link in plan.links:
        arrow, text = "-.->" if _is_dashed(link) else "-->", _on_link(link)
        label = f'|"{_for_mermaid(text)}"|' if text else ""
        lines.append(f"  {ids[link.source]} {arrow}{label} {ids[link.target]}")
    lines += [
        "  classDef argument fill:#eef4f9,stroke:#888888,color:#222222",
        "  classDef operation fill:#ffffff,stroke:#888888,color:#222222",
        "  classDef folded fill:#e9e9e9,stroke:#888888,color:#222222",
        "  classDef output fill:#ffffff,stroke:#222222,stroke-width:3px,color:#222222",
    ]
    return "\n".join(lines) + "\n"


def _for_mermaid(text: str) -> str:
    """With entity codes for all that is not a letter, digit or plain sign: they cannot end a label."""
    safe = " .,_+-=/*|×−→←∂"
    return "".join(c if c.isalnum() or c in safe else f"#{ord(c)};" for c in text)


# ----------------------------------------------------------------------------------------------------------------------
# DOT


def dot(plan: Plan) -> str:
    """A digraph in the DOT language of Graphviz."""
    ids = {box: f"n{i}" for i, box in enumerate(plan.boxes)}
    counter = itertools.count()
    styles = {
        "argument": 'fillcolor="#eef4f9"',
        "operation": 'fillcolor="#ffffff"',
        "folded": 'fillcolor="#e9e9e9", peripheries=2',
        "output": 'fillcolor="#ffffff", penwidth=2',
    }

    def write(frame: Open, indent: str) -> Iterator[str]:
        for member in frame.members:
            if isinstance(member, Open):
                yield f"{indent}subgraph cluster_{next(counter)} {{"
                yield f'{indent}  label="{_for_dot(member.title)}";'
                yield from write(member, indent + "  ")
                yield f"{indent}}}"
            else:
                yield f"{indent}{ids[member]} [label=<{html(member)}>, {styles[_kind(member, plan)]}];"

    def html(box: Box) -> str:
        title, value, gradient = (_for_html(text) for text in _lines(box, plan))
        text = title
        if value:
            text += f'<br/><font color="{BLUE}">{value}</font>'
        if gradient:
            text += f'  <font color="{VERMILLION}">{gradient}</font>'
        return text

    lines = [
        "digraph {",
        "  rankdir=LR;",
        '  node [shape=box, style="rounded,filled", fontname="sans-serif"];',
        '  edge [fontname="sans-serif", fontsize=10];',
        *write(plan.root, "  "),
    ]
    for link in plan.links:
        text = _on_link(link)
        attributes = [f'label="{_for_dot(text)}"'] * bool(text) + ["style=dashed"] * _is_dashed(link)
        lines.append(f"  {ids[link.source]} -> {ids[link.target]} [{', '.join(attributes)}];")
    return "\n".join([*lines, "}"]) + "\n"


def _for_dot(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _for_html(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
