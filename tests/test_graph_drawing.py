"""Pictures and texts of graphs: what they say, that nothing in them overlaps, and that they are well formed."""

import builtins
import io
import itertools
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from xml.etree import ElementTree

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg

import jaxnet
from jaxnet import graph
from jaxnet.graph.drawing import layout
from jaxnet.graph.drawing.faces import as_matrix, drawable
from jaxnet.graph.drawing.labels import clipped, compact, number
from jaxnet.graph.drawing.layers import Size
from jaxnet.graph.drawing.plan import MOST_BOXES, plan
from jaxnet.graph.drawing.scene import arranged


def lecture():
    return graph.trace(lambda a, b, c: ((a + b) * c) ** 2)(1.0, 2.0, 3.0)


def two_paths():
    def f(x, y):
        u = x * y
        return u + jnp.sin(x) * u

    return graph.trace(f)(2.0, 3.0)


def network_in_scalars():
    def unit(name, w, x):
        with jax.named_scope(name):
            return jnp.tanh(w[0] * x[0] + w[1] * x[1] + w[2])

    def f(v1, v2, w, x, y):
        return (unit("output", w, (unit("h1", v1, x), unit("h2", v2, x))) - y) ** 2

    return graph.trace(f)((0.5, -0.3, 0.1), (-0.4, 0.8, 0.2), (1.2, -0.7, 0.05), (1.0, 0.0), 1.0)


def network_in_arrays():
    params = jaxnet.init(jax.random.key(0), (2, 2, 1))
    return graph.trace(jaxnet.cost)(params, *jaxnet.data.xor())


def recurrent(n, *, unroll=True):
    def f(w, x):
        last, seen = jax.lax.scan(lambda h, _: 2 * (jnp.tanh(w * h),), x, None, length=n)
        return last**2 + jnp.sum(seen)

    return graph.trace(f, unroll=unroll)(1.3, 0.5)


def rectified():
    return graph.trace(lambda x, w: jax.nn.relu(x * w) + jax.nn.relu(-x))(2.0, 3.0)


def many():
    def f(xs):
        return sum(jnp.sin(x) * jnp.cos(y) for x, y in itertools.pairwise(xs))

    return graph.trace(f)([float(i) for i in range(80)])


def layers():
    @jax.jit
    def layer(W, h):
        return jnp.tanh(W @ h) + h

    def f(weights, x):
        for W in weights:
            x = layer(W, x)
        return jnp.sum(x**2)

    weights = list(jax.random.normal(jax.random.key(0), (3, 4, 4)))
    return graph.trace(f)(weights, jnp.arange(4.0))


def argument_out():
    return graph.trace(lambda x, y: x)(2.0, 3.0)


def array_out():
    return graph.trace(lambda x: (jnp.sin(x), x[0]), cotangent=(jnp.ones((2, 3)), jnp.ones(3)))(jnp.ones((2, 3)))


def integers_in():
    return graph.trace(lambda x, i, n: x[i] * n.astype(x.dtype))(jnp.arange(3.0), 1, jnp.int32(2))


def no_arguments():
    return graph.trace(lambda: jnp.sin(1.0))()


GRAPHS = [
    lecture, two_paths, network_in_scalars, network_in_arrays, lambda: recurrent(8), lambda: recurrent(50),
    lambda: recurrent(5, unroll=False), rectified, many, layers, argument_out, array_out, integers_in, no_arguments,
]  # fmt: skip
NAMES = [
    "lecture", "two_paths", "network_in_scalars", "network_in_arrays", "recurrent8", "recurrent50", "kept_whole",
    "rectified", "many", "layers", "argument_out", "array_out", "integers_in", "no_arguments",
]  # fmt: skip


@pytest.fixture(params=GRAPHS, ids=NAMES, scope="module")
def g(request):
    return request.param()


def texts(figure):
    return [text.get_text() for text in figure.axes[0].texts]


# ----------------------------------------------------------------------------------------------------------------------
# Every form of every graph


@pytest.mark.parametrize("direction", ["right", "down", None])
def test_every_text_is_inside_the_picture(g, direction):
    figure = g.draw(direction=direction, title="a title")
    FigureCanvasAgg(figure).draw()
    for text in figure.axes[0].texts:
        extent = text.get_window_extent()
        assert figure.bbox.x0 <= extent.x0, text
        assert extent.x1 <= figure.bbox.x1, text
        assert figure.bbox.y0 <= extent.y0, text
        assert extent.y1 <= figure.bbox.y1, text


