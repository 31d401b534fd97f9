"""LRP as an algorithm of PyG's ``Explainer``: masks that add up, for its metrics and its plots.

    ``evidence = sum of relevance + sum of absorbed + conservation_error``

with evidence the raw score of the target class, ``(2 t - 1)`` times the logit of a binary model, or
the predicted number. PyG's other algorithms answer in weights between 0 and 1; relevance has a sign
and a size, so for metrics that multiply features by masks take a threshold or ``masks="unit"``.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from graphs.pyg.inputs import plain_data, required_pyg
from graphs.pyg.relevance import relevance_of
from neuralize.composites import Composite
from neuralize.errors import InputError, UnsupportedModelError

# before the imports: it names the extra where PyG is missing, and hides a deprecation of PyG's own
required_pyg()

from torch_geometric.data import Data  # noqa: E402
from torch_geometric.explain import ExplainerAlgorithm, Explanation  # noqa: E402
from torch_geometric.explain.config import (  # noqa: E402
    MaskType,
    ModelMode,
    ModelReturnType,
    ModelTaskLevel,
)

Masks = Literal["signed", "unit"]


class LRPExplainer(ExplainerAlgorithm):  # type: ignore[misc, unused-ignore]
    """Layer-wise relevance propagation for ``torch_geometric.explain.Explainer``.

    Explanations carry, beside PyG's masks: ``relevance`` ``(n, f)``, ``evidence``, ``absorbed`` (by
    name what no node carries) and ``conservation_error``. A node mask holds relevance per entry
    (``"attributes"``), per node (``"object"``) or per feature (``"common_attributes"``); an edge
    mask what went along each edge, summed over the layers.

    Parameters
    ----------
    composite
        Rules, :func:`~graphs.pyg.pyg_composite` by default.
    masks
        ``"signed"`` relevance, or ``"unit"``: its positive part over its maximum.
    output
        Which column of several is explained, in regression.

    Examples
    --------
    >>> pyg = required_pyg()
    >>> from torch_geometric.explain import Explainer
    >>> model = pyg.nn.GCN(2, 8, num_layers=2, out_channels=3)
    >>> explainer = Explainer(
    ...     model, LRPExplainer(), explanation_type="model", node_mask_type="attributes",
    ...     model_config={"mode": "multiclass_classification", "task_level": "node",
    ...                   "return_type": "raw"})
    >>> edge_index = torch.tensor([[0, 1, 2, 3], [1, 0, 3, 2]])
    >>> found = explainer(torch.rand(4, 2), edge_index, index=0)
    >>> found.node_mask.shape, bool(found.node_mask[2:].any())
    (torch.Size([4, 2]), False)
    >>> abs(found.conservation_error) < 1e-4
    True
    """

    def __init__(
        self,
        composite: Composite | str | None = None,
        *,
        masks: Masks = "signed",
        output: int | None = None,
    ) -> None:
        super().__init__()
        if masks not in ("signed", "unit"):
            raise InputError(f"Expected masks 'signed' or 'unit', got {masks!r}.")
        self.composite, self.masks, self.output = composite, masks, output

    def refusal(self) -> str | None:
        """Why these settings cannot be explained, or None."""
        model = self.model_config
        if model.task_level == ModelTaskLevel.edge:
            return "outputs per edge belong to pairs of nodes; explain task_level 'graph' or 'node'"
        if model.return_type != ModelReturnType.raw:
            return (
                f"{model.return_type.value} are no sum of shares: explain the raw scores below the "
                "softmax or sigmoid (a model without its last layer, return_type 'raw')"
            )
        return None

    def supports(self) -> bool:
        """Graphs and nodes, raw scores; regression, binary and multiclass."""
        return self.refusal() is None

    def connect(self, explainer_config: Any, model_config: Any) -> None:
        """Take PyG's configuration.

        Raises
        ------
        InputError
            Settings that cannot be explained, and why.
        """
        try:
            super().connect(explainer_config, model_config)
        except ValueError as error:
            reason = self.refusal()
            if reason is None:
                raise
            raise InputError(f"LRPExplainer: {reason}.") from error

    def forward(
        self,
        model: nn.Module,
        x: Tensor | dict[str, Tensor],
        edge_index: Tensor | dict[Any, Tensor],
        *,
        target: Tensor,
        index: int | Tensor | None = None,
        **kwargs: Any,
    ) -> Explanation:
        """The explanation; called by PyG's ``Explainer``.

        Raises
        ------
        UnsupportedModelError
            Heterogeneous graphs.
        InputError
            A target or an output that does not fit the mode.
        """
        if isinstance(x, dict) or isinstance(edge_index, dict):
            raise UnsupportedModelError("LRPExplainer: heterogeneous graphs are not explained yet.")
        given = {name: value for name, value in kwargs.items() if isinstance(value, Tensor)}
        data = plain_data(Data(x=x.detach(), edge_index=edge_index, **given))

        def call(model: nn.Module, x: Tensor, data: Any) -> Any:
            return model(x, data.edge_index, **kwargs)

        def weigh(output: Tensor) -> Tensor:
            return self._weights(output, target, index)

        config = self.explainer_config
        edges = config.edge_mask_type is not None
        found = relevance_of(
            model, data, weigh, edges=edges, composite=self.composite, call=call
        )  # fmt: skip
        explanation = Explanation(
            relevance=found.values,
            evidence=found.evidence,
            absorbed=found.absorbed,
            conservation_error=found.conservation_error,
        )
        if config.node_mask_type is not None:
            explanation.node_mask = self._scaled(_per(found.values, config.node_mask_type))
        if found.edges is not None:
            explanation.edge_mask = self._scaled(found.edges)
        return explanation

    def _weights(self, output: Tensor, target: Tensor, index: int | Tensor | None) -> Tensor:
        """What each output counts for the evidence, in the output's shape."""
        weights = torch.zeros_like(output)
        if output.ndim not in (1, 2) or not len(output):
            raise InputError(f"Expected outputs (m,) or (m, K), got {tuple(output.shape)}.")
        rows = torch.arange(len(output), device=output.device)
        if index is not None:
            rows = rows[torch.as_tensor(index, device=output.device).reshape(-1)]
        mode = self.model_config.mode
        if mode == ModelMode.regression:
            weights[rows, ...] = 1.0
            if output.ndim == 2 and output.shape[1] > 1:
                if self.output is None or not 0 <= self.output < output.shape[1]:
                    raise InputError(
                        f"Expected one output per row, got {output.shape[1]}: say which, "
                        "LRPExplainer(output=0)."
                    )
                weights[:, torch.arange(output.shape[1]) != self.output] = 0.0
            return weights
        binary = mode == ModelMode.binary_classification
        if binary and output.ndim == 2 and output.shape[1] != 1:
            raise InputError(
                f"Expected one logit per row of a binary model, got {output.shape[1]}."
            )
        if not binary and output.ndim != 2:
            raise InputError(f"Expected scores (m, K) of classes, got {tuple(output.shape)}.")
        labels = _labels(target, len(output), 2 if binary else output.shape[1])[rows]
        if binary:
            weights.view(-1)[rows] = (2 * labels - 1).to(weights.dtype)
            return weights
        weights[rows, labels] = 1.0
        return weights

    def _scaled(self, mask: Tensor) -> Tensor:
        if self.masks == "signed":
            return mask
        positive = mask.clamp(min=0)
        top = positive.max() if positive.numel() else positive.sum()
        return positive / top if float(top) > 0 else positive


def _labels(target: Tensor, m: int, classes: int) -> Tensor:
    """Class of every row of the output ``(m,)``."""
    labels = target.reshape(-1)
    whole = not labels.is_floating_point() or bool((labels == labels.round()).all())
    if len(labels) != m or not whole or bool(((labels < 0) | (labels >= classes)).any()):
        raise InputError(
            f"Expected targets ({m},) of classes 0 to {classes - 1}, got {tuple(target.shape)} "
            f"from {float(labels.min()):g} to {float(labels.max()):g}."
        )
    return labels.long()


def _per(values: Tensor, kind: MaskType) -> Tensor:
    if kind == MaskType.object:
        return values.sum(1, keepdim=True)
    if kind == MaskType.common_attributes:
        return values.sum(0, keepdim=True)
    return values
