"""Cost of many targets at once, beside single passes and beside zennit, in one run.

    python benchmarks/bilrp.py [--threads 2] [--repeats 3] [--targets 128] [--device cpu]

A gradient pass is one forward pass and the gradient of one output by the input, batch of one. Ours
propagates all targets through one traced forward pass; zennit takes one pass per target. Relevance
of both is compared target by target; BatchNorm's eps is tiny in these networks, since zennit 0.5.1
applies it a second time after merging.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# The folder holds a file with the name of the package it measures, and comes first on the path.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).parent]

import torch
from torch import Tensor, nn

from neuralize import LRP
from neuralize.torchvision_guard import import_zennit


def networks() -> dict[str, tuple[nn.Module, int, str]]:
    """Encoders, their input size, and the composite."""
    zennit = import_zennit()
    del zennit
    import torchvision

    torch.manual_seed(0)
    resnet = torchvision.models.resnet18(weights=None)
    resnet.fc = nn.Identity()
    for module in resnet.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-12
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    vit = torchvision.models.VisionTransformer(96, 16, 6, 6, 384, 1536)
    vit.heads = nn.Identity()
    return {
        "ResNet18": (resnet.eval(), 96, "epsilon_plus"),
        "ViT (6 layers, 384)": (vit.eval(), 96, "cp_lrp"),
    }


def fastest(work: Callable[[], Any], repeats: int, device: str) -> tuple[float, Any]:
    best, answer = float("inf"), work()
    for _ in range(repeats):
        start = time.perf_counter()
        answer = work()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return best, answer


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


def measure(name: str, options: argparse.Namespace) -> str:
    model, size, composite = networks()[name]
    model = model.to(options.device)
    x = torch.rand(1, 3, size, size, device=options.device)

    def gradient() -> Tensor:
        leaf = x.clone().requires_grad_()
        y = model(leaf)
        return torch.autograd.grad(y[0, 0], leaf)[0]

    lrp = LRP(model, composite)
    with torch.no_grad():
        phi = model(x)[0]
    k = min(options.targets, len(phi))
    seeds = torch.zeros(k, 1, len(phi), device=options.device)
    seeds[torch.arange(k), 0, torch.arange(k)] = phi[:k]

    def batched() -> Tensor:
        return lrp.trace(x, keep=True).batched(seeds)[0]

    def loop() -> Tensor:
        trace = lrp.trace(x, keep=True)
        return torch.stack([trace.relevance(seed)[0] for seed in seeds])

    grad_s, _ = fastest(gradient, 5 * options.repeats, options.device)
    ours_s, ours = fastest(batched, options.repeats, options.device)
    loop_s, one_by_one = fastest(loop, 1, options.device)
    cells = [name, composite, f"{grad_s * 1e3:.1f}", f"{ours_s / k / grad_s:.2f}",
             f"{loop_s / k / grad_s:.2f}", f"{relative(ours, one_by_one):.0e}"]  # fmt: skip
    if options.no_zennit or not name.startswith("ResNet"):
        return " | ".join([*cells, "-", "-", "-"])
    zennit = import_zennit()
    from zennit.torchvision import ResNetCanonizer

    rules = zennit.composites.EpsilonPlus(canonizers=[ResNetCanonizer()])

    def zennits(count: int) -> Tensor:
        maps = []
        for seed in seeds[:count]:
            with rules.context(model) as ready:
                leaf = x.clone().requires_grad_()
                maps.append(torch.autograd.grad(ready(leaf), leaf, seed)[0])
        return torch.stack(maps)

    few = min(k, 16)
    zennit_s, theirs = fastest(lambda: zennits(few), 1, options.device)
    per_target = zennit_s / few
    return " | ".join(
        [*cells, f"{per_target / grad_s:.2f}", f"{per_target / (ours_s / k):.1f}",
         f"{relative(ours[:few], theirs):.0e}"]
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--targets", type=int, default=128)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-zennit", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = (
        torch.cuda.get_device_name()
        if options.device.startswith("cuda")
        else f"{platform.machine()}, {options.threads} threads"
    )
    print(f"{device}, torch {torch.__version__}, {options.targets} targets; in gradient passes")
    print(
        "| encoder | composite | gradient ms | ours, per target | ours in a loop | difference | "
        "zennit, per target | zennit over ours | difference |"
    )
    print("|" + " --- |" * 9)
    for name in networks():
        print(f"| {measure(name, options)} |", flush=True)


if __name__ == "__main__":
    main()
