"""LRP inside PyG's Explainer: its settings, its masks, and its metrics on a model with a motif."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graphs.pyg import LRPExplainer, explain_pyg, pyg_composite, required_pyg
from neuralize.errors import InputError, UnsupportedModelError
from neuralize.torchvision_guard import ensure_importable_torchvision

pyg = required_pyg()

from torch_geometric.explain import Explainer, metric  # noqa: E402

N, F = 10, 4
EDGES = torch.randint(0, N, (2, 24), generator=torch.Generator().manual_seed(0))
X = torch.rand(N, F, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
BATCH = torch.tensor([0] * 6 + [1] * 4)


class Net(nn.Module):
    """Outputs per node, or per graph where there is a batch."""

    def __init__(self, outputs: int, flat: bool = False) -> None:
        super().__init__()
        torch.manual_seed(outputs)
        self.conv, self.head = pyg.nn.GCNConv(F, 8), nn.Linear(8, outputs)
        self.flat = flat
        self.double()

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor | None = None) -> Tensor:
        h = self.conv(x, edge_index).relu()
        if batch is not None:
            h = pyg.nn.global_mean_pool(h, batch)
        out: Tensor = self.head(h)
        return out.squeeze(1) if self.flat else out


def explainer(
    model: nn.Module, mode: str, level: str = "graph", kind: str = "model",
    node: Any = "attributes", edge: Any = None, returns: str = "raw", threshold: Any = None,
    **options: Any,
) -> Any:  # fmt: skip
    return Explainer(
        model, LRPExplainer(**options), explanation_type=kind, node_mask_type=node,
        edge_mask_type=edge, threshold_config=threshold,
        model_config={"mode": mode, "task_level": level, "return_type": returns},
    )  # fmt: skip


def data(batch: Tensor | None = None) -> Any:
    found = pyg.data.Data(X, EDGES)
    if batch is not None:
        found.batch = batch
    return found


def total(found: Any) -> float:
    return float(found.relevance.sum()) + sum(found.absorbed.values())


@pytest.mark.parametrize("index", [0, 1, None])
def test_classes_of_graphs_are_explained_by_their_scores(index: int | None) -> None:
    model = Net(3)
    found = explainer(model, "multiclass_classification")(X, EDGES, index=index, batch=BATCH)
    scores = model(X, EDGES, BATCH).detach()
    rows = [0, 1] if index is None else [index]
    labels = scores.argmax(1)
    assert found.evidence == pytest.approx(float(sum(scores[r, labels[r]] for r in rows)))
    assert total(found) == pytest.approx(found.evidence, abs=1e-10)
    assert abs(found.conservation_error) < 1e-10
    assert torch.equal(found.node_mask, found.relevance)
    own = sum(
        explain_pyg(model, data(BATCH), index=r, target=int(labels[r])).values for r in rows
    )  # fmt: skip
    torch.testing.assert_close(found.relevance, own)


def test_a_phenomenon_is_explained_by_the_class_it_has() -> None:
    model, target = Net(3), torch.tensor([2, 1])
    found = explainer(model, "multiclass_classification", kind="phenomenon")(
        X, EDGES, index=1, target=target, batch=BATCH
    )
    expected = explain_pyg(model, data(BATCH), index=1, target=1)
    torch.testing.assert_close(found.node_mask, expected.values)
    assert torch.equal(found.target, target)


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("label", [0, 1])
def test_the_evidence_of_a_binary_class_is_the_logit_towards_it(flat: bool, label: int) -> None:
    model = Net(1, flat)
    target = torch.full((N,), label)
    found = explainer(model, "binary_classification", "node", "phenomenon")(
        X, EDGES, index=3, target=target
    )
    logit = float(model(X, EDGES).detach().reshape(-1)[3])
    assert found.evidence == pytest.approx((2 * label - 1) * logit)
    expected = explain_pyg(model, data(), index=3).values * (2 * label - 1)
    torch.testing.assert_close(found.node_mask, expected)


@pytest.mark.parametrize("index", [4, torch.tensor([4, 7])])
def test_numbers_of_nodes_are_explained_in_regression(index: Any) -> None:
    model = Net(2)
    found = explainer(model, "regression", "node", output=1)(X, EDGES, index=index)
    rows = [4] if isinstance(index, int) else [4, 7]
    expected = explain_pyg(model, data(), index=rows, target=1)
    torch.testing.assert_close(found.node_mask, expected.values)
    one = explainer(Net(1), "regression", "node")(X, EDGES, index=index)
    torch.testing.assert_close(one.node_mask, explain_pyg(Net(1), data(), index=rows).values)


def test_masks_are_sums_of_relevance_over_what_they_mask() -> None:
    model = Net(3)
    found = {
        kind: explainer(model, "multiclass_classification", node=kind, edge="object")(
            X, EDGES, index=0, batch=BATCH
        )
        for kind in ("attributes", "object", "common_attributes", None)
    }
    values = found["attributes"].node_mask
    torch.testing.assert_close(found["object"].node_mask, values.sum(1, keepdim=True))
    torch.testing.assert_close(found["common_attributes"].node_mask, values.sum(0, keepdim=True))
    assert "node_mask" not in found[None]
    target = int(model(X, EDGES, BATCH)[0].argmax())
    edges = explain_pyg(model, data(BATCH), index=0, target=target, edges=True).edges
    assert edges is not None
    for one in found.values():
        torch.testing.assert_close(one.edge_mask, edges)
        assert one.validate_masks()


def test_unit_masks_are_positive_parts_up_to_one() -> None:
    def masks(**options: Any) -> Any:
        return explainer(Net(3), "multiclass_classification", edge="object", **options)(
            X - 0.5, EDGES, index=0, batch=BATCH
        )

    signed, unit = masks(), masks(masks="unit")
    for name in ("node_mask", "edge_mask"):
        raw = signed[name]
        assert bool((raw < 0).any())
        torch.testing.assert_close(unit[name], raw.clamp(min=0) / raw.max())
    torch.testing.assert_close(unit.relevance, signed.relevance)


def test_composites_are_taken() -> None:
    model = Net(3)
    composite = pyg_composite(model, 3.0)
    found = explainer(model, "multiclass_classification", composite=composite)(
        X, EDGES, index=0, batch=BATCH
    )
    target = int(model(X, EDGES, BATCH)[0].argmax())
    expected = explain_pyg(model, data(BATCH), index=0, target=target, composite=composite)
    torch.testing.assert_close(found.node_mask, expected.values)
    plain = explain_pyg(model, data(BATCH), index=0, target=target)
    assert not torch.allclose(plain.values, expected.values)


def test_the_model_is_in_its_own_mode_afterwards() -> None:
    model = Net(3).train()
    explainer(model, "multiclass_classification")(X, EDGES, index=0, batch=BATCH)
    assert model.training and model.conv.training


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"level": "edge"}, "pairs of nodes"),
        ({"returns": "probs"}, "probs are no sum of shares"),
        ({"returns": "log_probs"}, "raw scores below the softmax"),
    ],
)
def test_settings_that_cannot_be_explained_say_why(settings: dict[str, str], says: str) -> None:
    with pytest.raises(InputError, match=says):
        explainer(Net(3), "multiclass_classification", **settings)
    assert LRPExplainer.supports.__doc__


@pytest.mark.parametrize(
    ("outputs", "mode", "target", "says"),
    [
        (3, "binary_classification", None, "one logit per row"),
        (2, "regression", None, r"output=0"),
        (3, "multiclass_classification", torch.tensor([0, 3]), "classes 0 to 2"),
        (3, "multiclass_classification", torch.tensor([0]), r"targets \(2,\)"),
        (3, "multiclass_classification", torch.tensor([0.5, 1]), "classes 0 to 2"),
        (1, "binary_classification", torch.tensor([2, 0]), "classes 0 to 1"),
    ],
)
def test_outputs_and_targets_that_do_not_fit_are_refused(
    outputs: int, mode: str, target: Any, says: str
) -> None:
    kind = "model" if target is None else "phenomenon"
    algorithm = explainer(Net(outputs), mode, kind=kind)
    with pytest.raises(InputError, match=says):
        algorithm(X, EDGES, index=0, target=target, batch=BATCH)


def test_heterogeneous_graphs_and_other_masks_are_refused() -> None:
    algorithm = LRPExplainer()
    with pytest.raises(UnsupportedModelError, match="heterogeneous"):
        algorithm(Net(1), {"a": X}, {("a", "to", "a"): EDGES}, target=X[:, 0])
    with pytest.raises(InputError, match="'signed' or 'unit'"):
        LRPExplainer(masks="absolute")  # type: ignore[arg-type]


# -- PyG's metrics -------------------------------------------------------------------------------

MOTIF = torch.tensor([2, 3, 7])


class Counts(nn.Module):
    """Class 1 if many nodes of kind 0 have neighbours of kind 1: exactly the motif's."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = pyg.nn.GraphConv(3, 1), nn.Linear(1, 2)
        with torch.no_grad():
            self.conv.lin_rel.weight.copy_(torch.tensor([[0.0, 1.0, 0.0]]))
            self.conv.lin_root.weight.copy_(torch.tensor([[1.0, 0.0, 0.0]]))
            self.conv.lin_rel.bias.fill_(-1.0)
            self.head.weight.copy_(torch.tensor([[0.0], [2.0]]))
            self.head.bias.copy_(torch.tensor([1.0, 0.0]))
        self.double()

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor | None = None) -> Tensor:
        h = self.conv(x, edge_index).relu()
        found: Tensor = self.head(pyg.nn.global_add_pool(h, batch))
        return found


