"""The page of results: complete, contained in itself, and as it shows in a browser."""

import base64
import json
import re
import shutil
import subprocess
from html import escape
from html.parser import HTMLParser
from types import SimpleNamespace
from urllib.parse import unquote

import pytest
from matplotlib.figure import Figure

from experiments import MODULES, digits, gallery, records, xor
from experiments.common import Claim, Result, Verdict

LONG = "an_expression_without_any_space_" * 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Results of all kinds: with narrow and wide figures, texts that could break a page, failed, skipped."""
    folder = tmp_path_factory.mktemp("results")
    figures = {"narrow": Figure((6, 4)), "wide": Figure((14, 4)), "of_nothing": Figure()}
    for name in ("narrow", "wide"):
        figures[name].subplots().set(title='cost & "accuracy"', xlabel="epoch", ylabel="cost")
    agreement = {name: {"relative_error": 1e-16, "tolerance": 1e-12, "holds": True} for name in ("float64", "float32")}
    numbers = {"<b>": 1.5, LONG: 2.0, "gradient_agreement": agreement, "seconds": 3.25}
    claims = (
        Claim("It is <b>so</b> & `f(x)` says it.", Verdict.HOLDS, "1 < 2"),
        Claim(LONG, Verdict.FAILS, LONG),
        Claim("Who knows?", Verdict.OPEN, "No one."),
    )
    records.save("xor", xor.run, xor.Settings(hidden=3, output=folder), Result(numbers, figures, claims))
    settings = digits.Settings(output=folder)
    records.save_reason("digits", digits.run, settings, records.Outcome.SKIPPED, "the files are not here")
    records.save_reason(MODULES[0], digits.run, settings, records.Outcome.FAILED, f"ValueError: <{LONG}>")
    gallery.write(folder)
    return folder


VOID = {"meta", "link", "img", "use", "path"}


class Reader(HTMLParser):
    """What a page is made of; fails where tags do not close in order."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.text = [], [], ""
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text += data

    def all(self, tag):
        return [attrs for found, attrs in self.tags if found == tag]


@pytest.fixture(scope="module")
def reader(folder):
    return Reader((folder / "index.html").read_text(encoding="utf-8"))


def test_everything_is_told(reader, folder):
    for words in (
        "It is <b>so</b> & f(x) says it.", "1 < 2", "holds", "does not hold", "not enough evidence", "3.2 s", "<b>",
        "python -m experiments.xor --hidden 3", "skipped", "the files are not here", "failed", f"ValueError: <{LONG}>",
        "1 claim holds", "1 does not hold", "1 without enough evidence", "1 experiment skipped", "1 experiment failed",
    ):  # fmt: skip
        assert words in reader.text
    assert not reader.all("b")
    assert str(folder) not in reader.text


