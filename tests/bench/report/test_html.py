"""The page: one file, no requests, every chart with its table, readable at both widths."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import Counter
from html.parser import HTMLParser

import pytest
import runs
from msgspec.structs import replace

from nnkernels.bench import conclusions
from nnkernels.bench.report import html
from nnkernels.bench.text import legible
from nnkernels.errors import InputError

BROWSERS = ("chromium", "chromium-headless-shell", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def page() -> str:
    """All kinds of runs on one page, one of them interrupted."""
    found = runs.every_kind()
    return html.render([*found.values(), replace(found["peers"], complete=False)]).decode()


class Elements(HTMLParser):
    """Start tags with their attributes, texts by tag, ids, and figures with what follows them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if self.open and data.strip():
            self.texts.append((self.open[-1], data.strip()))

    def named(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


REQUESTING = {
    *("script", "link", "iframe", "img", "image", "object", "embed", "audio", "video", "source"),
    *("base", "form", "frame", "track", "input", "portal", "foreignobject"),
}


def test_nothing_is_requested(page):
    elements = Elements(page)
    assert not REQUESTING & {tag for tag, _ in elements.tags}
    for tag, attributes in elements.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            assert name not in ("src", "srcset", "action", "ping", "background", "data"), tag
            if name.endswith("href"):
                assert value.startswith("#"), (tag, value)
            if name != "xmlns" and not name.startswith("xmlns:"):
                assert not re.search(r"(https?:)?//", value or ""), (tag, name, value)
    urls = re.findall(r"url\(([^)]*)\)", page)
    assert all(url.startswith("#") for url in urls)
    assert "@import" not in page
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    assert {"http-equiv": "Content-Security-Policy", "content": policy} in elements.named("meta")


def test_it_is_small(page):
    assert len(page.encode()) < html.MOST_BYTES == 2_000_000


def test_every_chart_has_a_table_twin(page):
    parts = re.findall(r"<section>.*?</section>", page, re.DOTALL)
    charts = [part for part in parts if "<figure>" in part]
    assert len(charts) >= 7
    for part in charts:
        assert part.count("<figure>") == 1 and part.count("<svg") == 2
        assert part.index("<svg") < part.index("<tbody>")
        assert part.count("<tr>") > 1
    assert page.count("<svg") == 2 * len(charts)


def test_ids_are_unique_and_references_lead_somewhere(page):
    elements = Elements(page)
    ids = Counter(a["id"] for _, a in elements.tags if "id" in a)
    assert max(ids.values()) == 1
    references = {*re.findall(r"url\(#([^)]*)\)", page), *re.findall(r'href="#([^"]*)"', page)}
    assert references
    assert references <= set(ids)


def test_charts_take_the_pages_colours(page):
    svgs = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    colours = {c for svg in svgs for c in re.findall(r"#[0-9a-f]{6}\b", svg)}
    assert colours == set()
    used = set(re.findall(r"var\((--[\w-]+)\)", page))
    assert used <= set(re.findall(r"^  (--[\w-]+):", page, re.MULTILINE))
    assert "font-family" not in "".join(svgs) and "DejaVu" not in page


def test_the_answers_come_first_and_are_those_of_the_terminal(page):
    elements = Elements(page)
    texts = [text for tag, text in elements.texts if tag in ("h1", "p", "td", "th")]
    start = 0
    for kind, run in runs.every_kind().items():
        start = texts.index(html.QUESTIONS[kind], start) + 1
        answers = conclusions.of_run(run)
        assert texts[start : start + len(answers)] == answers


def test_texts_are_escaped(page):
    assert "Example 9000 &lt;fast &amp; cheap&gt;" in page
    assert "<fast" not in page and "mine:<b>" not in page


def test_verdicts_are_words(page):
    texts = {text for _, text in Elements(page).texts}
    assert {"▲ SLOWER", "▼ FASTER", "= SAME", "? UNSURE", "NEW", "GONE", "FAILED", "WRONG"} <= texts
    assert {"1.121  SLOWER", "1.024  UNSURE"} <= texts


def test_all_times_of_a_gpu_are_shown(page):
    texts = {text for _, text in Elements(page).texts}
    kinds = ("", " kernel time as one graph", " queued time", " e2e time")
    assert {f"cupy (2 threads){kind}" for kind in kinds} <= texts
    assert "launch-bound" in texts


def test_warnings_and_interruptions_are_shown(page):
    texts = [text for _, text in Elements(page).texts]
    assert "The second CPU is busy." in texts
    assert any(text.startswith("OPENBLAS_CORETYPE=Haswell forces") for text in texts)
    assert any(text.startswith("Other processes interrupted 24 of 240 samples") for text in texts)
    assert "incomplete" in texts
    assert "The run was interrupted: this is what it had measured." in texts


def test_an_empty_run_is_a_page_too():
    text = html.render([runs.run(complete=False)]).decode()
    assert "The run was interrupted" in text and "<figure>" not in text


def test_a_page_that_is_too_large_is_refused(monkeypatch):
    monkeypatch.setattr(html, "MOST_BYTES", 1000)
    with pytest.raises(InputError, match="at most"):
        html.render([runs.run()])


@pytest.mark.parametrize(
    "name", ["a$b$c_{d}", "\x1b[31mred", "</svg><script>", "数", "x" * 300, "_hidden", "%s {{ 1 }}"]
)
def test_any_name_can_be_shown(name):
    calibrated, crossed = runs.calibrate().calibration[0], runs.crossover().crossovers[0]
    found = [
        runs.run("bench", results=[runs.result(name, "1", b) for b in ("numpy", name)]),
        runs.run("ab", comparisons=[runs.comparison(name, backend=name, a=name)]),
        runs.run("roofline", ceilings=[runs.ceiling("gemm_flops", 1e11, method=name)]),
        runs.run("calibrate", calibration=[replace(calibrated, workload=name)]),
        runs.run("crossover", crossovers=[replace(crossed, sweep=name, a=name, workload=name)]),
    ]
    text = html.render([legible(run) for run in found]).decode()
    assert "<script" not in text and "\x1b" not in text
    assert Elements(text).named("h1")


@pytest.mark.parametrize("count", [45])
def test_a_chart_of_many_rows_says_that_the_table_has_more(count):
    many = [runs.comparison(f"w{number}") for number in range(count)]
    text = html.render([runs.run("ab", comparisons=many)]).decode()
    assert "The chart shows the first 40 of 45; the table has all." in text
    assert "w44[200000] numba float32" in text
    assert text.count("w44[200000] numba<") == 0


# --- in a browser -------------------------------------------------------------------------------

MEASURE = """<script>
const texts = [...document.querySelectorAll("svg text")].filter(t => t.getClientRects().length);
const found = {
  width: innerWidth,
  page: document.documentElement.scrollWidth,
  outside: [...document.querySelectorAll("h1, h2, p, li, figure, .scroll")].filter(
    e => e.getClientRects().length && (e.getBoundingClientRect().right > innerWidth + 0.5
      || e.getBoundingClientRect().left < 0)).length,
  charts: [...document.querySelectorAll("svg")].filter(s => s.getClientRects().length).length,
  figures: document.querySelectorAll("figure").length,
  scrolling: [...document.querySelectorAll(".scroll")].filter(
    s => s.scrollWidth > s.clientWidth && getComputedStyle(s).overflowX === "auto").length,
  smallest: Math.min(...texts.map(t => parseFloat(getComputedStyle(t).fontSize)
    * Math.hypot(t.getScreenCTM().a, t.getScreenCTM().b))),
  text: parseFloat(getComputedStyle(document.body).fontSize),
  requests: performance.getEntriesByType("resource").length,
};
document.title = "measured" + JSON.stringify(found);
</script>"""


@pytest.fixture(scope="module")
def browser() -> str:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    return found


@pytest.mark.parametrize("width", [1280, 400])
def test_it_is_readable_in_chromium(page, browser, tmp_path, width):
    policy = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')
    copy = tmp_path / "report.html"
    copy.write_text(policy.sub("", page).replace("</body>", f"{MEASURE}</body>"), "utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/user"]
    done = subprocess.run(
        [browser, *options, f"--window-size={width},900", "--dump-dom", copy.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = json.loads(re.search(r"<title>measured(.*?)</title>", done.stdout)[1])
    assert found["width"] == width
    assert found["page"] <= width
    assert found["outside"] == 0
    assert found["charts"] == found["figures"] >= 7
    assert found["smallest"] >= 10.5
    assert found["text"] == 16
    assert found["requests"] == 0
    assert found["scrolling"] > 0 or width > 400