def planted() -> tuple[Tensor, Tensor]:
    """A path on which nodes 2 and 3, of kinds 0 and 1, and 7 of kind 1, make the motif."""
    kinds = torch.full((N,), 2)
    kinds[2] = 0
    kinds[[3, 7]] = 1
    pairs = torch.tensor([[k, k + 1] for k in range(N - 1)] + [[2, 7]]).T
    return nn.functional.one_hot(kinds, 3).double(), torch.cat([pairs, pairs.flip(0)], 1)


def test_the_metrics_of_pyg_run_and_find_the_motif() -> None:
    x, edges = planted()
    batch = torch.zeros(N, dtype=torch.int64)
    model = Counts()

    def found(threshold: Any = None, node: Any = "object", **more: Any) -> tuple[Any, Any]:
        algorithm = explainer(
            model, "multiclass_classification", node=node, threshold=threshold, **more
        )
        return algorithm, algorithm(x, edges, batch=batch)

    _, raw = found()
    assert int(raw.target) == 1
    assert set(raw.node_mask.flatten().topk(3).indices.tolist()) == set(MOTIF.tolist())
    assert not raw.node_mask[[0, 5, 9]].any()

    algorithm, top = found(("topk_hard", 3))
    plus, minus = metric.fidelity(algorithm, top)
    assert (plus, minus) == (1.0, 0.0)  # gone without the motif, there with nothing else
    both = [torch.tensor([value]) for value in (plus, minus)]
    assert float(metric.characterization_score(*both)) == 1.0
    assert 0 <= metric.unfaithfulness(algorithm, top) < 1e-6

    sizes = [1, 3, 5]
    curve = []
    for k in sizes:
        algorithm, one = found(("topk_hard", k))
        curve.append(metric.fidelity(algorithm, one))
    plus_curve, minus_curve = torch.tensor(curve).T
    minus_curve = minus_curve.clamp(max=0.99)
    area = metric.fidelity_curve_auc(plus_curve, minus_curve, torch.tensor(sizes).float())
    assert float(area) > 0

    algorithm, edged = found(("topk_hard", 4), node=None, edge="object")
    assert bool(edged.edge_mask[(edges == torch.tensor([[3], [2]])).all(0)].all())
    assert metric.fidelity(algorithm, edged)[0] == 1.0


def test_ground_truth_metrics_of_pyg_run() -> None:
    ensure_importable_torchvision()
    pytest.importorskip("torchmetrics")
    x, edges = planted()
    found = explainer(Counts(), "multiclass_classification", node="object", masks="unit")(
        x, edges, batch=torch.zeros(N, dtype=torch.int64)
    )
    truth = torch.zeros(N)
    truth[MOTIF] = 1
    auroc = metric.groundtruth_metrics(found.node_mask, truth, metrics="auroc")
    assert auroc == 1.0


def test_subgraphs_and_files_keep_what_belongs_to_nodes() -> None:
    x, edges = planted()
    found = explainer(Counts(), "multiclass_classification", node="object")(
        x, edges, batch=torch.zeros(N, dtype=torch.int64)
    )
    part = found.get_explanation_subgraph()
    assert part.x.shape[0] == 3 == part.relevance.shape[0]
    assert part.absorbed == found.absorbed and part.evidence == found.evidence
    rest = found.get_complement_subgraph()
    assert not rest.relevance.any() and len(rest.x) == N - 3
