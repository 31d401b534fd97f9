"""The appendix, and the line that asks a finding again."""

from typing import ClassVar

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.datasets import load_wine
from torch import nn

import xai
from tests.xai.examples import HOSTILE
from xai.audit import Audit, Check
from xai.audit.reproduce import command_line
from xai.printout import report_text
from xai.report import Finding, Measure, NotAssessable, Passed, Report

WINE = load_wine().data
MODEL = KMeans(3, n_init=1, random_state=0).fit(WINE)


def encoder():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ).eval()


def section(report, title):
    (found,) = [section for section in report.appendix if section.title.startswith(title)]
    return found


def test_every_operation_of_an_encoder_is_listed_with_its_rule():
    x = np.random.default_rng(0).random((30, 1, 8, 8)).astype(np.float32)
    net = encoder()
    with torch.no_grad():
        model = KMeans(2, n_init=1, random_state=0).fit(net(torch.tensor(x)).numpy())
    report = Audit(model, x, features=net, checks=["conservation"], progress=False).run()
    (table,) = section(report, "Operations").tables
    listed = dict(zip(table.frame.index, table.frame["operation"], strict=True))
    assert (
        listed["0"].startswith("conv2d")
        and listed["2"] == "relu"
        and listed["3"].endswith("pool2d")
    )
    expected = xai.coverage(net, torch.tensor(x[:2]))
    assert list(table.frame["rule"]) == [line.rule for line in expected.lines]
    assert expected.composite in table.caption
    assert report.to_dict()["appendix"][1]["tables"][0]["index"] == list(table.frame.index)


def test_a_network_that_cannot_be_listed_says_why():
    class Sort(nn.Module):
        def forward(self, x):
            return torch.linalg.svdvals(x.reshape(len(x), 8, 8))

    x = np.random.default_rng(0).random((30, 1, 8, 8)).astype(np.float32)
    model = KMeans(2, n_init=1, random_state=0).fit(Sort()(torch.tensor(x)).numpy())

    class Silent(Check):
        name, question = "silent", "Is it silent?"

        def run(self, audit):
            yield NotAssessable(self.question, "It is.")

    report = Audit(model, x, features=Sort(), checks=[Silent()], progress=False).run()
    assert "svdvals" in section(report, "Operations").text


def test_shallow_models_have_no_operations_and_every_threshold():
    class Bounded(Check):
        name, question = "bounded", "Is it bounded?"
        thresholds: ClassVar = {"height": "at most 3", "size": "at most 7"}

        def run(self, audit):
            yield Passed(Measure("size", 1, "<=", 7))

    report = Audit(MODEL, WINE, checks=["collapse", Bounded()], progress=False).run()
    (found,) = report.appendix
    (table,) = found.tables
    assert "Is it bounded?" in found.text
    mine = table.frame.loc["bounded"]
    assert dict(zip(mine["measure"], mine["fine if"], strict=True)) == Bounded.thresholds
    measured = {p.measure.name for p in report.passed if p.check == "collapse"}
    assert measured == set(table.frame.loc["collapse", "measure"])


def test_the_line_of_python_asks_one_check_again():
    groups = np.arange(178) % 3
    report = Audit(MODEL, WINE, groups=groups, seed=5, progress=False).run()
    commands = {answer.check: answer.command for answer in report.answers}
    assert commands["groups"] == (
        "xai.Audit(model, data, groups=groups, checks=['groups'], seed=5).run()"
    )
    again = eval(commands["groups"], {"xai": xai, "model": MODEL, "data": WINE, "groups": groups})
    whole = [a for a in report.to_dict()["passed"] if a["check"] == "groups"]
    assert again.to_dict()["passed"] == whole


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["audit", "m", "--check", "a", "--check=b", "--json"], "xai audit m --check c --seed 3"),
        (
            ["audit", "m", "--out", "o", "--save=s", "--junit", "j"],
            "xai audit m --check c --seed 3",
        ),
        (["audit", "m", "--seed", "9", "--overwrite"], "xai audit m --check c --seed 3"),
        (["audit", "m", "--data", "--out"], "xai audit m --data --check c --seed 3"),
        (["audit", "a b;rm -r $HOME"], "xai audit 'a b;rm -r $HOME' --check c --seed 3"),
    ],
)
def test_the_command_keeps_what_is_asked_of_what(words, expected):
    assert command_line(words, "c", 3) == expected


def test_the_text_has_names_on_one_line_and_nothing_a_terminal_obeys():
    name = f"{HOSTILE}\x1b[2J\x07\u202egnp\nline\r\x00{'n' * 9}"
    made = Report(
        name,
        [
            Finding("critical", name, Measure(name, 1, "<", 0), subject=name, check=name),
            NotAssessable(name, name, subject=name, check=name),
        ],
        seconds={name: 1.0},
    )
    text = report_text(made)
    assert HOSTILE in text and len(text.splitlines()) == 6
    assert all(c.isprintable() or c == "\n" for c in text)