@pytest.mark.parametrize("options", [{}, {"depth": 0}, {"depth": 9}, {"plumbing": True}], ids=str)
@pytest.mark.parametrize("direction", ["right", "down"])
def test_nothing_overlaps_and_all_goes_forward(g, options, direction):
    drawing = plan(g, **options)
    scene = arranged(drawing, direction)
    boxes = list(scene.boxes.values())
    solid = [*boxes, *(rectangle for _, rectangle in scene.labels.values())]
    for a, b in itertools.combinations(solid, 2):
        assert disjoint(a, b)
    frames = [rectangle for _, rectangle in scene.frames]
    for frame in frames:
        assert all(disjoint(frame, other) or within(other, frame) for other in solid)
        assert all(disjoint(frame, o) or within(o, frame) or within(frame, o) for o in frames)
    for rectangle in [*solid, *frames]:
        assert within(rectangle, (0, 0, scene.width, scene.height))
    assert len(scene.ways) == len(drawing.links)
    for link, way in scene.ways.items():
        along = [x if direction == "right" else -y for x, y in way]
        assert all(a <= b + 1e-6 for a, b in itertools.pairwise(along))
        assert touches(way[0], scene.boxes[link.source])
        assert touches(way[-1], scene.boxes[link.target])


def disjoint(a, b, slack=1e-6):
    (x, y, w, h), (p, q, v, u) = a, b
    return x + w <= p + slack or p + v <= x + slack or y + h <= q + slack or q + u <= y + slack


def within(a, b, slack=1e-6):
    (x, y, w, h), (p, q, v, u) = a, b
    return p - slack <= x and x + w <= p + v + slack and q - slack <= y and y + h <= q + u + slack


def touches(point, rectangle):
    return within((*point, 0, 0), rectangle)


@pytest.mark.parametrize("options", [{}, {"depth": 0}, {"depth": 9}, {"plumbing": True}], ids=str)
def test_mermaid_is_well_formed(g, options):
    lines = g.to_mermaid(**options).splitlines()
    assert lines[0] == "flowchart LR"
    declared, depth = set(), 0
    for line in lines[1:]:
        line = line.strip()
        if line.startswith("subgraph"):
            assert re.fullmatch(r'subgraph s\d+\["[^"\[\]{}]+"\]', line)
            depth += 1
        elif line == "end":
            depth -= 1
            assert depth >= 0
        elif match := re.fullmatch(r'(n\d+)\["([^"\[\]{}]+)"\]:::(\w+)', line):
            assert match[1] not in declared
            declared.add(match[1])
            Balanced().check(match[2])
        elif match := re.fullmatch(r'(n\d+) (?:-->|-\.->)(?:\|"[^"|\[\]]+"\|)? (n\d+)', line):
            assert {match[1], match[2]} <= declared
        else:
            assert line.startswith("classDef ")
    assert depth == 0
    assert len(declared) == len(plan(g, **options).boxes)


@pytest.mark.parametrize("options", [{}, {"depth": 0}, {"depth": 9}, {"plumbing": True}], ids=str)
def test_dot_is_well_formed(g, options):
    lines = g.to_dot(**options).splitlines()
    assert (lines[0], lines[-1]) == ("digraph {", "}")
    declared, depth = set(), 0
    for line in lines[4:-1]:
        line = line.strip()
        if line.startswith("subgraph"):
            assert re.fullmatch(r"subgraph cluster_\d+ \{", line)
            depth += 1
        elif line == "}":
            depth -= 1
        elif match := re.fullmatch(r"(n\d+) \[label=<(.+)>, fillcolor=.*\];", line):
            declared.add(match[1])
            Balanced().check(match[2])
        elif match := re.fullmatch(r"(n\d+) -> (n\d+) \[.*\];", line):
            assert {match[1], match[2]} <= declared
        else:
            assert re.fullmatch(r'label="(?:[^"\\]|\\.)*";', line)
    assert depth == 0
    assert len(declared) == len(plan(g, **options).boxes)


