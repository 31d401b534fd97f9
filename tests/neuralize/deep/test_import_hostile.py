"""Files that are damaged, of something else, or made to do harm."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from neuralize import InputError
from neuralize.deep import import_detector
from neuralize.errors import CheckpointError, UntrustedCheckpointError, XaiError
from tests.neuralize.deep import foreign


def content(**changes: Any) -> dict[str, Any]:
    network = foreign.thyroid_mlp()
    whole = {
        "R": 0.0,
        "c": [0.1, 0.2, 0.3, 0.4],
        "net_dict": network.state_dict(),
        "ae_net_dict": None,
    }
    return whole | changes


def saved(path: Path, what: Any, **options: Any) -> Path:
    torch.save(what, path / "model.tar", **options)
    return path / "model.tar"


# -- damaged ------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [True, False])
def test_every_truncation_is_named_as_damage(tmp_path: Path, zipped: bool) -> None:
    whole = saved(tmp_path, content(), _use_new_zipfile_serialization=zipped).read_bytes()
    cut = tmp_path / "cut.tar"
    for share in np.linspace(0, 1, 40, endpoint=False):
        cut.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(CheckpointError, match=r"cut\.tar"):
            import_detector(cut)


def test_flipped_bytes_never_raise_anything_else(tmp_path: Path) -> None:
    whole = saved(tmp_path, content()).read_bytes()
    rng = np.random.default_rng(0)
    flipped, outcomes = tmp_path / "flipped.tar", set()
    for _ in range(80):
        broken = bytearray(whole)
        for at in rng.integers(len(whole), size=8):
            broken[at] = rng.integers(256)
        flipped.write_bytes(bytes(broken))
        try:
            import_detector(flipped)
        except XaiError as error:
            outcomes.add(type(error))
        else:
            outcomes.add(None)
    assert CheckpointError in outcomes


@pytest.mark.parametrize("what", [b"", b"hello world", b"PK\3\4 no archive", b"\x80\x02."])
def test_files_of_something_else(tmp_path: Path, what: bytes) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(what)
    with pytest.raises(CheckpointError, match=r"model\.pt"):
        import_detector(path)


def test_no_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing.pt"):
        with pytest.raises(CheckpointError, match="No such file"):
            import_detector(path)


# -- made to do harm ----------------------------------------------------------------------------


class Malice:
    """Writes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_does_not_run_unless_trusted(tmp_path: Path, zipped: bool) -> None:
    mark = tmp_path / "harm"
    path = saved(tmp_path, content(extra=Malice(mark)), _use_new_zipfile_serialization=zipped)
    with pytest.raises(UntrustedCheckpointError, match="--trust"):
        import_detector(path)
    assert not mark.exists()
    import_detector(path, trust=True)
    assert mark.exists(), "the file of this test is not what it claims to be"


def test_a_plain_pickle_does_not_run_either(tmp_path: Path) -> None:
    mark = tmp_path / "harm"
    (tmp_path / "model.pt").write_bytes(pickle.dumps(Malice(mark)))
    with pytest.raises(CheckpointError):
        import_detector(tmp_path / "model.pt")
    assert not mark.exists()


def test_trusted_objects_of_libraries_that_are_missing_are_left_out(tmp_path: Path) -> None:
    source = type(
        "Transform", (), {"__module__": "a_library_of_theirs", "__qualname__": "Transform"}
    )

    module = ModuleType("a_library_of_theirs")
    module.Transform = source  # type: ignore[attr-defined]
    sys.modules["a_library_of_theirs"] = module
    try:
        thing = source()
        thing.size = (3, 4)
        path = saved(tmp_path, content(hyper_parameters={"transform": [thing]}))
    finally:
        del sys.modules["a_library_of_theirs"]
    with pytest.raises(UntrustedCheckpointError, match=r"a_library_of_theirs\.Transform"):
        import_detector(path)
    detector = import_detector(path, trust=True)
    plain = import_detector(saved(tmp_path, content()))
    x = torch.rand(4, 6)
    np.testing.assert_array_equal(detector.decision_function(x), plain.decision_function(x))


# -- keys, shapes, numbers ----------------------------------------------------------------------


def network_dict(**changes: Any) -> dict[str, Any]:
    state = dict(foreign.thyroid_mlp().state_dict())
    for name, value in changes.items():
        key = name.replace("__", ".")
        if value is None:
            del state[key]
        else:
            state[key] = value
    return state


