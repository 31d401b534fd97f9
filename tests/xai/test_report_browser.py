"""Reports in a real browser: pictures, widths, keyboard, contrast, names with markup in them."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html import unescape

import numpy as np
import pandas as pd
import pytest
from sklearn.cluster import KMeans

from tests.xai.examples import HOSTILE
from xai.audit import Audit
from xai.datasets import fashion_mnist, plant_mark
from xai.report import (
    BeforeAfter,
    Finding,
    Measure,
    NotAssessable,
    Report,
    Section,
    Table,
    compare,
)
from xai.report.html import comparison_page
from xai.report.html import page as report_page

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on PATH"),
]

NAMES = (
    HOSTILE,
    '"><img src=x onerror=alert(1)>',
    "{{ 7 * 7 }} {% raw %}",
    "\u202egnp.exe",
    "two\nlines\x00\x1b[31m",
    "n" * 5000,
)

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
]

# Only the test's copy of the page gets a script, in a frame as wide as the screen: headless windows
# have a smallest width of their own. Everything that can be opened is opened first.
PROBE = """
<iframe id=f width={width} height=900 style="border:0" srcdoc="{page}"></iframe>
<pre id=out></pre>
<script>
function channels(colour) {{
  const found = colour.match(/[\\d.]+/g).map(Number);
  return {{rgb: found.slice(0, 3), alpha: found.length > 3 ? found[3] : 1}};
}}
function light(rgb) {{
  const [r, g, b] = rgb.map(c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}}
function ground(n, style) {{
  for (; n; n = n.parentElement) {{
    const c = channels(style(n).backgroundColor);
    if (c.alpha == 1) return c.rgb;
  }}
  return [255, 255, 255];
}}
function ratio(a, b) {{
  const [low, high] = [light(a), light(b)].sort((p, q) => p - q);
  return (high + 0.05) / (low + 0.05);
}}
document.getElementById("f").onload = e => {{
  const d = e.target.contentDocument, w = d.documentElement.clientWidth;
  const style = n => d.defaultView.getComputedStyle(n), all = q => [...d.querySelectorAll(q)];
  const name = n => n.tagName + "." + n.className + ": " + n.textContent.trim().slice(0, 40);
  const headline = d.querySelector(".headline").getBoundingClientRect().bottom;
  all("details").forEach(n => n.open = true);
  const wide = all("main *").filter(n => !n.parentElement.closest(".scroll, pre")
    && n.getBoundingClientRect().right > w + 1).map(name);
  const scrolls = all("main *").filter(n => n.scrollWidth > n.clientWidth + 1
    && ["auto", "scroll"].includes(style(n).overflowX));
  const keyed = all("summary, [tabindex]");
  const unseen = keyed.filter(n => {{
    n.focus();
    const ring = style(n);
    return d.activeElement !== n || ring.outlineStyle == "none" || parseFloat(ring.outlineWidth) < 2
      || ratio(channels(ring.outlineColor).rgb, ground(n.parentElement, style)) < 3;
  }}).map(name);
  const texts = all("body *").filter(n => [...n.childNodes].some(
    c => c.nodeType == 3 && c.textContent.trim()) && n.tagName != "STYLE");
  const faint = texts.map(n => [ratio(channels(style(n).color).rgb, ground(n, style)), name(n)])
    .filter(([found]) => !(found >= 4.5));
  const bars = all(".length span").map(n => ratio(channels(style(n).backgroundColor).rgb,
    ground(n.parentElement, style)));
  document.getElementById("out").textContent = JSON.stringify({{
    width: w, scroll: d.documentElement.scrollWidth, wide, unseen, faint, bars, headline,
    unkeyed: scrolls.filter(n => n.tabIndex != 0 || !n.getAttribute("aria-label")).map(name),
    texts: texts.length, keyed: keyed.length, scripts: d.scripts.length,
    pictures: [...d.images].map(i => [i.complete, i.naturalWidth, i.getBoundingClientRect().width]),
    columns: style(d.querySelector("dl")).gridTemplateColumns.split(" ").length,
    body: d.body.innerText,
  }});
}};
</script>
"""


@pytest.fixture(scope="module")
def page():
    """A report with all that a report can have, and names that are hard to break."""
    data = fashion_mnist("train", classes=["Dress", "Trouser"])
    chosen = np.random.default_rng(0).permutation(len(data))[:400]
    images, _ = plant_mark(data.images[chosen], np.arange(60))
    model = KMeans(3, n_init=1, random_state=0).fit(images.reshape(400, -1))
    audit = Audit(model, images, name="a_model_" + "x" * 80, command=["audit", "z" * 200]).run()
    (first, *others) = audit.findings
    pairs = [BeforeAfter("share " + "y" * 90, 0.1, 0.7, 0.2), BeforeAfter("another", 3, 0)]
    test = replace(first.counterfactual, before_after=pairs)
    wide = pd.DataFrame({f"column number {i}": [i / 7] for i in range(30)})
    return Report(
        "An audit of something_" + "y" * 60,
        [
            replace(first, samples=NAMES, counterfactual=test),
            *others,
            *audit.passed,
            NotAssessable("A question?", "w" * 300, check="placement"),
            Finding("info", "A note about " + " and ".join(NAMES), Measure(NAMES[0], 1, "<", 0)),
            Finding("warning", NAMES[0], Measure("m", 1, "<", 0), check="c" * 90),
        ],
        [Section("Wide", "Word " + "z" * 200, (), [Table(wide, "A table wider than any screen")])],
        {"input_sha256": "0123456789abcdef" * 4},
        appendix=audit.appendix,
        seconds=audit.seconds,
    )


@pytest.fixture(scope="module")
def pages(page):
    """The report, and a comparison of it with one that has less."""
    fewer = replace(page, answers=[page.findings[0], *page.passed])
    return {"report": report_page(page), "comparison": comparison_page(compare(fewer, page))}


@pytest.mark.parametrize("kind", ["report", "comparison"])
@pytest.mark.parametrize(("width", "columns"), [(1280, 2), (400, 1)])
def test_it_can_be_read_and_reached_at_either_width(pages, kind, width, columns, tmp_path):
    page = pages[kind]
    escaped = page.replace("&", "&amp;").replace('"', "&quot;")
    probe = tmp_path / "probe.html"
    # The page's own policy forbids nothing the probe does: the script is outside its frame.
    probe.write_text("<!DOCTYPE html>" + PROBE.format(width=width, page=escaped))
    run = subprocess.run(
        [
            BROWSER,
            *FLAGS,
            f"--user-data-dir={tmp_path / 'profile'}",
            "--window-size=1400,1000",
            "--enable-logging=stderr",
            "--virtual-time-budget=5000",
            "--dump-dom",
            probe.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert [line for line in run.stderr.splitlines() if "CONSOLE" in line] == []
    found = json.loads(unescape(re.search(r'<pre id="out">(.*?)</pre>', run.stdout, re.S).group(1)))
    assert found["width"] == width
    assert found["scroll"] <= width
    assert found["wide"] == []
    assert len(found["pictures"]) == page.count("<img")
    assert (kind == "report") == bool(found["pictures"])
    for complete, natural, displayed in found["pictures"]:
        assert complete and natural > 100
        assert 100 < displayed <= width
    assert found["headline"] < 500  # the verdict is on the first screen
    assert found["columns"] == columns
    assert found["unkeyed"] == [] and found["unseen"] == [] and found["keyed"] > 2
    assert found["faint"] == [] and found["texts"] > 30
    assert all(contrast >= 3 for contrast in found["bars"])
    assert found["scripts"] == 0 and HOSTILE in found["body"]
