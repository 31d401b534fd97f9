"""Draw docs/pictures/detector_cases.png: slides of clothes, from the case down to the pixel.

A case is a mosaic of 6 x 8 pictures of dresses; abnormal ones hold four sandals. A ResNet-20
trained on CIFAR-10 embeds every picture. For the audit, one dimension of the embedding is moved in
half of the cases, as another scanner might.

python benchmarks/pictures/case_detector.py [FILE]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from drawing import colour_bar
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from neuralize.deep import CaseDetector, CaseRelevance, Confounds, audit_confounds
from neuralize.deep.embedding import embed
from xai.datasets import fashion_mnist
from xai.plot.figure import NotebookFigure
from xai.plot.scales import NEUTRAL, POSITIVE, SIGNED, symmetric_limit
from xai.pretrained import cifar_resnet20

ROOT = Path(__file__).parents[2]
ROWS, COLUMNS = 6, 8
STRANGE, SCANNER = 4, 17
PLACES = np.stack(np.divmod(np.arange(ROWS * COLUMNS), COLUMNS), 1)


class Embedding(nn.Module):
    """Grey pictures ``(n, 28, 28)`` as features ``(n, 64)``."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = cifar_resnet20()

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (2, 2, 2, 2)).unsqueeze(1)
        return self.encoder(torch.cat([x, x, x], 1))


def slides(seed: int, abnormal: np.ndarray, usual: np.ndarray, other: np.ndarray) -> list:
    """One mosaic for each entry of ``abnormal``; of pictures, or of their embeddings."""
    rng = np.random.default_rng(seed)
    found = []
    for ill in abnormal:
        case = usual[rng.choice(len(usual), ROWS * COLUMNS, replace=False)].astype(np.float32)
        if ill:
            case[rng.choice(len(case), STRANGE, replace=False)] = other[:STRANGE]
            other = np.roll(other, -STRANGE, 0)
        found.append(case)
    return found


def main(path: Path) -> None:
    torch.set_num_threads(1)
    train, test = fashion_mnist("train"), fashion_mnist("test")
    own, dresses, sandals = (
        part.images[part.names == name]
        for part, name in ((train, "Dress"), (test, "Dress"), (test, "Sandal"))
    )
    normal, labels = np.zeros(40, dtype=int), np.arange(24) % 2
    detector = CaseDetector(LedoitWolf(), features=Embedding(), contamination=0.2)
    detector.fit(slides(0, normal, own[:400], sandals))
    detector.calibrate(slides(1, normal, own[400:], sandals))
    cases = slides(2, labels, dresses, sandals)
    scores = detector.decision_function(cases)
    print("AUROC of cases", roc_auc_score(labels, scores))
    chosen = int(scores.argmax())
    found = detector.explain(cases[chosen : chosen + 1], positions=PLACES)
    print("conservation error", found.relative_conservation_error)

    phi = {name: embed(Embedding(), torch.from_numpy(x).float()).numpy()
           for name, x in (("own", own), ("dress", dresses), ("sandal", sandals))}  # fmt: skip
    detector_of_embeddings = CaseDetector(LedoitWolf())
    detector_of_embeddings.fit(slides(0, normal, phi["own"], phi["sandal"]))
    labels, sites = np.arange(200) % 4 // 3, np.arange(200) // 4 % 2
    moved = slides(3, labels, phi["dress"], phi["sandal"])
    for case, site in zip(moved, sites, strict=True):
        case[:, SCANNER] += 5 * site * phi["own"][:, SCANNER].std()
    confounds = audit_confounds(detector_of_embeddings, moved, sites=sites, labels=labels)
    print(confounds)
    draw(detector, cases[chosen], found, confounds).savefig(path, dpi=90)


def draw(
    detector: CaseDetector, case: np.ndarray, found: CaseRelevance, confounds: Confounds
) -> NotebookFigure:
    figure = NotebookFigure(figsize=(9.4, 6.4), layout="constrained")
    (left, middle), (pixels, dims) = figure.subplots(2, 2)
    left.imshow(mosaic(case), cmap="gray", vmin=0, vmax=1)
    left.set_title(
        f"a case: score {found.scores[0]:.0f}, threshold {detector.threshold_:.0f}", fontsize=9
    )
    grid = found.grid(0)
    end = symmetric_limit(grid)
    middle.imshow(grid, cmap=SIGNED, vmin=-end, vmax=end)
    colour_bar(figure, middle, end)
    for place in PLACES[found.explained]:
        share = grid[tuple(place)]
        middle.text(
            place[1], place[0], f"{share:.0f}", ha="center", va="center", fontsize=8,
            color="white" if share > end / 2 else "black",
        )  # fmt: skip
    middle.set_title(f"its patches: {len(found.explained)} of {len(grid.ravel())} have a share",
                     fontsize=9)  # fmt: skip
    heat = np.zeros((len(case), 28, 28))
    heat[found.explained] = found.values
    end = symmetric_limit(heat, quantile=0.9995)
    pixels.imshow(mosaic(heat), cmap=SIGNED, vmin=-end, vmax=end)
    colour_bar(figure, pixels, end)
    bias = sum(part for name, part in found.absorbed.items() if name.startswith("encoder "))
    pixels.set_title(
        f"their pixels: {found.values.sum():.0f} {bias.sum():+.0f} (the encoder's biases)",
        fontsize=9,
    )
    frame = confounds.dimensions.head(16)
    dims.bar(
        range(len(frame)), 100 * frame["relevance share"],
        color=[POSITIVE if scanner else NEUTRAL for scanner in frame["scanner"]],
    )  # fmt: skip
    dims.axhline(100 / len(confounds.relevance_share), color="black", linewidth=0.8, linestyle="--")
    dims.set_xticks(range(len(frame)), [str(name) for name in frame.index], fontsize=7)
    dims.set_xlabel("dimension of the embedding", fontsize=8)
    dims.set_ylabel("% of the relevance", fontsize=8)
    site = max(confounds.site_auc.values())
    dims.set_title(
        f"two scanners: AUC of the abnormal {confounds.anomaly_auc:.2f}, of the scanner {site:.2f}"
        f"\nred tells scanners apart: {confounds.scanner_share:.0%} of the relevance",
        fontsize=9,
    )
    for ax in (left, middle, pixels):
        ax.set_xticks([])
        ax.set_yticks([])
    return figure


def mosaic(patches: np.ndarray) -> np.ndarray:
    """Patches side by side."""
    rows = patches.reshape(ROWS, COLUMNS, 28, 28)
    return rows.transpose(0, 2, 1, 3).reshape(ROWS * 28, COLUMNS * 28)


if __name__ == "__main__":
    default = ROOT / "docs" / "pictures" / "detector_cases.png"
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else default)
