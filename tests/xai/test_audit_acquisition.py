"""Traces of devices and codecs: kinds are found where they were made, and tested in the model."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from scipy.fft import dctn
from sklearn.cluster import KMeans
from sklearn.neighbors import KernelDensity
from sklearn.svm import OneClassSVM
from torch import nn

from neuralize import neuralize
from xai.audit import Audit
from xai.audit.acquisition import Acquisition, _auroc
from xai.audit.conditions import blurred, compressed, noisy, resized, tinted
from xai.audit.context import AuditContext
from xai.audit.forecast import held_against
from xai.audit.imitation import Kinds, imitation
from xai.audit.inputs import anomalies
from xai.audit.moves import natural_moves
from xai.audit.signatures import SIGNATURES, signatures, two_kinds
from xai.audit.spectrum import Spectrum, reaction, relevance_by_frequency
from xai.datasets import fashion_mnist
from xai.virtual_layers import frequency

NAMED = {s.name: s for s in SIGNATURES}


@pytest.fixture(scope="module")
def clothes():
    data = fashion_mnist("train", classes=["T-shirt/top", "Dress", "Coat"])
    chosen = np.random.default_rng(0).permutation(len(data))[:600]
    return data.images[chosen]


def third(pictures, change):
    """Pictures of which a random third was changed, and which."""
    which = np.random.default_rng(1).random(len(pictures)) < 1 / 3
    out = pictures.copy()[..., None]
    out[which] = change(out[which])
    return out[..., 0], which


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("draw", ["normal", "gamma", "uniform", "student"])
def test_one_kind_is_one_kind(seed, draw):
    rng = np.random.default_rng(seed)
    values = {
        "normal": rng.normal(size=400),
        "gamma": rng.gamma(1.5, size=400),
        "uniform": rng.random(400),
        "student": rng.standard_t(3, size=400),
    }[draw]
    assert two_kinds(values) is None


def test_two_kinds_are_parted_at_the_valley():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(0, 1, 300), rng.normal(9, 2, 60)])
    assert (two_kinds(values) == (np.arange(360) >= 300)).mean() > 0.98
    assert two_kinds(np.concatenate([values[:300], values[300:305]])) is None  # too few


@pytest.mark.parametrize("constant", [0.0, 3.7])
def test_equal_values_are_one_kind(constant):
    assert two_kinds(np.full(100, constant)) is None
    assert two_kinds(constant + 1e-16 * np.arange(100)) is None


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("fineness", lambda p: blurred(p, 1.0)),
        ("fineness", lambda p: resized(p, 0.5)),
        ("noise", lambda p: noisy(p, 0.1, np.random.default_rng(0))),
    ],
)
def test_a_change_of_a_third_is_found_in_its_rows(clothes, name, change):
    pictures, which = third(clothes, change)
    values = {s.name: v for s, v in signatures(pictures[..., None])}[name]
    more = two_kinds(values)
    assert max((more == which).mean(), (more != which).mean()) > 0.97


def test_clean_clothes_are_of_one_kind(clothes):
    assert all(two_kinds(v) is None for _, v in signatures(clothes[..., None]))


def test_traces_are_of_pictures_between_zero_and_one(clothes):
    pictures = clothes[:40, ..., None]
    of_bytes = dict(signatures(255 * pictures - 10, -10.0, 255.0))
    for signature, values in signatures(pictures):
        assert of_bytes[signature] == pytest.approx(values, abs=1e-3)


def test_traces_do_not_depend_on_how_many_are_looked_at_at_a_time(clothes, monkeypatch):
    pictures = clothes[:7, ..., None]
    whole = dict(signatures(pictures))
    monkeypatch.setattr("xai.audit.signatures.NUMBERS_AT_ONCE", 3 * pictures[0].size)
    in_parts = dict(signatures(pictures))
    for signature, values in whole.items():
        assert in_parts[signature] == pytest.approx(values, abs=1e-12)


def test_compression_is_told_from_its_blocks():
    """Noise keeps fine coefficients away from zero; JPEG on its own grid brings them there."""
    rng = np.random.default_rng(0)
    plain = np.clip(0.5 + 0.1 * rng.normal(size=(8, 32, 32, 1)), 0, 1)
    values = NAMED["compression"].of(np.concatenate([plain, compressed(plain, 20)]))
    assert values[:8].max() < 0.1 < 0.3 < values[8:].min()


def test_conditions_are_what_they_say():
    rng = np.random.default_rng(0)
    pictures = rng.random((3, 20, 24, 3))
    by_hand = np.stack(
        [
            [ndimage.gaussian_filter(p[..., c], 0.8, mode="nearest") for c in range(3)]
            for p in pictures
        ]
    )
    assert np.allclose(blurred(pictures, 0.8), np.moveaxis(by_hand, 1, -1))
    file = io.BytesIO()
    Image.fromarray(np.rint(pictures[1] * 255).astype(np.uint8)).save(file, "JPEG", quality=40)
    assert np.array_equal(compressed(pictures, 40)[1], np.asarray(Image.open(file)) / 255)
    assert resized(pictures, 0.5).shape == pictures.shape
    assert np.allclose(resized(np.full((1, 20, 24, 1), 0.3), 0.5), 0.3)
    assert np.allclose(tinted(pictures, np.log([1, 1, 0.5])), pictures * [1, 1, 0.5])
    assert noisy(pictures, 0.5, rng).min() >= 0


@pytest.mark.parametrize("name", ["fineness", "noise", "redness"])
def test_an_imitation_has_the_trace_of_the_other_kind(clothes, name):
    pictures = np.repeat(clothes[:200, :, :, None], 3, axis=-1)
    pictures *= 0.5 if name == "redness" else 1  # room for more
    which = np.arange(200) % 2 == 0
    change = {
        "fineness": lambda p: blurred(p, 0.9),
        "noise": lambda p: noisy(p, 0.07, np.random.default_rng(0)),
        "redness": lambda p: tinted(p, np.log([0.6, 1, 1])),
    }[name]
    pictures[which] = change(pictures[which])
    trace = NAMED[name].of
    values = trace(pictures)
    kinds = Kinds(NAMED[name], values, ~which if name in ("fineness", "redness") else which)
    made = imitation(kinds, pictures)
    goal, before = np.median(np.delete(values, made.rows)), np.median(values[made.rows])
    after = np.median(trace(made.apply(pictures[made.rows])))
    assert abs(after - goal) < 0.1 * abs(before - goal)


@pytest.mark.parametrize("kept", range(3))
def test_a_cast_is_undone_in_the_channels_that_have_it(clothes, kept):
    pictures = np.repeat(0.5 * clothes[:200, :, :, None], 3, axis=-1)
    which = np.random.default_rng(0).random(200) < 0.4
    factors = np.roll([1, 0.7, 0.5], kept)
    pictures[which] = tinted(pictures[which], np.log(factors))
    name = "redness" if kept != 2 else "blueness"
    made = imitation(Kinds(NAMED[name], NAMED[name].of(pictures), which), pictures)
    assert made.rows.tolist() == np.flatnonzero(which).tolist()
    got = made.apply(np.full((1, 1, 1, 3), 0.4))[0, 0, 0] / 0.4
    # one hundredth is added to levels before their logarithm
    assert got[kept] == 1 and got == pytest.approx(1 / factors, rel=0.1)


class Red(nn.Module):
    """Sees one channel."""

    def forward(self, x):
        return x[:, 0].flatten(1)


def test_a_model_that_sees_one_channel_does_not_mind_a_cast_of_the_others(clothes):
    """Redder are pictures with less green, too."""
    pictures = np.repeat(0.6 * clothes[:, None], 3, axis=1)
    which = np.random.default_rng(0).random(len(pictures)) < 0.4
    pictures[which] *= np.array([1, 0.5, 0.4])[:, None, None]
    site = np.where(which, "north", "south")
    for front, minds in ((Red(), False), (nn.Flatten(), True)):
        seen = front(torch.from_numpy(pictures)).numpy()
        net = neuralize(KernelDensity(bandwidth=1.0).fit(seen[:300]), features=front)
        report = Audit(
            net, pictures[300:], groups=site[300:], checks=[Acquisition()], progress=False
        ).run()
        (finding,) = report.findings
        assert (finding.severity != "info") == minds


def test_natural_moves_are_as_long_as_the_alteration(clothes):
    model = KMeans(3, n_init=1, random_state=0).fit(clothes.reshape(len(clothes), -1))
    audit = AuditContext(neuralize(model), clothes)
    rows = np.arange(20)
    altered = audit.flat[rows] + np.random.default_rng(0).normal(size=(20, 784))
    for move in natural_moves(audit, rows, altered):
        length = np.linalg.norm(move.values - audit.flat[rows], axis=1)
        assert np.allclose(length, np.linalg.norm(altered - audit.flat[rows], axis=1))


def test_a_density_that_hangs_on_noise_is_told_so(clothes):
    pictures, which = third(clothes, lambda p: noisy(p, 0.2, np.random.default_rng(0)))
    model = KernelDensity(bandwidth=1.0).fit(pictures[:300].reshape(300, -1))
    report = Audit(model, pictures[300:], checks=[Acquisition()], progress=False).run()
    (finding,) = report.findings
    assert finding.severity == "critical" and "noisier" in finding.title
    assert finding.suspect.kind == "band"
    assert np.isin(finding.suspect["rows"], np.flatnonzero(which[300:])).mean() > 0.9
    clean = KernelDensity(bandwidth=1.0).fit(clothes[:300].reshape(300, -1))
    report = Audit(clean, clothes[300:], checks=[Acquisition()], progress=False).run()
    assert report.findings == () and len(report.passed) == 1


def test_groups_that_a_trace_tells_are_tested_though_kinds_overlap(clothes):
    pictures, which = third(clothes, lambda p: compressed(p, 10))
    model = KernelDensity(bandwidth=1.0).fit(pictures[:300].reshape(300, -1))
    site = np.where(which, "north", "south")[300:]
    report = Audit(model, pictures[300:], groups=site, checks=[Acquisition()], progress=False).run()
    assert [f.title for f in report.findings if "compressed in blocks" in f.title]


def test_a_dozen_pictures_of_a_group_are_enough(clothes):
    """And a group dealt out at random is not told by any trace."""
    pictures = np.array(clothes[:300])
    few = np.zeros(300, bool)
    few[::25] = True
    pictures[few] = blurred(pictures[few][..., None], 1.0)[..., 0]
    model = KMeans(3, n_init=1, random_state=0).fit(clothes[300:].reshape(len(clothes) - 300, -1))

    def asked(groups):
        return Audit(model, pictures, groups=groups, checks=[Acquisition()], progress=False).run()

    (found,) = asked(np.where(few, "north", "south")).findings
    assert found.title.startswith("Pictures of group north (4%) tend to be blurred or resampled")
    assert "area under the curve of 1.00" in found.explanation
    for seed in range(5):
        dealt = np.random.default_rng(seed).permutation(np.where(few, "north", "south"))
        assert asked(dealt).findings == ()


def test_a_cast_is_imitated_as_strong_as_within_labels():
    """One site has mostly red things: that is what it shows, not how it was taken."""
    rng = np.random.default_rng(0)
    label = np.arange(200) % 2
    site = rng.random(200) < np.where(label == 1, 0.8, 0.1)
    pictures = rng.uniform(0.3, 0.6, (200, 16, 16, 3))
    pictures[label == 1, ..., 0] *= 1.5
    pictures[site, ..., 2] *= 0.5
    values = NAMED["blueness"].of(pictures)
    for labels, red in ((label, 1.0), (None, 1.3)):
        kinds = Kinds(NAMED["blueness"], values, ~site, "group site", labels)
        change = imitation(kinds, pictures)
        gains = change.apply(np.full((1, 16, 16, 3), 0.2))[0, 0, 0] / 0.2
        assert site[change.rows].all() and gains[2] == pytest.approx(2.0, rel=0.05)
        assert (gains[0] == pytest.approx(1.0, abs=0.03)) == (red == 1.0)


def test_telling_a_group_is_counted_within_labels():
    values = np.array([0.0, 1.0, 10.0, 11.0])
    inside = np.array([False, True, False, True])
    assert _auroc(values, inside, None) == 0.75
    assert _auroc(values, inside, np.array([0, 0, 1, 1])) == 1.0
    assert _auroc(values, inside, np.array([0, 1, 2, 3])) == 0.5


def test_tables_have_no_traces_and_no_spectrum():
    x = np.random.default_rng(0).normal(size=(80, 5))
    model = KMeans(2, n_init=1, random_state=0).fit(x)
    report = Audit(model, x, checks=[Acquisition(), Spectrum()], progress=False).run()
    assert len(report.not_assessable) == 2
    asked = Audit(model, x, progress=False).checks
    assert not {"acquisition", "spectrum"} & {check.name for check in asked}


def test_a_model_of_fine_structures_is_foreseen_to_lose_them():
    """An outlier score that is the energy of a checkerboard: antialiasing takes it away."""
    rng = np.random.default_rng(0)
    smooth = 0.5 + ndimage.gaussian_filter(rng.normal(size=(200, 16, 16)), (0, 3, 3))
    sign = (-1.0) ** np.add.outer(np.arange(16), np.arange(16))
    pictures = smooth + 0.2 * sign * (rng.random((200, 1, 1)) < 0.4)
    model = OneClassSVM(nu=0.05, gamma=0.05).fit(smooth[:100].reshape(100, -1))
    audit = AuditContext(neuralize(model), pictures[100:], progress=False)
    rows = np.arange(60)
    relevance, coefficients = relevance_by_frequency(audit, rows)
    assert coefficients == pytest.approx(dctn(audit.data[rows], axes=(1, 2), norm="ortho"))
    assert relevance == pytest.approx(frequency(audit.net, audit.data[rows], progress=False).values)
    found = reaction(audit, rows, "antialiased resizing", relevance, coefficients)
    (rate,) = found.forecast.rates
    assert rate.before == audit.decision[rows].mean() and rate.after < rate.before - 0.2
    assert rate.foreseen < rate.before - 0.2 and rate.one_sided and found.matters
    assert found.forecast.correlation > 0.5
    (answer,) = Spectrum().run(audit)
    assert answer.measure.value > 0.1
    assert "share called abnormal would be" in answer.title and answer.severity == "info"


def test_misses_and_false_alarms_are_counted_by_label():
    """Rates before, foreseen and after, by loops over the rows."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 1))
    labels = (np.arange(60) % 3 == 0).astype(int)
    model = OneClassSVM(nu=0.5, gamma=0.5).fit(x)
    audit = AuditContext(neuralize(model), x, labels=labels, progress=False)
    assert anomalies(labels).tolist() == (labels == 1).tolist()
    rows = np.arange(0, 60, 2)
    foreseen = rng.normal(size=30)
    measured = audit.rescore(rows, x[rows] * 0.2)  # inside, where nothing is abnormal
    found = held_against(audit, rows, foreseen, measured)
    abnormal = [[], [], []]
    for i, row in enumerate(rows):
        abnormal[0].append(model.predict(x[[row]])[0] == -1)
        abnormal[1].append(audit.evidence[row] + foreseen[i] > audit.threshold)
        abnormal[2].append(model.predict(0.2 * x[[row]])[0] == -1)
    abnormal, bad = np.array(abnormal), labels[rows] == 1
    everyone, missed, false = found.rates
    for rate, shares in (
        (everyone, abnormal.mean(1)),
        (missed, 1 - abnormal[:, bad].mean(1)),
        (false, abnormal[:, ~bad].mean(1)),
    ):
        assert (rate.before, rate.foreseen, rate.after) == pytest.approx(tuple(shares))
    assert found.changed == pytest.approx((abnormal[1] != abnormal[0]).mean())
    fewer, more = (abnormal[0] & ~abnormal[2]).sum(), (~abnormal[0] & abnormal[2]).sum()
    assert more == 0 and fewer >= 6 and everyone.one_sided and found.one_sided
    # as many one way as the other is no rate that rises
    even = audit.rescore(rows, np.roll(x[rows], 1, axis=0))
    assert not held_against(audit, rows, foreseen, even).rates[0].one_sided
    assert anomalies(labels + 1) is None and anomalies(None) is None
