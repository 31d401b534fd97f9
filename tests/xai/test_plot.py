"""The numbers behind the pictures."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits, load_wine

import xai
from tests.xai.examples import made
from xai.errors import InputError
from xai.plot.beeswarm import pile
from xai.plot.scales import NEGATIVE, POSITIVE, SIGNED, SIGNED_CLEAR


@pytest.fixture(scope="module")
def wine():
    data = load_wine(as_frame=True).data
    data = (data - data.mean()) / data.std()
    return xai.explain(KMeans(3, n_init=1, random_state=0).fit(data.to_numpy()), data)


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    return xai.explain(KMeans(10, n_init=1, random_state=0).fit(data.data), data.images)


def labels(figure: Figure) -> list[str]:
    return [label.get_text() for label in figure.axes[0].get_yticklabels()]


def bars(figure: Figure, container: int = 0) -> list[tuple[float, float]]:
    """Where each bar starts and ends."""
    patches = figure.axes[0].containers[container].patches
    return [(p.get_x(), p.get_x() + p.get_width()) for p in patches]


def texts(figure: Figure) -> str:
    figure.draw_without_rendering()
    return "\n".join(t.get_text() for t in figure.findobj(lambda a: hasattr(a, "get_text")))


def pictures(figure: Figure):
    return [image for ax in figure.axes for image in ax.images]


# -- one row ---------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    width=st.integers(1, 9),
    max_features=st.integers(1, 9),
    absorbed=st.sampled_from([(), ("bias",), ("bias", "log det")]),
    lost=st.sampled_from([0.0, 2.5]),
)
def test_bars_of_a_row_add_up_to_its_evidence(seed, width, max_features, absorbed, lost):
    relevance = made((1, width), seed=seed, absorbed=absorbed)
    relevance.evidence[0] += lost
    evidence = relevance.evidence[0]
    for kind in ("bar", "waterfall"):
        figure = relevance.plot(kind, max_features=max_features)
        spans = bars(figure)
        assert sum(end - start for start, end in spans) == pytest.approx(evidence, abs=1e-12)
        names = labels(figure)
        hidden = max(0, width - max_features)
        assert (f"other features ({hidden})" in names) == bool(hidden)
        assert [n for n in names if n.startswith("absorbed")] == [
            f"absorbed: {n}" for n in absorbed
        ]
        assert ("conservation error" in names) == bool(lost)
        assert len(names) == len(spans) + (kind == "waterfall")


def test_largest_features_are_named_with_value_and_sign():
    relevance = made(
        (1, 4),
        values=np.array([[1.0, -3.0, 0.5, 2.0]]),
        inputs=np.array([[10.0, 20.0, 30.0, 40.5]]),
        evidence=np.array([1.5]),
        absorbed={"centre": np.array([1.0])},
        feature_names=("a", "b", "c", "d"),
    )
    figure = relevance.plot("bar", max_features=2)
    assert labels(figure) == ["b = 20", "d = 40.5", "other features (2)", "absorbed: centre"]
    assert bars(figure) == [(0, -3.0), (0, 2.0), (0, 1.5), (0, 1.0)]
    colors = [patch.get_facecolor()[:3] for patch in figure.axes[0].patches]
    assert colors == [to_rgb(NEGATIVE), *[to_rgb(POSITIVE)] * 3]
    assert relevance.evidence_name in figure.axes[0].get_xlabel()


def test_waterfall_walks_from_zero_to_the_evidence(wine):
    figure = wine.plot(rows=7, max_features=5)
    walk, (total,) = bars(figure), bars(figure, 1)
    assert walk[0][0] == 0
    for (_, end), (start, _) in pairwise(walk):
        assert start == pytest.approx(end, abs=1e-12)
    assert total == (0, wine.evidence[7])
    assert walk[-1][1] == pytest.approx(wine.evidence[7])
    top = np.sort(np.abs(wine.values[7]))[::-1][:5]
    assert [abs(end - start) for start, end in walk[:5]] == pytest.approx(top.tolist())
    rest = sum(sorted(wine.values[7], key=abs)[:-5])
    assert walk[5][1] - walk[5][0] == pytest.approx(rest)
    assert labels(figure)[-1] == "evidence"
    assert "row 7" in texts(figure)


@pytest.mark.parametrize("threshold", [-40.0, 0.25, 40.0])
def test_waterfall_marks_the_threshold_inside_the_axis(threshold):
    figure = made((1, 3), threshold=threshold).plot()
    dashed = [line for line in figure.axes[0].lines if line.get_linestyle() == "--"]
    assert [line.get_xdata()[0] for line in dashed] == [threshold]
    low, high = figure.axes[0].get_xlim()
    assert low < threshold < high
    assert f"threshold {threshold:g}".replace("-", "−") in texts(figure)


@pytest.mark.parametrize("threshold", [None, float("inf")])
def test_no_mark_without_a_threshold_to_reach(threshold):
    figure = made((1, 3), threshold=threshold).plot()
    assert "threshold" not in texts(figure)


# -- several rows ----------------------------------------------------------------------------


def test_bars_of_several_rows_are_mean_and_mean_magnitude(wine):
    figure = wine.plot("bar", max_features=4)
    magnitudes, means = (np.array([end for _, end in bars(figure, c)]) for c in (0, 1))
    assert means.sum() == pytest.approx(wine.evidence.mean())
    order = sorted(range(13), key=lambda j: -np.abs(wine.values[:, j]).mean())
    assert labels(figure) == [*(wine.feature_names[j] for j in order[:4]), "other features (9)"]
    for bar, j in enumerate(order[:4]):
        column = wine.values[:, j].tolist()
        assert means[bar] == pytest.approx(sum(column) / 178)
        assert magnitudes[bar] == pytest.approx(sum(map(abs, column)) / 178)
    rest = [sum(row[j] for j in order[4:]) for row in wine.values]
    assert means[4] == pytest.approx(sum(rest) / 178)
    assert magnitudes[4] == pytest.approx(sum(map(abs, rest)) / 178)
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert legend == ["mean R (adds up to the mean evidence)", "mean |R|"]


def test_dots_of_a_row_add_up_to_its_evidence(wine):
    figure = wine.plot(max_features=6)
    dots = [collection.get_offsets() for collection in figure.axes[0].collections]
    assert len(dots) == 7
    total = np.sum([np.asarray(d)[:, 0] for d in dots], axis=0)
    assert total == pytest.approx(wine.evidence)
    for line, d in enumerate(dots):
        assert np.abs(np.asarray(d)[:, 1] - line).max() < 0.5


def test_dots_are_coloured_by_the_value_of_their_feature(wine):
    figure = wine.plot(max_features=2)
    dots = figure.axes[0].collections
    for line, name in enumerate(labels(figure)[:2]):
        column = wine.inputs[:, wine.feature_names.index(name)]
        colors = np.asarray(dots[line].get_array())
        assert (colors.min(), colors.max()) == (0, 1)
        assert (
            np.argsort(colors, kind="stable").tolist() == np.argsort(column, kind="stable").tolist()
        )
    assert dots[2].get_array() is None


def test_a_share_that_is_the_same_in_every_row_is_written():
    relevance = made((5, 2), absorbed=())
    constant = made(
        (5, 2),
        absorbed={"constant": np.full(5, -100.0)},
        evidence=relevance.evidence - 100,
        values=relevance.values,
    )
    figure = constant.plot()
    assert labels(figure)[-1] == "absorbed: constant\n−100 in every row"
    assert len(figure.axes[0].collections) == 2
    assert figure.axes[0].get_xlim()[0] > -10


@given(st.lists(st.integers(0, 20), min_size=1, max_size=60))
def test_piled_dots_do_not_share_a_place(places):
    values = np.array(places, dtype=float)
    offsets = pile(values, 0.0, 20.0)
    assert len(set(zip(places, offsets.tolist(), strict=True))) == len(places)
    assert np.abs(offsets).max() <= 0.38
    for place in set(places):
        assert abs(offsets[values == place].sum()) <= np.abs(offsets).max() + 1e-12


@pytest.mark.parametrize("kind", ["bar", "beeswarm", "waterfall"])
def test_tables_share_a_given_axis(kind, wine):
    rows = 3 if kind == "waterfall" else slice(0, 20)
    figure = wine.plot(kind, rows=rows, limit=50.0)
    assert figure.axes[0].get_xlim() == (-50.0, 50.0)
    with pytest.raises(InputError, match="limit of at least"):
        wine.plot(kind, rows=rows, limit=0.01)


# -- pictures --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["heatmap", "overlay"])
def test_pictures_share_one_symmetric_scale_and_one_colour_bar(digits, kind):
    rows = [4, 0, 9]
    figure = digits.plot(kind, rows=rows)
    largest = max(abs(v) for i in rows for v in digits.values[i].ravel())
    shown = pictures(figure)[:: 1 if kind == "heatmap" else 2]
    maps = shown if kind == "heatmap" else pictures(figure)[1::2]
    assert [image.get_clim() for image in maps] == [(-largest, largest)] * 3
    for image, i in zip(maps, rows, strict=True):
        assert np.asarray(image.get_array()).tolist() == digits.values[i].tolist()
    assert len(figure.axes) == 4
    words = texts(figure)
    assert digits.evidence_name in " ".join(figure.axes[3].get_ylabel().split())
    for i in rows:
        assert f"row {i}, cluster {digits.target[i]}\nevidence {digits.evidence[i]:.4g}" in words


@pytest.mark.parametrize(
    ("shape", "axis"),
    [((4, 5), None), ((4, 5, 3), 2), ((4, 5, 4), 2), ((3, 4, 5), 0), ((1, 4, 5), 0)],
)
def test_channels_are_added_up_and_said(shape, axis):
    relevance = made((2, *shape))
    figure = relevance.plot()
    for image, values in zip(pictures(figure), relevance.values, strict=True):
        expected = np.zeros((4, 5))
        for channel in range(1 if axis is None else shape[axis]):
            expected += values if axis is None else values.take(channel, axis)
        assert np.asarray(image.get_array()) == pytest.approx(expected)
    assert ("summed over channels" in texts(figure)) == (axis is not None)


def test_overlay_draws_the_brightness_below():
    relevance = made((1, 3, 4, 5))
    below, above = pictures(relevance.plot("overlay"))
    red, green, blue = relevance.inputs[0]
    assert np.asarray(below.get_array()) == pytest.approx(
        0.299 * red + 0.587 * green + 0.114 * blue
    )
    assert above.get_zorder() >= below.get_zorder()


def test_opaque_where_relevance_is_large_and_clear_where_it_is_zero():
    values = np.array([[[0.0, 4.0], [-1.0, -4.0]]])
    _, above = pictures(made((1, 2, 2), values=values).plot("overlay"))
    rgba = above.to_rgba(above.get_array())
    assert rgba[..., 3].ravel() == pytest.approx([0.0, 1.0, 0.5, 1.0], abs=0.01)
    assert rgba[0, 1, 0] > rgba[0, 1, 2]
    assert rgba[1, 1, 2] > rgba[1, 1, 0]


def test_zero_is_white_and_the_signs_are_mirrored():
    assert SIGNED(0.5) == (1, 1, 1, 1)
    assert SIGNED_CLEAR(0.5)[3] == 0
    red, _, blue, _ = SIGNED(0.9)
    assert red > blue
    red, _, blue, _ = SIGNED(0.1)
    assert blue > red


@pytest.mark.parametrize("limit", [0.1, 1e4])
def test_a_given_limit_holds_for_every_figure(digits, limit):
    for rows in ([0], [1, 2]):
        figure = digits.plot(rows=rows, limit=limit)
        assert {image.get_clim() for image in pictures(figure)} == {(-limit, limit)}
        assert "as given" in texts(figure)
        assert ("beyond" in texts(figure)) == (limit == 0.1)


def test_a_quantile_cuts_the_scale_and_says_so(digits):
    figure = digits.plot(rows=[0, 1, 2], quantile=0.9)
    end = pictures(figure)[0].get_clim()[1]
    magnitudes = np.abs(digits.values[:3])
    assert (magnitudes > end).mean() == pytest.approx(0.1, abs=1 / magnitudes.size)
    assert "0.9 quantile" in texts(figure)
    assert "beyond" in texts(figure)


def test_titles_say_what_pixels_and_absorbed_shares_make_up():
    relevance = made((1, 4, 5), absorbed=("bias", "log det"))
    words = texts(relevance.plot())
    pixels, total = relevance.values.sum(), relevance.absorbed_total[0]
    assert f"pixels {pixels:.4g}, absorbed {total:.4g}".replace("-", "−") in words
    assert "absorbed: bias, log det" in " ".join(words.split())
    sign = ">" if relevance.evidence[0] > 0.5 else "≤"
    assert f"{sign} threshold 0.5" in words


def test_many_pictures_are_cut_and_the_title_says_so(digits):
    figure = digits.plot()
    assert len(pictures(figure)) == 16
    assert "first 16 of 1797 rows" in texts(figure)
    assert len(pictures(digits.plot(rows=range(18)))) == 18


def test_all_zero_relevance_is_white():
    (image,) = pictures(made((1, 2, 2), values=np.zeros((1, 2, 2))).plot())
    assert image.to_rgba(image.get_array()).min() == 1.0


# -- all kinds -------------------------------------------------------------------------------


def test_default_kinds():
    assert labels(made((1, 3)).plot())[-1] == "evidence"
    assert made((4, 3)).plot().axes[0].collections
    assert pictures(made((2, 4, 4)).plot())


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("bar", (1, 3)),
        ("bar", (4, 3)),
        ("waterfall", (1, 3)),
        ("beeswarm", (4, 3)),
        ("heatmap", (1, 4, 4)),
        ("overlay", (1, 4, 4)),
    ],
)
def test_axes_of_the_caller_are_used(kind, shape):
    outer = Figure()
    for ax in (outer.subplots(), outer.subfigures(1, 2)[0].subplots()):
        assert made(shape).plot(kind, ax=ax) is outer
        assert ax.has_data()


def test_a_grid_does_not_fit_one_ax():
    with pytest.raises(InputError, match="one picture for one ax, got 2"):
        made((2, 4, 4)).plot(ax=Figure().subplots())


@pytest.mark.parametrize("shape", [(1, 3), (4, 3), (2, 4, 4)])
def test_a_notebook_gets_a_png(shape):
    assert made(shape).plot()._repr_png_().startswith(b"\x89PNG")


@pytest.mark.parametrize("kind", ["bar", "beeswarm"])
def test_names_are_shown_as_they_are(kind):
    names = ("$x^2$", "under_score", "<b>", "line\nbreak")
    relevance = made((3, 4), feature_names=names, model_name="$M$", evidence_name="$e$")
    figure = relevance.plot(kind)
    figure.draw_without_rendering()
    assert set(labels(figure)[:4]) == {"$x^2$", "under_score", "<b>", "line break"}
    shown = [figure.axes[0].xaxis.label, *figure.axes[0].get_yticklabels()]
    assert not any(text.get_parse_math() for text in shown)


@pytest.mark.parametrize("scale", [1e-300, 1e300])
@pytest.mark.parametrize("shape", [(1, 3), (4, 3), (2, 4, 4)])
def test_extreme_magnitudes_are_drawn(scale, shape):
    relevance = made(shape, absorbed=())
    relevance.values[:] *= scale
    relevance.evidence[:] *= scale
    relevance.plot().draw_without_rendering()


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((2, 3), {"kind": "pie"}, "'bar', 'waterfall'"),
        ((2, 3), {"kind": "waterfall"}, "one row for a waterfall, got 2"),
        ((2, 3), {"kind": "heatmap"}, "Expected pictures"),
        ((2, 5, 6, 7), {}, "Expected pictures"),
        ((2, 3), {"rows": 2}, "explanation of 2 rows"),
        ((2, 3), {"rows": []}, "at least one row"),
        ((2, 3), {"rows": [0.5]}, "explanation of 2 rows"),
        ((2, 3), {"max_features": 0}, "max_features >= 1"),
        ((2, 3), {"quantile": 0.5}, "quantile"),
        ((2, 4, 4), {"quantile": 0.0}, "quantile"),
        ((2, 4, 4), {"quantile": 1.5}, "quantile"),
        ((2, 4, 4), {"limit": 0.0}, "positive"),
        ((2, 4, 4), {"limit": float("nan")}, "positive"),
        ((2, 4, 4), {"limit": 1.0, "quantile": 0.5}, "both"),
        ((2, 3), {"limit": -1.0}, "positive"),
    ],
)
def test_what_cannot_be_drawn_is_refused(shape, options, message):
    with pytest.raises(InputError, match=message):
        made(shape).plot(**options)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("shape", [(1, 4), (3, 4), (1, 2, 2)])
def test_relevance_that_is_not_finite_is_refused(bad, shape):
    relevance = made(shape)
    relevance.values.flat[0] = bad
    with pytest.raises(InputError, match="finite relevance"):
        relevance.plot()


def test_a_quantile_of_zeros_is_refused():
    values = np.zeros((1, 4, 4))
    values[0, 0, 0] = 1
    with pytest.raises(InputError, match=r"0\.5 quantile"):
        made((1, 4, 4), values=values).plot(quantile=0.5)
