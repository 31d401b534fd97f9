"""The guard around ``import torchvision``; each case in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).parents[2]

# What a CUDA build does beside a CPU-only torch: it describes an operator nobody has declared.
BROKEN = """
    import torch
    from torchvision import leftover

    @torch.library.register_fake("torchvision::nms")
    def _(dets, scores, iou_threshold):
        return dets.new_empty(0)

    @torch.library.register_fake("torchvision::qnms")
    def _(dets, scores, iou_threshold):
        return dets.new_empty(0)
"""


def run_python(code: str, *paths: Path) -> str:
    """Run ``code`` in a new interpreter with ``paths`` searched first; return what it printed."""
    search = os.pathsep.join(str(path) for path in (*paths, ROOT))
    done = subprocess.run(
        [sys.executable, "-c", dedent(code)],
        env={**os.environ, "PYTHONPATH": search},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def fake_torchvision(folder: Path, source: str) -> Path:
    """Write a package ``torchvision`` with this ``__init__`` into ``folder``."""
    package = folder / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text(dedent(source))
    (package / "leftover.py").write_text("")
    return folder


def test_zennit_runs_on_the_installed_torchvision_whatever_its_build():
    """Also after a plain import has failed, which leaves half of zennit in ``sys.modules``."""
    printed = run_python(
        """
        import importlib

        import torch
        from neuralize.torchvision_guard import ensure_importable_torchvision, import_zennit

        def healthy():
            try:
                importlib.import_module("zennit")
            except RuntimeError as error:
                assert "torchvision::" in str(error), error
                return False
            return True

        was_healthy = healthy()
        zennit = import_zennit()
        assert healthy()
        assert ensure_importable_torchvision() is not was_healthy

        torch.manual_seed(0)
        net = torch.nn.Sequential(
            torch.nn.Conv2d(3, 4, 3, bias=False),
            torch.nn.ReLU(),
            torch.nn.Flatten(),
            torch.nn.Linear(144, 2, bias=False),
        ).double()
        x = torch.rand(5, 3, 8, 8, dtype=torch.float64)
        composite = zennit.composites.EpsilonPlusFlat()
        with zennit.attribution.Gradient(net, composite) as attributor:
            _, relevance = attributor(x, lambda out: out)
        assert relevance.shape == x.shape
        assert relevance.abs().sum() > 0

        canonizer = zennit.torchvision.ResNetCanonizer()
        import torchvision
        resnet = torchvision.models.resnet18(weights=None).eval()
        composite = zennit.composites.EpsilonPlus(canonizers=[canonizer])
        with zennit.attribution.Gradient(resnet, composite) as attributor:
            _, relevance = attributor(torch.rand(1, 3, 32, 32), lambda out: out)
        assert relevance.abs().sum() > 0
        print("ran")
        """
    )
    assert printed == "ran"


def test_declares_the_missing_operators_once_and_calling_them_still_raises(tmp_path):
    printed = run_python(
        """
        import sys
        from concurrent.futures import ThreadPoolExecutor

        import torch
        from neuralize import torchvision_guard as guard

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: guard.ensure_importable_torchvision(), range(32)))
        assert all(answers)
        assert guard.ensure_importable_torchvision()
        assert len(guard._declarations) == 1
        assert sys.modules["torchvision.leftover"] is sys.modules["torchvision"].leftover

        boxes, scores = torch.rand(3, 4), torch.rand(3)
        for operator in (torch.ops.torchvision.nms, torch.ops.torchvision.qnms):
            try:
                operator(boxes, scores, 0.5)
            except NotImplementedError as error:
                print(error)
        """,
        fake_torchvision(tmp_path, BROKEN),
    )
    assert "Could not run 'torchvision::nms'" in printed
    assert "Could not run 'torchvision::qnms'" in printed


def test_leaves_a_healthy_torchvision_alone(tmp_path):
    run_python(
        """
        import sys

        import torchvision
        from neuralize import torchvision_guard as guard

        assert guard.ensure_importable_torchvision() is False
        assert sys.modules["torchvision"] is torchvision
        assert guard._declarations == []
        """,
        fake_torchvision(tmp_path, "from torchvision import leftover"),
    )


def test_does_nothing_without_torchvision():
    run_python(
        """
        import sys

        class Absent:
            def find_spec(self, name, path=None, target=None):
                if name == "torchvision":
                    raise ModuleNotFoundError(f"No module named {name!r}", name=name)

        sys.meta_path.insert(0, Absent())
        from neuralize import torchvision_guard as guard

        assert guard.ensure_importable_torchvision() is False
        assert "torchvision" not in sys.modules
        assert guard._declarations == []
        """
    )


def test_passes_other_errors_on(tmp_path):
    run_python(
        """
        from neuralize import torchvision_guard as guard

        for expected in (RuntimeError, ModuleNotFoundError):
            try:
                guard.ensure_importable_torchvision()
            except expected as error:
                print(error)
            else:
                raise AssertionError(f"expected {expected.__name__}")
        assert guard._declarations == []
        """,
        fake_torchvision(
            tmp_path,
            """
            import builtins

            if not hasattr(builtins, "torchvision_met"):
                builtins.torchvision_met = True
                raise RuntimeError("the driver is too old")
            import a_requirement_that_is_missing
            """,
        ),
    )


def test_importing_neuralize_imports_neither_torchvision_nor_zennit():
    run_python(
        """
        import sys

        import neuralize
        import neuralize.torchvision_guard

        assert {"torchvision", "zennit"}.isdisjoint(sys.modules)
        """
    )