MISFITS = {
    "a missing key": (
        network_dict(hidden__1__bn__running_var=None),
        "1 missing keys .*running_var",
    ),
    "an extra key": (network_dict(extra=torch.ones(2)), "1 unexpected keys .extra"),
    "another shape": (
        network_dict(hidden__1__linear__weight=torch.ones(16, 31)),
        r"hidden.1.linear.weight \(16, 31\) instead of \(16, 32\)",
    ),
    "no matrix": (network_dict(code__weight=torch.ones(4)), "code.weight with 2 axes"),
    "an empty matrix": (network_dict(code__weight=torch.ones(0, 16)), "2 axes"),
    "NaN": (network_dict(code__weight=torch.full((4, 16), torch.nan)), "NaN or infinite"),
    "no tensor": (network_dict(code__weight="text"), "something else .code.weight"),
    "sparse": (network_dict(code__weight=torch.eye(4, 16).to_sparse()), "dense tensors"),
    "complex": (network_dict(code__weight=torch.ones(4, 16) * 1j), "dense tensors"),
    "nothing": ({}, "net_dict, got nothing"),
    "None": (None, "net_dict, got nothing"),
    "a list": ([1, 2], "got list"),
    "a number as name": ({0: torch.ones(1)}, "something else .0"),
    "another network": ({"a.weight": torch.ones(2, 2)}, "LeNet"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_weights_that_do_not_fit(tmp_path: Path, name: str) -> None:
    state, message = MISFITS[name]
    path = saved(tmp_path, content(net_dict=state))
    with pytest.raises(CheckpointError, match=message):
        import_detector(path)


LENETS = {
    "7 x 7": ({"conv1.weight": torch.ones(8, 1, 7, 7)}, "5 x 5"),
    "no dense layer": ({"conv1.weight": torch.ones(8, 1, 5, 5)}, "fc1"),
    "no square": (
        {"conv1.weight": torch.ones(8, 1, 5, 5), "fc1.weight": torch.ones(4, 8 * 15)},
        "no square",
    ),
}


@pytest.mark.parametrize("name", LENETS)
def test_convolutions_of_another_network(tmp_path: Path, name: str) -> None:
    state, message = LENETS[name]
    path = saved(tmp_path, content(net_dict=state))
    with pytest.raises(CheckpointError, match=message):
        import_detector(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"c": None}, "centre c"),
        ({"c": [1.0, 2.0]}, "centre of 4 numbers"),
        ({"c": [1.0, 2.0, 3.0, float("nan")]}, "finite"),
        ({"c": [[1.0], [2.0]]}, r"\(q,\)"),
        ({"c": ["a"]}, "numbers as the centre"),
        ({"R": -1.0}, "radius"),
        ({"R": float("inf")}, "radius"),
        ({"R": "one"}, "number as R"),
    ],
)
def test_centre_and_radius_that_cannot_be(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        import_detector(saved(tmp_path, content(**changes)))


# -- of no known format -------------------------------------------------------------------------


def test_a_bare_state_dict_says_what_is_missing(tmp_path: Path) -> None:
    path = saved(tmp_path, foreign.mnist_lenet().state_dict())
    with pytest.raises(
        CheckpointError, match=r"bare state dict.*which detector.*centre or threshold"
    ):
        import_detector(path)


@pytest.mark.parametrize(
    "what", [{"model": {"a": torch.ones(1)}, "optimizer": {}}, torch.ones(3), [1, 2], {}]
)
def test_other_contents(tmp_path: Path, what: Any) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint of anomalib-patchcore"):
        import_detector(saved(tmp_path, what))


def test_another_format_than_the_one_named(tmp_path: Path) -> None:
    path = saved(tmp_path, content())
    with pytest.raises(CheckpointError, match="no checkpoint of fcdd"):
        import_detector(path, format="fcdd")
    with pytest.raises(InputError, match="Expected format"):
        import_detector(path, format="onnx")


def test_an_autoencoder_of_fcdd(tmp_path: Path) -> None:
    net = {"encoder.conv1.weight": torch.ones(8, 1, 5, 5)}
    with pytest.raises(CheckpointError, match="autoencoder"):
        import_detector(saved(tmp_path, {"net": net, "epoch": 1}))


# -- what is given ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"center": 1.0}, "no use for center"),
        ({"objective": "hsc", "neighbors": 3}, "no use for neighbors, objective"),
        ({"objective": "huh"}, "Expected objective"),
        ({"activation": "relu"}, "Expected activation"),
        ({"threshold": float("nan")}, "threshold"),
        ({"units": 0}, "units"),
        ({"normalize": (0, 1), "contrast": (0, 1)}, "got both"),
        ({"normalize": "mnist"}, "'imagenet'"),
        ({"normalize": (0, 0)}, "std above 0"),
        ({"normalize": ([0, 1], 1)}, "one mean or 6"),
        ({"normalize": (0, "x")}, "numbers as std"),
        ({"contrast": "mnist:10"}, "mnist:0-9"),
        ({"contrast": (1, 0)}, "low < high"),
        ({"input_shape": (5,)}, r"rows of shape \(6,\)"),
        ({"input_shape": (-1,)}, "input_shape like"),
        ({"network": "resnet"}, "nn.Module"),
        ({"network": torch.nn.Linear(6, 4)}, "input_shape"),
    ],
)
def test_what_is_given_must_fit(tmp_path: Path, given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        import_detector(saved(tmp_path, content()), **given)