class Balanced(HTMLParser):
    """Checks that every tag is closed, in the right order."""

    def check(self, text):
        self.open = []
        self.feed(text)
        assert not self.open
        assert not re.search(r"<(?!/?(?:font|br)\b)", text)

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_tables(g):
    from rich.console import Console

    lines = str(g).splitlines()
    assert lines[0].split() == ["node", "operation", "operands", "shape", "value", "gradient", "scope", "source"]
    assert len(lines) <= 2 + 61
    console = Console(file=io.StringIO(), width=200)
    console.print(g.table(rows=None))
    written = console.file.getvalue()
    for node in g.arguments:
        assert f" {node.name} " in written


def test_notebooks_show_the_picture_and_the_table(g):
    html = g._repr_html_()
    assert html.startswith("<div")
    assert "<details><summary>table</summary><pre>" in html
    ElementTree.fromstring(g._repr_svg_())


# ----------------------------------------------------------------------------------------------------------------------
# What they say


def test_the_picture_of_the_lecture():
    found = texts(lecture().draw())
    for text in (
        "a",
        "b",
        "c",
        "a + b",
        "v₃ × c",
        "v₄²",
        "→ 81",
        "← 1",
        "→ 9",
        "← 18",
        "∂ 18",
        "∂ 3",
        "∂ 1",
        "→ value",
    ):
        assert text in found
    assert found.count("← 54") == 3 + 1 + 4  # of a, b, c; of v₃; on the links from these
    assert texts(lecture().draw(direction="down")).count("↑ 54") == 8


def test_the_seed_is_at_the_output_and_contributions_add_up():
    g = two_paths()
    drawing = plan(g)
    for box in drawing.boxes:
        uses = [use for link in drawing.links for use in link.uses if use.operand is box.node]
        if uses:
            np.testing.assert_allclose(sum(use.contribution for use in uses), box.node.gradient, rtol=1e-6)
        else:
            assert box.node.gradient == 1


def test_the_derivative_over_what_is_left_out_is_the_product():
    def f(x):
        return jnp.sum(jnp.reshape(jnp.reshape(3 * x, (1,)), ())) ** 2

    (link,) = [link for link in plan(graph.trace(f)(2.0)).links if link.uses[0].derivative == 12]
    assert len(link.uses[0].edges) >= 1
    assert link.uses[0].contribution == 12


def test_arrays_have_heat_maps_on_one_symmetric_scale():
    figure = network_in_arrays().draw()
    images = figure.axes[0].images
    boxes = [box.node for box in plan(network_in_arrays()).boxes]
    assert len(images) == 2 * sum(node.value.ndim > 0 for node in boxes) + 2  # and two in the legend
    assert {image.get_clim() for image in images} == {(-1, 1)}
    largest = max(np.abs(image.get_array()).max() for image in images[:-2])
    assert 1 <= largest < 3  # the cube root of the largest entry over the 98th percentile
    x = next(node for node in boxes if node.name == "x")
    assert any(np.count_nonzero(image.get_array()) == np.count_nonzero(x.value) for image in images)
    assert "4×2" in texts(figure)


def test_large_arrays_and_infinities_fit_into_a_map():
    assert as_matrix(np.ones((3, 100, 200))).shape == (48, 48)
    np.testing.assert_allclose(as_matrix(np.ones((300, 7)) * 2), np.full((48, 7), 2.0))
    assert as_matrix(np.arange(3)).shape == (1, 3)

    def f(x):
        masked = jnp.where(jnp.arange(3) > 1, -jnp.inf, x)
        return jnp.sum(jnp.exp(masked))

    graph.trace(f)(jnp.ones(3)).draw().savefig(io.BytesIO())


def test_plumbing_is_left_out_unless_asked_for():
    def f(x):
        mask = jnp.tril(jnp.ones((3, 3), bool))
        return jnp.sum(jnp.where(mask, x.reshape(1, 3), 0.0))

    g = graph.trace(f)(jnp.arange(3.0))
    primitives = {box.node.primitive for box in plan(g).boxes}
    assert primitives == {"argument", "select_n", "reduce_sum"}
    assert {"iota", "reshape"} <= {node.primitive for box in plan(g, plumbing=True).boxes for node in box.nodes}


