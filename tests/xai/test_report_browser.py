"""A report in a real browser: every picture is there, nothing overflows at either width."""

import json
import re
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
from sklearn.cluster import KMeans

from xai.audit import Audit
from xai.datasets import fashion_mnist, plant_mark
from xai.report import Report, Section, Table

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on PATH"),
]

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
# have a smallest width of their own.
PROBE = """
<iframe id=f width={width} height=900 style="border:0" srcdoc="{page}"></iframe>
<pre id=out></pre>
<script>
document.getElementById("f").onload = e => {{
  const d = e.target.contentDocument, w = d.documentElement.clientWidth;
  const wide = [...d.querySelectorAll("main *")].filter(n => !n.closest(".scroll")
    && n.getBoundingClientRect().right > w + 1).map(n => n.tagName);
  document.getElementById("out").textContent = JSON.stringify({{
    width: w, scroll: d.documentElement.scrollWidth, wide,
    pictures: [...d.images].map(i => [i.complete, i.naturalWidth, i.getBoundingClientRect().width]),
    headline: d.querySelector(".headline").getBoundingClientRect().bottom,
    columns: getComputedStyle(d.querySelector("dl")).gridTemplateColumns.split(" ").length,
  }});
}};
</script>
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A report with all that a report can have, and names that are hard to break."""
    data = fashion_mnist("train", classes=["Dress", "Trouser"])
    chosen = np.random.default_rng(0).permutation(len(data))[:400]
    images, _ = plant_mark(data.images[chosen], np.arange(60))
    model = KMeans(3, n_init=1, random_state=0).fit(images.reshape(400, -1))
    audit = Audit(model, images, name="a_model_" + "x" * 80).run()
    wide = pd.DataFrame({f"column number {i}": [i / 7] for i in range(30)})
    report = Report(
        "An audit of something_" + "y" * 60,
        audit.answers,
        [Section("Wide", "Word " + "z" * 200, (), [Table(wide, "A table wider than any screen")])],
        {"input_sha256": "0123456789abcdef" * 4},
    )
    assert report.findings
    return report.to_html(tmp_path_factory.mktemp("report") / "report.html").read_text()


@pytest.mark.parametrize(("width", "columns"), [(1280, 2), (400, 1)])
def test_pictures_are_there_and_nothing_overflows(page, width, columns, tmp_path):
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
            "--virtual-time-budget=5000",
            "--dump-dom",
            probe.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = json.loads(re.search(r'<pre id="out">(.*?)</pre>', run.stdout, re.S).group(1))
    assert found["width"] == width
    assert found["scroll"] <= width
    assert found["wide"] == []
    assert len(found["pictures"]) == page.count("<img") > 0
    for complete, natural, displayed in found["pictures"]:
        assert complete and natural > 100
        assert 100 < displayed <= width
    assert found["headline"] < 500  # the verdict is on the first screen
    assert found["columns"] == columns
