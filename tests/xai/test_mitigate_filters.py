"""Filters ranked and zeroed: against a plain loop, under the LRP engine, and a planted shortcut."""

from __future__ import annotations

import copy
import threading

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from torch import nn

import xai
from neuralize import neuralize
from xai.errors import InputError
from xai.mitigate import PrunedFilters, encoded, rank_filters

PLACE = np.zeros((16, 16), bool)
PLACE[10:14, 2:8] = True


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, stride=2, padding=1),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Conv2d(12, 8, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    ).eval()


def pictures(n=40, seed=0):
    return torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def marked(x, colour=(0.9, 0.0, 0.9)):
    out = x.clone()
    out[:, :, torch.from_numpy(PLACE)] = torch.tensor(colour)[:, None]
    return out


def test_pruning_is_a_zeroed_map_and_the_rest_of_the_network():
    encoder, x = network(), pictures(5)
    pruned = PrunedFilters(encoder, "2", [3, 7], where=PLACE)
    maps = encoder[:3](x).detach().clone()
    for i in range(8):  # by hand: a cell counts if one of its 2 x 2 pixels lies in the place
        for j in range(8):
            if PLACE[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].any():
                maps[:, [3, 7], i, j] = 0
    torch.testing.assert_close(pruned(x), encoder[3:](maps))
    everywhere = PrunedFilters(encoder, "2", [3, 7])
    maps[:, [3, 7]] = 0
    torch.testing.assert_close(everywhere(x), encoder[3:](maps))
    torch.testing.assert_close(PrunedFilters(encoder, "2", [])(x), encoder(x))


def test_the_place_may_be_on_the_layers_grid():
    x = pictures(3)
    grid = np.zeros((8, 8), bool)
    grid[5:7, 1:4] = True
    a, b = (PrunedFilters(network(), "2", [0, 1], where=w)(x) for w in (grid, PLACE))
    torch.testing.assert_close(a, b)


def test_ranking_is_the_separation_by_hand():
    encoder, x = network(), pictures()
    found = rank_filters(encoder, "2", marked(x), x, where=PLACE)
    with torch.no_grad():
        means = [encoder[:3](t)[:, :, 5:7, 1:4].mean((2, 3)).double() for t in (marked(x), x)]
    expected = []
    for c in range(12):
        spread = max(float(means[1][:, c].std()), 1e-3 * float(torch.cat(means).std()))
        expected.append(float(means[0][:, c].mean() - means[1][:, c].mean()) / spread)
    expected = np.array(expected)
    order = np.argsort(-np.abs(expected))
    np.testing.assert_array_equal(found.channels, order)
    np.testing.assert_allclose(found.separation, expected[order], rtol=1e-3)


def test_the_reach_is_where_windows_touch_the_artefact():
    x = pictures(6)
    found = rank_filters(network(), "2", marked(x), x)
    expected = np.zeros((8, 8), bool)
    for i in range(8):
        for j in range(8):  # three pixels around each second one
            window = np.s_[max(0, 2 * i - 1) : 2 * i + 2, max(0, 2 * j - 1) : 2 * j + 2]
            expected[i, j] = PLACE[window].any()
    np.testing.assert_array_equal(found.reach, expected)
    within = rank_filters(network(), "2", marked(x), x, where=expected)
    np.testing.assert_array_equal(within.separation, found.separation)


def test_the_encoder_stays_as_it_was():
    encoder = network()
    before, hooks = copy.deepcopy(encoder.state_dict()), len(encoder[2]._forward_hooks)
    x = pictures(3)
    answer = encoder(x)
    PrunedFilters(encoder, "2", [1, 2, 3])(x)
    rank_filters(encoder, "2", marked(x), x)
    assert len(encoder[2]._forward_hooks) == hooks == 0
    torch.testing.assert_close(encoder(x), answer)
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, before[name])


def test_state_and_copies():
    x = pictures(3)
    pruned = PrunedFilters(network(), "2", [1, 4], where=PLACE)
    assert {"channels", "place"} < set(pruned.state_dict())
    other = PrunedFilters(network(1), "2", [0, 2], where=~PLACE)
    other.load_state_dict(pruned.state_dict())
    torch.testing.assert_close(other(x), pruned(x))
    copied = copy.deepcopy(pruned)
    copied.channels.fill_(0)
    copied.channels[1] = 5
    torch.testing.assert_close(copied(x), PrunedFilters(network(), "2", [0, 5], where=PLACE)(x))
    torch.testing.assert_close(other(x), pruned(x))