def test_what_has_no_gradient_is_dashed():
    g = integers_in()
    dashed = [link for link in plan(g).links if not link.uses[0].edges]
    assert {link.source.node.name for link in dashed} == {"i", "n"}
    assert "-.->" in g.to_mermaid()
    assert "style=dashed" in g.to_dot()


def test_calls_of_one_function_are_boxes_of_their_own():
    g = layers()
    assert [title for title, _ in arranged(plan(g), "right").frames] == 3 * ["layer"]
    folded = [box for box in plan(g, depth=0).boxes if box.title]
    assert [box.title for box in folded] == 3 * ["layer"]
    assert texts(g.draw(depth=0)).count("3 operations") == 3
    assert "‖" in " ".join(texts(g.draw(depth=0)))


def test_stays_in_one_named_scope_are_told_apart():
    def f(x):
        for _ in range(3):
            with jax.named_scope("stay"):
                x = jnp.sin(jnp.cos(x))
        return x

    assert [title for title, _ in arranged(plan(graph.trace(f)(1.0)), "right").frames] == 3 * ["stay"]


def test_a_scope_around_everything_or_around_one_node_is_no_frame():
    g = graph.trace(jax.jit(lambda x: jax.nn.sigmoid(x) * 2))(1.0)
    assert not arranged(plan(g), "right").frames


def test_large_graphs_are_folded():
    assert len(many().nodes) > 300
    drawing = plan(many())
    assert len(drawing.boxes) <= MOST_BOXES
    assert sorted(box.title for box in drawing.boxes if box.title) == ["74 arguments", "…"]
    drawing = plan(recurrent(50))
    assert [box.title for box in drawing.boxes if box.title] == ["iterations 1 to 48"]
    assert len(plan(many(), depth=9).boxes) == 80 + 79 * 4


def test_a_folded_box_with_the_result_shows_it():
    def f(x):
        y = jnp.sin(x)
        with jax.named_scope("loss"):
            return (2 * y) ** 2

    g = graph.trace(f)(2.0)
    found = texts(g.draw(depth=0))
    assert {"loss", "2 operations", f"→ {compact(g.value)}", "← 1"} <= set(found)
    assert "loss #40;2 nodes#41;" in g.to_mermaid(depth=0)
    assert "← 1<" in g.to_mermaid(depth=0)


def test_a_frame_is_opened_where_forty_boxes_allow():
    titles = [box.title for box in plan(recurrent(20)).boxes]
    assert len(titles) <= MOST_BOXES
    assert {title for title in titles if title} < {f"iteration {i}" for i in range(20)}


def test_a_node_kept_whole_is_called_by_what_is_in_it():
    assert "scan ×5(w, x)" in str(recurrent(5, unroll=False))
    assert "relu v₂" in str(rectified())


@pytest.mark.parametrize(
    ("f", "label"),
    [
        (lambda x: x / 3.0, "x / 3"),
        (lambda x: 3.0 - x, "3 − x"),
        (lambda x: x * -2.0, "x × (−2)"),
        (lambda x: x**-1, "x⁻¹"),
        (lambda x: jax.lax.square(x), "x²"),
        (lambda x: jnp.abs(x), "|x|"),
        (lambda x: jax.lax.rsqrt(x), "1/√x"),
        (lambda x: jnp.sqrt(x), "√x"),
        (lambda x: jnp.exp(x), "exp x"),
        (lambda x: jnp.log(x), "ln x"),
        (lambda x: jax.nn.sigmoid(x), "σ x"),
        (lambda x: -x, "−x"),
        (lambda x: jnp.maximum(x, 0.5), "max(x, 0.5)"),
        (lambda x: jax.lax.select(x > 0, x, 2 * x), "where(…, x, v₄)"),
    ],
)
def test_symbols(f, label):
    (text,) = [t for t in texts(graph.trace(f)(2.0).draw()) if t == label]
    assert text


@pytest.mark.parametrize(
    ("spec", "label"),
    [
        ("ij,jk->ik", "A @ B"),
        ("ij,kj->ik", "A @ Bᵀ"),
        ("ji,jk->ik", "Aᵀ @ B"),
        ("bij,bjk->bik", "A @ B"),
        ("i,i->", "A @ B"),
        ("ijk,jkl->il", "A · B"),
    ],
)
def test_products(spec, label):
    left, right = (jnp.ones((2,) * len(part)) for part in spec.split("->")[0].split(","))
    g = graph.trace(lambda A, B: jnp.sum(jnp.einsum(spec, A, B)))(left, right)
    assert label in texts(g.draw())


