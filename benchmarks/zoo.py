"""Which networks are explained unchanged, and how well: torchvision's models, timm's families.

    python benchmarks/zoo.py [--torchvision] [--timm] [--model NAME ...] [--size 96] [--batch 2]
                             [--repeats 3] [--threads 1] [--composite epsilon] [--no-others]
                             [--largest 1e9] [--csv zoo.csv]

Weights are random, statistics of BatchNorm too, and what initialisation leaves at zero (heads,
LayerScale, biases) is filled, so that every branch carries relevance. All in float64. The columns:

    result      explained, or refused by the name of the error
    forward     largest difference of the traced output from the model's own
    error       |sum of relevance + absorbed shares - evidence|, over the larger of the evidence and
                the sum of absolute relevance, worst row
    amplified   sum of absolute relevance over the evidence, worst row
    absorbed    sum of absolute absorbed shares over the evidence, worst row
    time        seconds of forward and relevance over those of one gradient pass (forward, and
                backward to the input), fastest of the repeats, alternating, on ``batch`` images:
                at least --batch, and as many (up to 32) as a gradient pass of a quarter of a second
                takes; below that, the cost of Python per operation is measured, some 0.1 ms
    memory      the most bytes of tensors alive at once, modified weights included, over those of
                one gradient pass
    zennit      sum of zennit's EpsilonPlus relevance over the evidence, or what it raised
    captum      the same for captum's LRP

From every timm module the member with the fewest parameters is taken.
"""

from __future__ import annotations

import argparse
import copy
import csv
import gc
import math
import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

# A file beside this one has the name of the package measured here.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).parent]

import torch
from torch import Tensor, nn

from neuralize.errors import XaiError
from neuralize.lrp import LRP
from neuralize.peak import PeakMemory
from neuralize.torchvision_guard import import_zennit

SIZES = (64, 96, 128, 160, 192, 224, 240, 256, 288, 299, 320, 384, 448, 512)


@dataclass
class Candidate:
    """A network to explain: how it is built for images of a given size, and the sizes to try."""

    name: str
    build: Callable[[int], nn.Module]
    sizes: tuple[int, ...]


@dataclass
class Row:
    """One line of the table."""

    name: str
    family: str
    size: int | str = ""
    parameters: float | str = ""
    result: str = ""
    forward: float | str = ""
    error: float | str = ""
    amplified: float | str = ""
    absorbed: float | str = ""
    batch: int | str = ""
    time: float | str = ""
    memory: float | str = ""
    zennit: str = ""
    captum: str = ""
    message: str = ""


# -- the networks --------------------------------------------------------------------------------


def torchvision_models(chosen: list[str]) -> Iterator[tuple[str, Candidate]]:
    from torchvision import models

    for name in models.list_models(module=models):
        if chosen and name not in chosen:
            continue
        options: dict[str, Any] = {"weights": None}
        if name in ("inception_v3", "googlenet"):
            options |= {"init_weights": True, "aux_logits": False}

        def build(size: int, name: str = name, options: dict[str, Any] = options) -> nn.Module:
            if name.startswith("vit"):
                options = options | {"image_size": size}
            elif name.startswith("maxvit"):
                options = options | {"input_size": (size, size)}
            return models.get_model(name, **options)

        family = name.partition("_")[0].rstrip("0123456789")
        yield family, Candidate(name, build, SIZES)


def timm_models(chosen: list[str]) -> Iterator[tuple[str, Candidate]]:
    import timm

    families = timm.list_modules()
    if chosen:
        modules = {timm.models._registry._model_to_module[name] for name in chosen}
        families = [family for family in families if family in modules]
    for family in families:
        names = [name for name in timm.list_models(module=family) if not chosen or name in chosen]
        name = names[0] if len(names) == 1 else min(names, key=parameters_of_timm)
        native = timm.get_pretrained_cfg(name)
        size = 224 if native is None else native.input_size[-1]

        def build(size: int, name: str = name) -> nn.Module:
            try:
                return timm.create_model(name, img_size=size)
            except TypeError:
                return timm.create_model(name)

        yield family, Candidate(name, build, (*[s for s in SIZES if s < size], size))


def parameters_of_timm(name: str) -> float:
    """Number of parameters, counted without making them."""
    import timm

    try:
        with torch.device("meta"):
            model = timm.create_model(name)
    except Exception:  # some constructors compute with their weights
        return float("inf")
    return sum(p.numel() for p in model.parameters())