def test_threads_do_not_meet():
    x = pictures(8)
    modules = [PrunedFilters(network(), "2", [i], where=PLACE) for i in range(6)]
    wanted = [m(x).detach() for m in modules]
    wrong = []

    def work(m, w):
        for _ in range(20):
            if not torch.equal(m(x), w):
                wrong.append(m)

    threads = [
        threading.Thread(target=work, args=pair) for pair in zip(modules, wanted, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("composite", [None, "epsilon", "epsilon_plus_flat", "gamma"])
def test_relevance_adds_up_and_none_passes_a_pruned_filter(composite):
    x = pictures(12)
    pruned = PrunedFilters(network(), "2", list(range(12)), where=PLACE).double()
    model = KMeans(3, n_init=2, random_state=0).fit(encoded(pruned, x.double()))
    net = neuralize(model, features=pruned)
    found = xai.explain(net, x.double(), composite=composite, progress=False)
    assert found.relative_conservation_error.max() < 1e-9
    # all filters are gone at the place: pixels seen by cells of the place alone get nothing
    inside = np.zeros((16, 16), bool)
    inside[11:13, 3:7] = True
    assert np.abs(found.values[:, :, inside]).max() == 0 < np.abs(found.values).max()


def test_a_shortcut_through_a_filter_goes_and_the_task_stays():
    """One filter is made to see the mark's colour; clusters by it become clusters by brightness."""
    encoder = network()
    with torch.no_grad():
        encoder[0].weight.fill_(1 / 27)  # the others see how bright it is
        encoder[0].weight[5] = torch.tensor([2.0, -4.0, 2.0])[:, None, None] / 9
        encoder[0].bias.fill_(0.0)
        encoder[0].bias[5] = -1.0
        encoder[3].weight.fill_(1 / 108)
        encoder[3].weight[:, 5] = 30.0
    rng = np.random.default_rng(0)
    bright = rng.random(200) < 0.5
    x = pictures(200, seed=1) * 0.4 + torch.from_numpy(0.5 * bright)[:, None, None, None].float()
    shown = rng.random(200) < 0.5
    seen = torch.where(torch.from_numpy(shown)[:, None, None, None], marked(x), x)

    def agreement(module, with_what):
        labels = KMeans(2, n_init=3, random_state=0).fit_predict(encoded(module, seen))
        share = (labels == with_what).mean()
        return max(share, 1 - share)

    ranked = rank_filters(encoder, "2", marked(x[:50]), x[:50])
    assert ranked.channels[0] == 5
    pruned = PrunedFilters(encoder, "2", ranked.channels[:1], where=ranked.reach)
    others = PrunedFilters(encoder, "2", [0], where=ranked.reach)
    assert agreement(encoder, shown) > 0.95 and agreement(encoder, bright) < 0.7
    assert agreement(others, shown) > 0.95
    assert agreement(pruned, bright) > 0.95 and agreement(pruned, shown) < 0.7


def test_bad_input_is_refused():
    encoder, x = network(), pictures(4)
    with pytest.raises(InputError, match="did you mean"):
        PrunedFilters(encoder, "22", [0])
    with pytest.raises(InputError, match="whole numbers"):
        PrunedFilters(encoder, "2", [-1])
    with pytest.raises(InputError, match="whole numbers"):
        PrunedFilters(encoder, "2", [0.5])
    with pytest.raises(InputError, match="that differ"):
        PrunedFilters(encoder, "2", [1, 1])
    with pytest.raises(InputError, match="some of them true"):
        PrunedFilters(encoder, "2", [1], where=np.zeros((4, 4), bool))
    with pytest.raises(InputError, match="below 12"):
        PrunedFilters(encoder, "2", [12])(x)
    with pytest.raises(InputError, match="feature map"):
        PrunedFilters(encoder, "6", [1])(x)
    with pytest.raises(InputError, match="the same pictures"):
        rank_filters(encoder, "2", x, x[:2])
    with pytest.raises(InputError, match="did you mean"):
        rank_filters(encoder, "relu", x, x)
    with pytest.raises(InputError, match="answers both alike"):
        rank_filters(encoder, "2", x, x)