def test_headings_and_links_lead_somewhere(reader):
    ids = [attrs["id"] for _, attrs in reader.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert [tag for tag, _ in reader.tags if re.fullmatch("h[1-6]", tag)] == ["h1", "h2", "h2", "h2", "h2"]
    targets = [attrs["href"].removeprefix("#") for attrs in reader.all("a") + reader.all("use")]
    assert {"xor", "xor-3", "digits"} <= set(targets) <= set(ids)


def test_it_refers_to_nothing_outside(reader, folder):
    assert not re.search("https?://", (folder / "index.html").read_text(encoding="utf-8"))
    assert not reader.all("script")
    assert [attrs["href"] for attrs in reader.all("link")] == ["data:,"]
    assert "default-src 'none'" in {attrs.get("content", "")[:18] for attrs in reader.all("meta")}


def test_every_figure_is_embedded_as_the_smaller_of_its_files(reader, folder):
    images = reader.all("img")
    for image, name in zip(images, ("narrow", "wide", "of_nothing"), strict=True):
        files = [(folder / f"xor_{name}.{kind}").read_bytes() for kind in ("png", "svg")]
        assert base64.b64decode(image["src"].partition("base64,")[2]) == min(files, key=len)
    assert [image["alt"] for image in images] == ['cost & "accuracy": cost against epoch'] * 2 + ["of nothing"]


def test_the_page_is_a_function_of_the_folder(folder, tmp_path):
    again = shutil.copytree(folder, tmp_path / "again")
    (again / "index.html").unlink()
    assert gallery.write(again).read_bytes() == (folder / "index.html").read_bytes()


def test_what_is_damaged_or_missing_is_left_out(folder, tmp_path):
    again = shutil.copytree(folder, tmp_path / "again")
    first, *_ = sorted(again.glob("*.png"))
    first.unlink()
    with pytest.warns(UserWarning, match=rf"{first.name} is missing; run the experiment again"):
        Reader(gallery.page(again))
    (again / "xor.json").write_text((again / "xor.json").read_text()[:100])
    with pytest.warns(UserWarning, match=r"xor\.json is damaged, and left out of the page; run it again"):
        Reader(gallery.page(again))
    (again / "xor.json").write_text("5")
    with pytest.warns(UserWarning, match=r"xor\.json is damaged, and left out of the page; run it again"):
        Reader(gallery.page(again))


def test_an_error_that_is_not_finite_differs(folder, tmp_path):
    again = shutil.copytree(folder, tmp_path / "again")
    document = json.loads((again / "xor.json").read_text())
    document["numbers"]["gradient_agreement"]["float64"] |= {"relative_error": None, "holds": False}
    (again / "xor.json").write_text(json.dumps(document))
    page = gallery.page(again)
    assert "Relative error inf in float64" in page
    assert "a relative error of inf at the most" in page


def test_nothing_to_show(tmp_path):
    empty = gallery.page(tmp_path)
    Reader(empty)
    (tmp_path / "xor.json").write_text('{"experiment": "xor", "numbers": {}}')  # of an earlier version
    assert gallery.page(tmp_path) == empty


PROBE = """
<script>
addEventListener("load", () => {
  const colour = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const luminance = ([r, g, b]) => [r, g, b].map(c => c / 255)
    .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = element => {
    for (let e = element; e; e = e.parentElement) {
      const found = colour(getComputedStyle(e).backgroundColor);
      if (found.length === 3 || found[3] === 1) return found;
    }
    return [255, 255, 255];
  };
  const contrast = element => {
    const [a, b] = [colour(getComputedStyle(element).color), behind(element)].map(luminance);
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  };
  const scrolls = element => {
    for (let e = element.parentElement; e; e = e.parentElement)
      if (getComputedStyle(e).overflowX === "auto") return true;
    return false;
  };
  const name = e => `${e.tagName} ${e.className} ${e.textContent.trim().slice(0, 30)}`;
  document.querySelectorAll("details").forEach(e => e.open = true);
  const all = [...document.body.querySelectorAll(":not(svg *):not(script)")];
  const written = all.filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()));
  const found = {
    width: innerWidth,
    page: document.documentElement.scrollWidth,
    dark: luminance(behind(document.body)) < 0.5,
    beyond: all.filter(e => !scrolls(e) && e.getBoundingClientRect().right > innerWidth + 0.5).map(name),
    missing: [...document.images].filter(e => !e.complete || !e.naturalWidth).map(name),
    white: [...document.images].every(e => luminance(behind(e)) === 1),
    faint: written.filter(e => contrast(e) < 4.5).map(name),
  };
  parent.document.documentElement.dataset.found = btoa(encodeURIComponent(JSON.stringify(found)));
});
</script>
"""


@pytest.fixture(scope="module")
def chromium():
    """The browser, or the reason why the test is skipped."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    return found or pytest.skip(f"needs a browser on the PATH, one of {', '.join(names)}")


def seen(chromium, page, folder, width, scheme):
    """What the browser shows of a page in a frame (no window is as narrow as a phone), and what its console says."""
    page = page.replace("default-src 'none'", "default-src 'none'; script-src 'unsafe-inline'")
    page = escape(page.replace("<head>", f"<head>{PROBE}", 1))
    path = folder / "probed.html"
    path.write_text(
        f'<!DOCTYPE html><html style="color-scheme: light dark"><meta charset="utf-8"><link rel="icon" href="data:,">'
        f'<iframe style="border: 0; width: {width}px; height: 900px" srcdoc="{page}"></iframe></html>',
        encoding="utf-8",
    )
    command = [
        chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
        f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr", "--hide-scrollbars",
        f"--blink-settings=preferredColorScheme={('dark', 'light').index(scheme)}", "--dump-dom", path.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    report = re.search('data-found="(.*?)"', done.stdout)
    assert report, done.stderr
    found = json.loads(unquote(base64.b64decode(report[1]).decode()))
    return SimpleNamespace(**found, said=re.findall("CONSOLE.*", done.stderr))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1280])
def test_in_a_browser(chromium, folder, tmp_path, width, scheme):
    page = seen(chromium, (folder / "index.html").read_text(encoding="utf-8"), tmp_path, width, scheme)
    assert page.width == page.page == width
    assert page.dark == (scheme == "dark")
    assert page.white
    assert page.beyond == page.missing == page.faint == page.said == []


def test_the_browser_finds_what_is_wrong(chromium, tmp_path):
    page = """<!DOCTYPE html><html><head></head><body>
    <p style="width: 500px">wide</p><p style="color: #999">faint</p><img src="data:image/png;base64,AAAA">
    <script>console.error("spoken")</script></body></html>"""
    found = seen(chromium, page, tmp_path, 375, "light")
    assert found.page > 375
    assert found.beyond == ["P  wide"]
    assert found.faint == ["P  faint"]
    assert found.missing == ["IMG  "]
    assert len(found.said) == 1
