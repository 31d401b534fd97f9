"""Pictures of cell graphs: the numbers behind them, and that names are shown as they are."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from graphs.optional import quiet
from graphs.risk_groups import risk_groups
from graphs.survival import Outcome
from tests.xai.graph_examples import NAMES, some_cells, some_relevance
from xai.errors import InputError
from xai.plot import (
    interaction_range_curve,
    kaplan_meier,
    phenotype_bars,
    phenotype_pairs,
    tissue_map,
)
from xai.plot.intervals import mean_intervals
from xai.plot.palette import category_colors
from xai.plot.phenotypes import pair_matrix
from xai.plot.scales import NEGATIVE, POSITIVE


def texts(figure: Figure) -> list[str]:
    figure.draw_without_rendering()
    found = figure.findobj(lambda artist: hasattr(artist, "get_text"))
    return [artist.get_text() for artist in found if artist.get_visible()]


def dots(ax):
    """Places, and numbers or colours, of the cells drawn."""
    (cells,) = [c for c in ax.collections if type(c).__name__ == "PathCollection"]
    return np.asarray(cells.get_offsets()), cells


# -- maps ----------------------------------------------------------------------------------------


def test_every_cell_lies_where_it_is_and_has_its_number():
    found = some_relevance()
    figure = tissue_map(found, ["slide 1/a", "slide 3/a"])
    maps = [ax for ax in figure.axes if ax.get_title(loc="left").startswith("image")]
    limits = set()
    for name, ax in zip([1, 3], maps, strict=True):
        places, cells = dots(ax)
        mine = found.graph.images == name
        order = np.lexsort(places.T)
        wanted = np.lexsort(found.graph.positions[mine].T)
        np.testing.assert_array_equal(places[order], found.graph.positions[mine][wanted])
        drawn = np.asarray(cells.get_array())
        np.testing.assert_array_equal(drawn[order], found.values[mine].sum(1)[wanted])
        assert (np.diff(np.abs(drawn)) >= 0).all()  # strong ones are drawn last
        limits.add(cells.get_clim())
        assert ax.yaxis_inverted()
        assert ax.get_aspect() == 1
    shown = found.cells[np.isin(found.graph.images, [1, 3])]
    assert limits == {(-np.abs(shown).max(), np.abs(shown).max())}


def test_phenotypes_stand_beside_the_map_in_their_colours():
    found = some_relevance()
    figure = tissue_map(found, "slide 0/a")
    (ax,) = [ax for ax in figure.axes if ax.get_title(loc="left") == "phenotypes"]
    _, cells = dots(ax)
    codes = found.graph.phenotypes[found.graph.images == 0]
    palette = category_colors(NAMES)
    wanted = [palette[NAMES[k]] if k >= 0 else "#9a9a9a" for k in codes]
    np.testing.assert_allclose(cells.get_facecolors()[:, :3], [to_rgb(c) for c in wanted])
    words = texts(figure)
    for k, name in enumerate(NAMES):
        assert f"{name} ({(codes == k).sum()})" in words
    assert f"not known ({(codes < 0).sum()})" in words


def test_parts_have_the_colour_of_their_sum():
    found = some_relevance(grid=60)
    figure = tissue_map(found, "slide 0/a", by="part")
    (ax,) = [ax for ax in figure.axes if ax.get_title(loc="left").startswith("image")]
    (boxes,) = [c for c in ax.collections if type(c).__name__ == "PatchCollection"]
    table = found.parts()
    table = table[table["image"] == "slide 0/a"]
    assert len(boxes.get_paths()) == len(table)
    end = table["relevance"].abs().max()
    for path, color, (_, row) in zip(
        boxes.get_paths(), boxes.get_facecolors(), table.iterrows(), strict=True
    ):
        low, high = path.vertices.min(0), path.vertices.max(0)
        np.testing.assert_allclose(high - low, 60)
        positions = found.graph.positions[found.graph.images == 0]
        assert ((positions >= low) & (positions < high)).all(1).sum() == row["cells"]
        if abs(row["relevance"]) > 0.1 * end:
            assert (color[0] > color[2]) == (row["relevance"] > 0)


def test_cells_of_other_partitions_take_the_colour_of_their_part():
    found = some_relevance()
    regions = np.where(found.graph.regions < 0, 2, found.graph.regions)
    from graphs import partition_by

    parted = replace(found, partition=partition_by(found.graph, regions))
    places, cells = dots(tissue_map(parted, "slide 2/a", by="part").axes[0])
    mine = np.flatnonzero(found.graph.images == 2)
    for place, value in zip(places, np.asarray(cells.get_array()), strict=True):
        (i,) = mine[(found.graph.positions[mine] == place).all(1)]
        same = mine[regions[mine] == regions[i]]
        assert value == pytest.approx(found.cells[same].sum(), rel=1e-12)


def test_a_quantile_is_said_and_a_limit_kept():
    found = some_relevance()
    figure = tissue_map(found, "slide 0/a", quantile=0.8)
    assert any("0.8 quantile of |R| shown), values beyond" in " ".join(t.split()) for t in
               texts(figure))  # fmt: skip
    _, cells = dots(tissue_map(found, "slide 0/a", limit=7.0).axes[0])
    assert cells.get_clim() == (-7, 7)


def test_a_map_draws_into_given_axes():
    axes = Figure().subplots(1, 2)
    figure = tissue_map(some_relevance(), "slide 0/a", ax=axes[0])
    assert figure is axes[0].figure
    assert not axes[1].collections
    assert "phenotypes" not in texts(figure)


@pytest.mark.parametrize("sizes", [((1,),), ((2,),)])
def test_tiny_images(sizes):
    found = some_relevance(graph=some_cells(sizes))
    assert any("µm" in text for text in texts(tissue_map(found)))


def test_cells_in_space_are_seen_from_above():
    found = some_relevance()
    solid = replace(found.graph, positions=np.c_[found.graph.positions, found.cells])
    places, _ = dots(tissue_map(replace(found, graph=solid), "slide 0/a").axes[0])
    assert places.shape == (50, 2)
    with pytest.raises(InputError, match="in a plane"):
        tissue_map(replace(some_relevance(60), graph=solid), "slide 0/a", by="part")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "Expected image="),
        ({"image": "x"}, "'x'"),
        ({"image": []}, "1 to 6 images"),
        ({"image": "slide 0/a", "by": "part"}, "with a partition"),
        ({"image": "slide 0/a", "by": "region"}, "by='cell' or 'part'"),
        ({"image": "slide 0/a", "limit": -1.0}, "limit"),
        ({"image": ["slide 0/a", "slide 1/a"], "ax": Figure().subplots()}, "one image for one ax"),
    ],
)
def test_maps_refuse(options, message):
    with pytest.raises(InputError, match=message):
        tissue_map(some_relevance(), **options)


# -- phenotypes ----------------------------------------------------------------------------------


def test_bars_are_means_over_patients_with_students_interval():
    from scipy import stats

    found = some_relevance()
    figure = phenotype_bars(found)
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert set(names) == {*NAMES, "not known"}
    bars, lines = figure.axes[0].containers
    for k, name in enumerate(names):
        code = NAMES.index(name) if name in NAMES else -1
        sums = [
            sum(
                found.values[i].sum()
                for i in range(len(found.graph))
                if found.graph.phenotypes[i] == code and found.graph.patient_of_cell[i] == p
            )
            for p in range(3)
        ]
        bar = bars.patches[k]
        mean = np.mean(sums)
        assert bar.get_x() + bar.get_width() == pytest.approx(mean)
        color = POSITIVE if mean >= 0 else NEGATIVE
        assert bar.get_facecolor()[:3] == pytest.approx(to_rgb(color))
        low, high = stats.t.interval(0.95, 2, mean, stats.sem(sums))
        segment = lines.lines[2][0].get_segments()[k]
        np.testing.assert_allclose(segment[:, 0], [low, high])
    widths = [abs(bar.get_width()) for bar in bars.patches]
    assert widths == sorted(widths, reverse=True)


def test_bars_by_group_and_per_cell():
    found = some_relevance()
    figure = phenotype_bars(found, how="mean", groups=["high", "low", "high"])
    assert "high (2 patients)" in texts(figure)
    assert "low (1 patient)" in texts(figure)
    table = found.by("phenotype", "mean")
    names = [label.get_text().split(" (in")[0] for label in figure.axes[0].get_yticklabels()]
    bars = figure.axes[0].containers[0].patches  # the group that comes first
    wanted = table.iloc[[0, 2]].mean()
    for name, bar in zip(names, bars, strict=True):
        assert bar.get_x() + bar.get_width() == pytest.approx(wanted[name])


def test_phenotypes_nobody_has_are_left_out():
    graph = some_cells()
    graph = replace(graph, phenotypes=np.where(graph.phenotypes == 1, 0, graph.phenotypes))
    figure = phenotype_bars(some_relevance(graph=graph))
    assert NAMES[1] not in texts(figure)
    one = some_relevance(graph=some_cells(((40,),)))
    assert any("no interval for one patient" in text for text in texts(phenotype_bars(one)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": ["a"]}, "3 patients"),
        ({"groups": ["a", None, "b"]}, "3 patients"),
        ({"interval": "normal"}, "'t' or 'bootstrap'"),
        ({"level": 1.0}, "level"),
    ],
)
def test_bars_refuse(options, message):
    with pytest.raises(InputError, match=message):
        phenotype_bars(some_relevance(), **options)


def test_bootstrap_draws_patients():
    rng = np.random.default_rng(3)
    values = rng.exponential(size=60)
    found = mean_intervals(pd.DataFrame({"a": [*values, np.nan]}), "bootstrap", seed=1, level=0.9)
    again = mean_intervals(pd.DataFrame({"a": [*values, np.nan]}), "bootstrap", seed=1, level=0.9)
    pd.testing.assert_frame_equal(found, again)
    other = np.random.default_rng(99)
    means = [other.choice(values, 60).mean() for _ in range(4000)]
    assert found.loc["a", "mean"] == pytest.approx(values.mean())
    assert found.loc["a", "lower"] == pytest.approx(np.quantile(means, 0.05), abs=0.02)
    assert found.loc["a", "upper"] == pytest.approx(np.quantile(means, 0.95), abs=0.02)
    assert found.loc["a", "patients"] == 60


def pairs_table():
    rows = [
        (str(p), a, b, float(p * 10 + i))
        for p in range(3)
        for i, (a, b) in enumerate([("T", "T"), ("T", "B"), ("B", "T")])
        if (p, a, b) != (2, "T", "B")
    ]
    return pd.DataFrame(rows, columns=["patient", "source", "readout", "relevance"])


def test_pairs_are_means_over_patients():
    matrix, count = pair_matrix(pairs_table())
    assert count == 3
    assert matrix.loc["T", "T"] == pytest.approx((0 + 10 + 20) / 3)
    assert matrix.loc["T", "B"] == pytest.approx((1 + 11 + 0) / 3)
    assert matrix.loc["B", "B"] == 0
    figure = phenotype_pairs(pairs_table(), limit=20)
    (image,) = figure.axes[0].images
    np.testing.assert_allclose(image.get_array(), matrix)
    assert image.get_clim() == (-20, 20)
    assert {"T", "B", "4", "10", "12"} <= set(texts(figure))
    with pytest.raises(InputError, match="source"):
        phenotype_pairs(pairs_table().drop(columns="source"))
    with pytest.raises(InputError, match="0 rows"):
        phenotype_pairs(pairs_table().iloc[:0])


# -- survival ------------------------------------------------------------------------------------


def some_outcome(count=40, seed=0):
    rng = np.random.default_rng(seed)
    return Outcome(
        tuple(map(str, range(count))), rng.exponential(900, count) + 1,
        rng.random(count) < 0.7, "days",
    )  # fmt: skip


def test_curves_and_numbers_at_risk():
    from lifelines import KaplanMeierFitter
    from lifelines.statistics import logrank_test

    outcome = some_outcome()
    groups = risk_groups(-outcome.time)
    figure = kaplan_meier(outcome, groups)
    ax = figure.axes[0]
    curves = [line for line in ax.lines if line.get_drawstyle() == "steps-post"]
    assert [line.get_label().split(":")[0] for line in curves] == ["low", "high"]
    words = texts(figure)
    for name, line in zip(["low", "high"], curves, strict=True):
        mine = np.array(groups) == name
        with quiet():
            fitted = KaplanMeierFitter().fit(outcome.time[mine], outcome.event[mine])
        np.testing.assert_allclose(
            line.get_ydata(), fitted.survival_function_at_times(line.get_xdata())
        )
        for tick in ax.get_xticks():
            assert str((outcome.time[mine] >= tick).sum()) in words
    high = np.array(groups) == "high"
    with quiet():
        p = logrank_test(
            outcome.time[high], outcome.time[~high], outcome.event[high], outcome.event[~high]
        ).p_value
    title = ax.get_title(loc="left")
    assert title == ("log-rank p < 0.0001" if p < 1e-4 else f"log-rank p = {p:.2g}")


def test_one_curve_and_no_events():
    outcome = some_outcome()
    assert "log-rank" not in " ".join(texts(kaplan_meier(outcome)))
    lucky = replace(outcome, event=np.zeros(len(outcome), bool))
    figure = kaplan_meier(lucky, ["a"] * 20 + ["b"] * 20)
    assert "log-rank" not in " ".join(texts(figure))
    with pytest.raises(InputError, match="40 patients"):
        kaplan_meier(outcome, ["a"])


# -- interaction range ---------------------------------------------------------------------------


def test_the_curve_is_the_median_over_patients():
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {"cell_size": np.repeat([100.0, 10.0], 5), "patient": list("abcde") * 2,
         "agreement": rng.random(10)}
    )  # fmt: skip
    figure = interaction_range_curve(table)
    (line,) = [line for line in figure.axes[0].lines if line.get_label().startswith("median")]
    np.testing.assert_array_equal(line.get_xdata(), [10, 100])
    values = table["agreement"].to_numpy()
    np.testing.assert_allclose(line.get_ydata(), [np.median(values[5:]), np.median(values[:5])])
    for bad in (
        table.drop(columns="patient"),
        table.iloc[:0],
        table.assign(cell_size=0.0),
        table.assign(agreement=np.nan),
    ):
        with pytest.raises(InputError, match="Expected"):
            interaction_range_curve(bad)


# -- words ---------------------------------------------------------------------------------------


def test_names_are_no_formulas():
    """A dollar in a name is shown; matplotlib would else refuse ``$_`` or set it in italics."""
    graph = replace(some_cells(), phenotype_names=("a$_", "$$", "b\n\x07c"))
    found = some_relevance(graph=graph)
    for figure in (tissue_map(found, "slide 0/a"), phenotype_bars(found)):
        shown = texts(figure)
        assert any(text.startswith("a$_") for text in shown)
        assert any(text.startswith("b \ufffdc") for text in shown)
    table = pairs_table().replace({"T": "a$_"})
    assert "a$_" in texts(phenotype_pairs(table))
    outcome = some_outcome()
    assert any("a$_" in t for t in texts(kaplan_meier(outcome, ["a$_"] * 20 + ["$$"] * 20)))