@pytest.mark.parametrize(
    ("f", "label"),
    [
        (lambda x: x[1], "x[1]"),
        (lambda x: x[1:], "x[1:3]"),
        (lambda x: x[:, 1], "x[:, 1]"),
        (lambda x: jax.lax.slice(x, (0, 0), (3, 4), (2, 1)), "x[0:3:2]"),
    ],
)
def test_slices(f, label):
    assert label in texts(graph.trace(lambda x: jnp.sum(f(x)))(jnp.ones((3, 4))).draw())


def test_sums_name_their_axes_where_some_are_left():
    g = graph.trace(lambda x: jnp.sum(jnp.sum(x, axis=(0, 2))))(jnp.ones((2, 3, 4)))
    assert {"Σ x, axes 0 2", "Σ v₁"} <= set(texts(g.draw()))


def test_one_of_several_results():
    g = graph.trace(lambda A: jnp.sum(jnp.linalg.eigh(A).eigenvalues))(jnp.eye(2) + 0.1)
    assert any(re.fullmatch(r"eigh v?.* \[\d\]", text) for text in texts(g.draw()))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"), (-0.0, "0"), (1.0, "1"), (-3.0, "−3"), (0.1875, "0.1875"), (1234567.0, "1.235e6"),
        (1e-10, "1e−10"), (np.inf, "∞"), (-np.inf, "−∞"), (np.nan, "nan"), (True, "True"), (12345678, "12345678"),
        (np.float32(0.1), "0.1"), (1 - 2j, "1 − 2i"), (1 + 2j, "1 + 2i"),
    ],
)  # fmt: skip
def test_numbers_are_short(value, text):
    assert number(value) == text


def test_arrays_are_given_by_their_norm():
    assert compact(jnp.array([3.0, 4.0])) == "‖5‖"
    assert compact(jnp.full(4, 3e38, jnp.float32)) == "‖6e38‖"
    assert compact(None) == ""
    assert clipped("a" * 40) == "…" + "a" * 27


def test_empty_and_complex_arrays_are_drawn():
    g = graph.trace(lambda x, z: jnp.sum(x) + jnp.sum(jnp.abs(z * z)))(jnp.ones((0, 3)), jnp.full(3, 1 + 1j))
    assert "0×3" in texts(g.draw())
    test_nothing_overlaps_and_all_goes_forward(g, {}, "right")
    assert "‖2.449‖" in str(g)


def test_values_without_numbers():
    def f(key, x):
        return x * jax.random.normal(key, dtype=x.dtype)

    g = graph.trace(f)(jax.random.key(0), jnp.ones(()))
    g.draw().savefig(io.BytesIO())
    assert "key<fry>" in str(g)

    @jax.jit
    def traced(x):
        g = graph.trace(lambda x: x**2)(x)
        seen.extend([str(g), g.to_mermaid()])
        return g.gradients[0]

    seen = []
    traced(2.0)
    assert "float32" in seen[0]


# ----------------------------------------------------------------------------------------------------------------------
# Hostile surroundings


def test_names_are_escaped():
    names = [
        '"quoted"',
        "a]b[c",
        "<script>&amp;",
        "back\\slash",
        "$math$ _{x}",
        "{curly}|pipe",
        "日本",
        "π\n2",
        "`;end",
    ]
    g = graph.trace(lambda p: sum(p[name] ** 2 for name in names))(dict.fromkeys(names, 1.0))
    test_mermaid_is_well_formed(g, {})
    test_dot_is_well_formed(g, {})
    g.draw().savefig(io.BytesIO())
    assert "<script>" not in g._repr_html_()
    assert drawable("日π") == "\\u65e5π"


def test_the_users_style_changes_nothing():
    style = {"font.family": "cursive", "axes.facecolor": "black", "savefig.facecolor": "black", "lines.linewidth": 9}
    with mpl.rc_context(style):
        figure = lecture().draw()
    assert figure.get_size_inches().tolist() == lecture().draw().get_size_inches().tolist()
    assert mpl.colors.to_hex(figure.get_facecolor()) == "#ffffff"