def prepared(model: nn.Module) -> nn.Module:
    """Random statistics and no branch that initialisation has switched off, float64, evaluating."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None:
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    for parameter in model.parameters():
        with torch.no_grad():
            if parameter.numel() and bool((parameter == parameter.flatten()[0]).all()):
                one = bool(parameter.flatten()[0] == 1)
                if one:
                    parameter.uniform_(0.5, 1.5)
                else:
                    width = 100 if parameter.ndim == 1 else parameter.shape[-1]
                    parameter.normal_(0, width**-0.5)
    return model.double().eval()


def fitting(
    candidate: Candidate, smallest: int, batch: int, largest: float = math.inf
) -> tuple[nn.Module, Tensor]:
    """The model with random images of the smallest size from ``smallest`` on that it takes."""
    sizes = [s for s in candidate.sizes if s >= smallest] or [candidate.sizes[-1]]
    try:
        with torch.device("meta"):
            count = sum(p.numel() for p in candidate.build(sizes[-1]).parameters())
    except Exception:  # some constructors compute with their weights
        count = 0
    if count > largest:
        raise ValueError(f"{count:.2g} parameters, more than --largest")
    for size in sizes:
        torch.manual_seed(0)
        try:
            model = prepared(candidate.build(size))
            x = torch.rand(batch, 3, size, size, dtype=torch.float64)
            with torch.no_grad():
                model(x)
        except Exception:
            if size == sizes[-1]:
                raise
            continue
        return model, x
    raise AssertionError("there is at least one size")


# -- what is measured ----------------------------------------------------------------------------


def seed_of(output: Tensor) -> Tensor:
    """The evidence for the winning class of every row."""
    top = output.argmax(1, keepdim=True)
    return torch.zeros_like(output).scatter(1, top, output.gather(1, top))


def fastest(work: Callable[[], Any], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def gradient_pass(model: nn.Module, x: Tensor) -> None:
    leaf = x.detach().requires_grad_()
    output = model(leaf)
    torch.autograd.grad(output, leaf, seed_of(output.detach()))


def explain(row: Row, model: nn.Module, x: Tensor, composite: str, repeats: int) -> None:
    """Fill in what neuralize does with the model."""
    with torch.no_grad():
        own = model(x)
    lrp = LRP(model, composite)

    def once() -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        trace = lrp.trace(x)
        return trace.output, *trace.relevance(seed_of(trace.output))

    output, values, absorbed = once()
    evidence = seed_of(output).sum(1)
    magnitude = values.flatten(1).abs().sum(1)
    total = values.flatten(1).sum(1) + sum(absorbed.values())
    row.result = "explained"
    row.forward = float((output - own).abs().max())
    row.error = float(((total - evidence).abs() / evidence.abs().maximum(magnitude)).max())
    row.amplified = float((magnitude / evidence.abs()).max())
    row.absorbed = float((sum(a.abs() for a in absorbed.values()) / evidence.abs()).max())
    if not repeats:
        return
    while fastest(partial(gradient_pass, model, x), 2) < 0.25 and len(x) < 32:
        x = torch.cat([x, torch.rand_like(x)])
    row.batch = len(x)
    found: dict[Any, list[float]] = {once: [], gradient_pass: []}
    for _ in range(repeats):
        found[once].append(fastest(once, 1))
        found[gradient_pass].append(fastest(lambda: gradient_pass(model, x), 1))
    row.time = min(found[once]) / min(found[gradient_pass])
    del output, values, absorbed, total
    lrp = LRP(model, composite)  # modified weights, made anew, count as well
    row.memory = peak(once) / peak(lambda: gradient_pass(model, x))


def peak(work: Callable[[], Any]) -> int:
    gc.collect()
    with PeakMemory() as memory:
        work()
    return memory.peak


def by_zennit(model: nn.Module, x: Tensor) -> Tensor:
    from zennit.attribution import Gradient
    from zennit.canonizers import SequentialMergeBatchNorm
    from zennit.composites import EpsilonPlus
    from zennit.torchvision import ResNetCanonizer, VGGCanonizer

    name = type(model).__name__
    canonizer = {"ResNet": ResNetCanonizer, "VGG": VGGCanonizer}.get(name, SequentialMergeBatchNorm)
    composite = EpsilonPlus(canonizers=[canonizer()])
    with Gradient(model, composite, attr_output=lambda out: seed_of(out.detach())) as attribution:
        _, relevance = attribution(x)
    return relevance


def by_captum(model: nn.Module, x: Tensor) -> Tensor:
    from captum.attr import LRP as CaptumLRP

    with torch.no_grad():
        target = model(x).argmax(1)
    return CaptumLRP(model).attribute(x.detach().requires_grad_(), target=target)


def beside(method: Callable[[nn.Module, Tensor], Tensor], model: nn.Module, x: Tensor) -> str:
    """Share of the evidence that another library's relevance adds up to, or what it raised.

    On a copy: what raised halfway leaves hooks and merged weights behind.
    """
    with torch.no_grad():
        evidence = seed_of(model(x)).sum(1)
    try:
        share = method(copy.deepcopy(model), x).detach().flatten(1).sum(1) / evidence
    except Exception as error:
        return type(error).__name__
    return f"{float(share[(share - 1).abs().argmax()]):.3g}"


def measure(family: str, candidate: Candidate, options: argparse.Namespace) -> Row:
    row = Row(candidate.name, family)
    try:
        model, x = fitting(candidate, options.size, options.batch, options.largest)
    except Exception as error:
        row.result, row.message = f"not built: {type(error).__name__}", str(error)[:200]
        return row
    row.size = x.shape[-1]
    row.parameters = sum(p.numel() for p in model.parameters())
    try:
        explain(row, model, x, options.composite, options.repeats)
    except XaiError as error:
        row.result, row.message = f"refused: {type(error).__name__}", str(error)
    except Exception as error:
        row.result, row.message = f"failed: {type(error).__name__}", str(error)
    if options.others and row.parameters > options.largest_copied:
        row.zennit = row.captum = "too large to copy"
    elif options.others:
        row.zennit = beside(by_zennit, model, x)
        row.captum = beside(by_captum, model, x)
    return row


# -- the table -----------------------------------------------------------------------------------

COLUMNS = {
    "name": 34, "size": 5, "result": 24, "forward": 9, "error": 9, "amplified": 10, "absorbed": 9,
    "batch": 5, "time": 6, "memory": 6, "zennit": 20, "captum": 20,
}  # fmt: skip


def shown(row: Row) -> str:
    cells = []
    for name, width in COLUMNS.items():
        value = getattr(row, name)
        if isinstance(value, float):
            value = f"{value:.2f}" if name in ("time", "memory") else f"{value:.1e}"
        cells.append(f"{value!s:{width}}")
    return " ".join(cells).rstrip()


def summary(rows: list[Row], tolerance: float = 1e-4) -> str:
    explained = [row for row in rows if row.result == "explained"]
    right = [row for row in explained if isinstance(row.error, float) and row.error < tolerance]
    refused = [row for row in rows if row.result.startswith("refused")]
    lines = [
        f"{len(right)} of {len(rows)} explained with an error below {tolerance:g}, "
        f"{len(refused)} refused by name, {len(rows) - len(right) - len(refused)} otherwise"
    ]
    for name in ("time", "memory"):
        found = sorted(float(getattr(row, name)) for row in right if getattr(row, name) != "")
        if found:
            lines.append(
                f"{name} over a gradient pass: median {found[len(found) // 2]:.2f}, largest "
                f"{found[-1]:.2f}, above 2: {sum(value > 2 for value in found)}"
            )
    lines += [f"  {row.name}: {row.result}: {row.message}" for row in rows if row not in right]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--torchvision", action="store_true", help="torchvision's models")
    parser.add_argument("--timm", action="store_true", help="the smallest of every timm module")
    parser.add_argument("--model", nargs="*", default=[], help="only models of these names")
    parser.add_argument("--size", type=int, default=96, help="smallest image size to try")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3, help="0 measures no times")
    parser.add_argument("--largest", type=float, default=math.inf, help="most parameters to try")
    parser.add_argument(
        "--largest-copied", type=float, default=4e8,
        help="most parameters to run zennit and captum with: they get copies, captum makes its own",
    )  # fmt: skip
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--composite", default="epsilon")
    parser.add_argument("--no-others", dest="others", action="store_false")
    parser.add_argument("--csv", type=Path, help="write the table here as well")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    import_zennit()
    both = not (options.torchvision or options.timm)
    candidates: list[tuple[str, Candidate]] = []
    if options.torchvision or both:
        candidates += torchvision_models(options.model)
    if options.timm or (both and len(candidates) < (len(options.model) or 10**9)):
        known = {candidate.name for _, candidate in candidates}
        candidates += timm_models([name for name in options.model if name not in known])
    print(f"{platform.machine()}, {options.threads} threads, torch {torch.__version__}, float64\n")
    print(" ".join(f"{name:{width}}" for name, width in COLUMNS.items()).rstrip())
    rows = []
    for family, candidate in candidates:
        rows.append(measure(family, candidate, options))
        print(shown(rows[-1]), flush=True)
        gc.collect()
    print("\n" + summary(rows))
    if options.csv:
        with options.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(Row.__dataclass_fields__))
            writer.writeheader()
            writer.writerows(vars(row) for row in rows)


if __name__ == "__main__":
    main()
