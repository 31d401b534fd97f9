"""The builders against distances between all pairs, and scipy's triangles image by image."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import Delaunay

from graphs.build import delaunay_graph, knn_graph, radius_graph
from graphs.cell_graph import CellGraph
from neuralize.errors import InputError


def cells(*images, unit="um"):
    """One graph of images, each given by its places."""
    places = [np.asarray(image, float).reshape(len(image), -1) for image in images]
    codes = np.repeat(np.arange(len(images)), [len(p) for p in places])
    names = tuple(f"image {k}" for k in range(len(images)))
    return CellGraph(
        np.concatenate(places), np.zeros(len(codes), int), ("a",), codes, names, names, unit=unit
    )


def pairs(graph):
    return set(map(tuple, graph.edges.T.tolist()))


def in_order(graph):
    """Sorted, both directions, none twice, none to itself, none across images."""
    listed = list(map(tuple, graph.edges.T.tolist()))
    assert listed == sorted(set(listed))
    assert {(b, a) for a, b in listed} == set(listed)
    assert all(a != b and graph.images[a] == graph.images[b] for a, b in listed)


def brute_knn(graph, k, limit=np.inf):
    found = set()
    for i in range(len(graph)):
        others = [
            (np.linalg.norm(graph.positions[i] - graph.positions[j]), j)
            for j in range(len(graph))
            if j != i and graph.images[i] == graph.images[j]
        ]
        for distance, j in sorted(others)[:k]:
            if distance <= limit:
                found |= {(i, j), (j, i)}
    return found


def brute_radius(graph, radius):
    n = len(graph)
    return {
        (i, j)
        for i in range(n)
        for j in range(n)
        if i != j
        and graph.images[i] == graph.images[j]
        and np.linalg.norm(graph.positions[i] - graph.positions[j]) <= radius
    }


@pytest.fixture
def three(request):
    rng = np.random.default_rng(0)
    dimensions = getattr(request, "param", 2)
    # One image has a single cell, one fewer than k + 1.
    return cells(*(rng.random((n, dimensions)) * 100 for n in (40, 1, 60, 3)))


@pytest.mark.parametrize("three", [2, 3], indirect=True)
@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("limit", [None, 12.0])
def test_nearest(three, k, limit):
    graph = knn_graph(three, k, limit)
    in_order(graph)
    assert pairs(graph) == brute_knn(three, k, np.inf if limit is None else limit)
    assert len(graph) == len(three)


@pytest.mark.parametrize("three", [2, 3], indirect=True)
@pytest.mark.parametrize("radius", [5.0, 20.0, 1e3])
def test_radius(three, radius):
    graph = radius_graph(three, radius)
    in_order(graph)
    assert pairs(graph) == brute_radius(three, radius)


def test_the_radius_counts_cells_at_exactly_that_distance():
    assert pairs(radius_graph(cells([(0, 0), (3, 4)]), 5)) == {(0, 1), (1, 0)}


def test_threads_change_nothing(monkeypatch):
    monkeypatch.setattr("graphs.build.THREADED", 10)
    rng = np.random.default_rng(1)
    graph = cells(rng.random((200, 2)))
    assert pairs(knn_graph(graph, 3, workers=2)) == brute_knn(graph, 3)


@pytest.mark.parametrize("three", [2, 3], indirect=True)
@pytest.mark.parametrize("limit", [15.0, np.inf])
def test_delaunay_is_scipys_of_each_image_cut_by_length(three, limit):
    graph = delaunay_graph(three, limit)
    in_order(graph)
    expected = set()
    for image in range(len(three.image_names)):
        numbers = np.flatnonzero(three.images == image)
        places = three.positions[numbers]
        if len(numbers) > 4:
            sides = {
                (int(a), int(b))
                for corners in Delaunay(places).simplices
                for a in corners
                for b in corners
                if a != b
            }
        else:  # a point, or three cells: all are joined
            sides = {(a, b) for a in range(len(numbers)) for b in range(len(numbers)) if a != b}
        expected |= {
            (int(numbers[a]), int(numbers[b]))
            for a, b in sides
            if np.linalg.norm(places[a] - places[b]) <= limit
        }
    assert pairs(graph) == expected


@pytest.mark.parametrize("direction", [(1, 0), (0, 1), (0.3, -0.7), (1e3, 1)])
def test_cells_on_a_line_are_joined_along_it(direction):
    along = np.array([3.0, 0, 7, 1, 20])
    graph = delaunay_graph(cells(along[:, None] * np.array(direction)), np.inf)
    in_order(graph)
    chain = [(1, 3), (3, 0), (0, 2), (2, 4)]
    assert pairs(graph) == {*chain, *((b, a) for a, b in chain)}


def test_cells_in_a_plane_in_space_are_triangulated_in_it():
    rng = np.random.default_rng(2)
    flat = rng.random((30, 2)) * 100
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    level = np.concatenate([flat, np.full((30, 1), 7.0)], 1)
    expected = pairs(delaunay_graph(cells(flat), np.inf))
    assert pairs(delaunay_graph(cells(level), np.inf)) == expected
    assert pairs(delaunay_graph(cells(level @ turn), np.inf)) == expected


def test_few_cells():
    graph = delaunay_graph(cells([(0, 0)], [(0, 0), (5, 0)], [(0, 0), (1, 0), (0, 1)]), 50)
    in_order(graph)
    assert len(pairs(graph)) == 2 + 6
    assert len(graph) == 6


def test_cells_at_the_same_place_share_their_neighbours():
    corner = [(0, 0), (10, 0), (0, 10), (11, 12)]
    alone = pairs(delaunay_graph(cells(corner), np.inf))
    # Cells 4 and 5 lie on cell 0.
    graph = delaunay_graph(cells([*corner, corner[0], corner[0]]), np.inf)
    in_order(graph)
    assert {(a, b) for a, b in pairs(graph) if max(a, b) < 4} == alone
    neighbours = {b for a, b in alone if a == 0}
    for copy, others in ((0, {4, 5}), (4, {0, 5}), (5, {0, 4})):
        assert {b for a, b in pairs(graph) if a == copy} == others | neighbours


def test_all_cells_at_one_place():
    spot = cells([(1, 1)] * 4)
    everyone = {(a, b) for a in range(4) for b in range(4) if a != b}
    assert pairs(delaunay_graph(spot, 5)) == everyone
    assert pairs(radius_graph(spot, 5)) == everyone
    graph = knn_graph(spot, 2)
    in_order(graph)
    assert all((graph.edges[0] == cell).sum() >= 2 for cell in range(4))


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=25),
    st.integers(1, 4),
    st.sampled_from([None, 1.5]),
)
def test_on_grids_full_of_ties_and_copies(places, k, limit):
    graph = cells(places)
    near = knn_graph(graph, k, limit)
    in_order(near)
    assert pairs(radius_graph(graph, 2.0)) == brute_radius(graph, 2.0)
    distances = np.linalg.norm(graph.positions[:, None] - graph.positions[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    kth = np.sort(distances, axis=1)[:, min(k, len(places)) - 1]
    kth = np.minimum(kth, np.inf if limit is None else limit)
    joined = np.zeros(distances.shape, bool)
    joined[tuple(near.edges)] = True
    # All that are strictly nearer than the k-th are joined; no one is by being farther.
    nearer = (distances < kth[:, None]) & (distances <= (limit or np.inf))
    assert joined[nearer].all()
    assert not joined[
        (distances > np.maximum(kth[:, None], kth[None])) & ~np.eye(len(kth), dtype=bool)
    ].any()
    assert (joined.sum(1) >= np.minimum(k, (distances <= (limit or 1e9)).sum(1))).all()
    triangles = delaunay_graph(graph, np.inf)
    in_order(triangles)
    if len(set(places)) > 1:  # connected, whatever the shape
        reached, todo = {0}, [0]
        neighbours = {a: set() for a in range(len(graph))}
        for a, b in pairs(triangles):
            neighbours[a].add(b)
        while todo:
            new = neighbours[todo.pop()] - reached
            reached |= new
            todo += new
        assert len(reached) == len(graph)


def test_far_from_the_origin_nothing_changes():
    rng = np.random.default_rng(3)
    places = np.round(rng.random((50, 2)) * 100, 3)
    far = cells(places + 1e6)
    assert pairs(delaunay_graph(far, 30)) == pairs(delaunay_graph(cells(places), 30))


def test_other_fields_stay():
    graph = cells([(0, 0), (1, 0)])
    built = radius_graph(graph, 2)
    assert built.image_names == graph.image_names
    assert built.positions is graph.positions or (built.positions == graph.positions).all()
    assert graph.edges is None


@pytest.mark.parametrize("k", [0, -1, 2.0, True])
def test_k_must_be_a_count(k):
    with pytest.raises(InputError, match="Expected k"):
        knn_graph(cells([(0, 0), (1, 0)]), k)


@pytest.mark.parametrize("length", [0, -1, np.nan])
@pytest.mark.parametrize("build", [radius_graph, delaunay_graph])
def test_a_length_is_above_zero(build, length):
    with pytest.raises(InputError, match="above 0"):
        build(cells([(0, 0), (1, 0)]), length)


def test_delaunay_asks_for_a_limit():
    with pytest.raises(TypeError, match="max_edge"):
        delaunay_graph(cells([(0, 0), (1, 0)]))


@pytest.mark.parametrize("build", [radius_graph, delaunay_graph,
                                   lambda g, r, **unit: knn_graph(g, 1, r, **unit)])  # fmt: skip
def test_micrometres_are_not_measured_in_pixels(build):
    pixels = cells([(0, 0), (10, 0)], unit="px")
    with pytest.raises(InputError, match=r"mpp.*unit='px'"):
        build(pixels, 20)
    assert pairs(build(pixels, 20, unit="px")) == {(0, 1), (1, 0)}
    with pytest.raises(InputError, match="got pixels"):
        build(cells([(0, 0), (10, 0)]), 20, unit="px")
    with pytest.raises(InputError, match="'um' or 'px'"):
        build(pixels, 20, unit="mm")


def test_a_graph_without_lengths_may_be_in_pixels():
    pixels = cells([(0, 0), (10, 0)], unit="px")
    assert pairs(knn_graph(pixels, 1)) == {(0, 1), (1, 0)}
    assert pairs(delaunay_graph(pixels, np.inf)) == {(0, 1), (1, 0)}
