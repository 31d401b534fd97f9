"""An audit that dies in its third check where told to.

In a process of its own: ``from tests.xai.saved_audit import main; main([OUT, ...])``.
"""

from __future__ import annotations

import argparse
import os
import signal
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from sklearn.cluster import KMeans

from tests.xai.examples import HOSTILE
from xai.audit import Audit, Check, asking
from xai.datasets import fashion_mnist, plant_mark
from xai.report import (
    BeforeAfter,
    Counterfactual,
    Finding,
    Measure,
    NotAssessable,
    Passed,
    Picture,
    Suspect,
)


class Everything(Check):
    """Says all that an answer can hold, or dies."""

    name = f"every/thing {HOSTILE}"
    question = "Is everything kept?"

    def run(self, audit):
        if DIE == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if DIE == "raise":
            raise RuntimeError("stopped")
        figure = Figure(figsize=(3, 2))
        figure.subplots().plot(audit.evidence[:20])
        yield Finding(
            "warning",
            f"A title with {HOSTILE} and \udcff.",
            Measure("size", np.float32(1) / 3, "<", np.inf),
            "Explanation\nin two lines.",
            "Advice.",
            Counterfactual(
                "Tested.",
                {"nothing": np.nan, "all": -np.inf, "some": np.float64(0.1) + 0.2, "n": 123456},
                [BeforeAfter("share", 0.1, np.float64(0.7), None), BeforeAfter("n", 1, 2, 3)],
            ),
            [Picture(figure, "caption", "alt")],
            audit.names(np.arange(30)),
            Suspect("group", "site", {"groups": np.array(["A", "B"], dtype=object)}),
        )
        yield Passed(Measure("fine", True, "<=", 1), "note")
        yield NotAssessable("Why?", "Because.")


DIE = ""


def main(arguments):
    """Audit, and write report.html, report.json and report.xml into a new folder."""
    global DIE
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--save", type=Path)
    parser.add_argument("--die", default="")
    options = parser.parse_args(arguments)
    DIE = options.die
    clock = count()
    with pytest.MonkeyPatch.context() as patch:
        # The clock ticks once per look, so that times do not depend on the machine.
        patch.setattr(asking.time, "perf_counter", lambda: float(next(clock)))
        _audit(options)


def _audit(options):
    data = fashion_mnist("train", classes=["Dress", "Trouser"])
    images, _ = plant_mark(data.images[:300], np.arange(0, 90, 2))
    model = KMeans(3, n_init=1, random_state=0).fit(images.reshape(300, -1))
    checks = ["conservation", "collapse", Everything(), "placement"]
    audit = Audit(model, images, checks=checks, save_to=options.save, progress=False)
    report = audit.run()
    assert any(finding.check == "placement" for finding in report.findings)
    options.out.mkdir()
    report.to_html(options.out / "report.html")
    report.to_json(options.out / "report.json")
    report.to_junit(options.out / "report.xml")
