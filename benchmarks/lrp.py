"""Cost of layer-wise relevance propagation in gradient passes, ours beside zennit, in one run.

    python benchmarks/lrp.py [--threads 2] [--repeats 3] [--batch 8] [--size 224] [--device cpu]

A gradient pass is one forward pass and the gradient of the chosen outputs by the input. Within a
process, gradient pass, ours and zennit alternate, and the fastest of several repeats counts. Peak
memory is that above the loaded model, each in a process of its own; modified weights that are kept
for later passes count.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
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

NETWORKS = ("vgg16", "resnet18", "resnet50")
COMPOSITES = ("epsilon_plus_flat", "epsilon_gamma_box")
METHODS = ("gradient", "ours", "zennit")


def network(name: str) -> nn.Module:
    import_zennit()
    from torchvision.models import get_model

    torch.manual_seed(0)
    model: nn.Module = get_model(name, weights=None).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model


def seeds(output: Tensor) -> Tensor:
    chosen = output.argmax(1, keepdim=True)
    return torch.zeros_like(output).scatter(1, chosen, output.gather(1, chosen))


def gradient(model: nn.Module, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    y = model(x)
    return torch.autograd.grad(y, x, seeds(y.detach()))[0]


def rules_of(model: nn.Module, composite: str) -> LRP:
    from neuralize.composites import epsilon_gamma_box, preset

    rules = epsilon_gamma_box(-3.0, 3.0) if composite.endswith("box") else preset(composite)
    return LRP(model, rules)


def ours(lrp: LRP) -> Callable[[Tensor], Tensor]:
    def run(x: Tensor) -> Tensor:
        trace = lrp.trace(x)
        return trace.relevance(seeds(trace.output))[0]

    return run


def zennits(model: nn.Module, name: str, composite: str) -> Callable[[Tensor], Tensor]:
    zennit = import_zennit()
    from zennit.torchvision import ResNetCanonizer, VGGCanonizer

    canonizers = [VGGCanonizer() if name.startswith("vgg") else ResNetCanonizer()]
    if composite == "epsilon_gamma_box":
        rules = zennit.composites.EpsilonGammaBox(low=-3.0, high=3.0, canonizers=canonizers)
    else:
        rules = zennit.composites.EpsilonPlusFlat(canonizers=canonizers)

    def run(x: Tensor) -> Tensor:
        with rules.context(model) as ready:
            return gradient(ready, x)

    return run


def synchronised(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def times(name: str, composite: str, options: argparse.Namespace) -> dict[str, Any]:
    model = network(name).to(options.device)
    x = torch.rand(options.batch, 3, options.size, options.size, device=options.device)
    work: dict[str, Callable[[Tensor], Tensor]] = {
        "gradient": lambda x: gradient(model, x),
        "ours": ours(rules_of(model, composite)),
    }
    if not options.no_zennit:
        work["zennit"] = zennits(model, name, composite)
    best = dict.fromkeys(work, float("inf"))
    answers = {}
    for repeat in range(options.repeats + 1):  # the first warms up
        for method, run in work.items():
            synchronised(options.device)
            start = time.perf_counter()
            answers[method] = run(x)
            synchronised(options.device)
            if repeat:
                best[method] = min(best[method], time.perf_counter() - start)
    found: dict[str, Any] = {
        "seconds": best,
        "images per second": options.batch / best["ours"],
        "finite": bool(answers["ours"].isfinite().all()),
    }
    return found


def memory(name: str, composite: str, method: str, options: argparse.Namespace) -> dict[str, Any]:
    """Peak bytes above what the loaded model takes."""
    model = network(name).to(options.device)
    lrp = rules_of(model, composite)
    run = {
        "gradient": lambda: lambda x: gradient(model, x),
        "ours": lambda: ours(lrp),
        "zennit": lambda: zennits(model, name, composite),
    }[method]()
    run(torch.rand(1, 3, 64, 64, device=options.device))
    x = torch.rand(options.batch, 3, options.size, options.size, device=options.device)
    if options.device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run(x)
        return {"bytes": torch.cuda.max_memory_allocated() - before + lrp.cache.kept_bytes}
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak starts anew
    before = _status("VmRSS")
    run(x)
    return {"bytes": _status("VmHWM") - before + lrp.cache.kept_bytes}


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--network", choices=NETWORKS)
    parser.add_argument("--composite", choices=COMPOSITES)
    parser.add_argument("--no-zennit", action="store_true")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.part:
        part = json.loads(options.part)
        work = times if part[0] == "times" else memory
        print(json.dumps(work(*part[1:], options)))
        return
    device = (
        torch.cuda.get_device_name()
        if options.device.startswith("cuda")
        else f"{platform.machine()}, {options.threads} threads"
    )
    print(
        f"{device}, torch {torch.__version__}, batch {options.batch}, {options.size} pixels; "
        "in gradient passes"
    )
    print("| network | composite | gradient s | ours | zennit | ours memory | zennit memory |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    methods = METHODS[:2] if options.no_zennit else METHODS
    for composite in [options.composite] if options.composite else COMPOSITES:
        for name in [options.network] if options.network else NETWORKS:
            seconds = child(["times", name, composite], options)["seconds"]
            took = {m: seconds[m] / seconds["gradient"] for m in methods}
            peaks = dict.fromkeys(methods, float("nan"))
            if not options.no_memory:
                peaks = {
                    m: child(["memory", name, composite, m], options)["bytes"] for m in methods
                }
            print(
                f"| {name} | {composite} | {seconds['gradient']:.2f} | {took['ours']:.2f} | "
                f"{took.get('zennit', float('nan')):.2f} | "
                f"{peaks['ours'] / peaks['gradient']:.2f} | "
                f"{peaks.get('zennit', float('nan')) / peaks['gradient']:.2f} |",
                flush=True,
            )


def child(part: list[str], options: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, __file__, "--part", json.dumps(part), "--device", options.device]
    for name in ("threads", "repeats", "batch", "size"):
        command += [f"--{name}", str(getattr(options, name))]
    command += ["--no-zennit"] if options.no_zennit else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{part} failed:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