def test_drawing_twice_gives_the_same():
    a, b = (network_in_scalars().to_mermaid() for _ in range(2))
    assert a == b
    g = network_in_scalars()
    assert arranged(plan(g), "right").width == arranged(plan(g), "right").width


def test_refusals():
    g = lecture()
    for depth in (-1, 1.5, True):
        with pytest.raises(ValueError, match=f"depth is {depth}, expected how many levels"):
            g.draw(depth=depth)
    with pytest.raises(ValueError, match="direction is 'up', expected 'right', 'down' or None"):
        g.draw(direction="up")
    for rows in (0, -3, True):
        with pytest.raises(ValueError, match=f"rows is {rows}, expected"):
            g.table(rows=rows)


def test_long_tables_say_what_is_left_out():
    lines = str(many()).splitlines()
    shown = sum(node.primitive != "constant" for node in many().nodes)
    assert f"… {shown - 60} more …" in lines
    assert len(lines) == 2 + 61
    assert lecture().table(rows=2).row_count == 3
    assert many().table(rows=None).row_count == shown


def test_what_is_missing_is_named(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.partition(".")[0] in ("matplotlib", "rich"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    for module in [name for name in sys.modules if name.startswith("jaxnet.graph.drawing")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(builtins, "__import__", without)
    g = lecture()
    with pytest.raises(ImportError, match=r"draw\(\) needs matplotlib: pip install jaxnet\[experiments\]"):
        g.draw()
    with pytest.raises(ImportError, match=r"table\(\) needs rich: pip install jaxnet\[experiments\]"):
        g.table()
    assert "v₃ × c" in str(g)
    assert g._repr_html_().startswith("<pre>")
    assert g._repr_svg_() is None


def test_drawing_needs_no_display_and_texts_no_matplotlib():
    code = (
        "import io, sys; from jaxnet import graph; g = graph.trace(lambda x: x ** 2)(3.0);"
        "str(g), g.to_mermaid(), g.to_dot(); assert not {'matplotlib', 'rich'} & set(sys.modules);"
        "g.draw().savefig(io.BytesIO()); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, env=os.environ | {"DISPLAY": ""})


# ----------------------------------------------------------------------------------------------------------------------
# The layout


@given(
    st.lists(st.tuples(st.floats(1, 90), st.floats(1, 60)), min_size=1, max_size=12),
    st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11), st.booleans()), max_size=25),
)
def test_any_graph_is_laid_out_without_overlaps(sizes, pairs):
    n = len(sizes)
    links = [
        layout.Link(min(a, b) % n, max(a, b) % n, Size(20, 15) if labelled else None)
        for a, b, labelled in pairs
        if min(a, b) % n < max(a, b) % n
    ]
    placed = layout.layered({i: Size(*size) for i, size in enumerate(sizes)}, links)
    rectangles = [around(placed.items[i], Size(*size)) for i, size in enumerate(sizes)]
    rectangles += [around(point, Size(20, 15)) for point in placed.labels.values()]
    for a, b in itertools.combinations(rectangles, 2):
        assert disjoint(a, b)
    for rectangle in rectangles:
        assert within(rectangle, (0, 0, *placed.size), slack=1e-3)
    assert len(placed.labels) == sum(link.label is not None for link in links)
    for i, link in enumerate(links):
        points = [point for stretch in placed.ways[i] for point in stretch]
        assert all(a.along <= b.along + 1e-6 for a, b in itertools.pairwise(points))
        assert placed.items[link.source].along < placed.items[link.target].along


def around(middle, size):
    return middle.along - size.length / 2, middle.across - size.breadth / 2, size.length, size.breadth


def test_crossings_are_undone():
    """Two ladders whose rungs cross in the order given."""
    sizes = {key: Size(10, 10) for key in "abcdef"}
    links = [layout.Link(*pair) for pair in ("ad", "bc", "ce", "df")]
    placed = layout.layered(sizes, links)
    across = {key: point.across for key, point in placed.items.items()}
    assert (across["a"] < across["b"]) == (across["d"] < across["c"]) == (across["f"] < across["e"])


def test_a_chain_is_straight():
    placed = layout.layered({i: Size(10, 10 + i) for i in range(9)}, [layout.Link(i, i + 1) for i in range(8)])
    assert len({round(point.across, 6) for point in placed.items.values()}) == 1
