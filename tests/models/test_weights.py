"""Weights that were trained elsewhere: every wrapper undone, every misfit named, no code run."""

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from symmetry_robustness import load_weights, wrap
from symmetry_robustness.errors import UserError
from symmetry_robustness.models.state_dict_file import read_state_dict


def tower(classes: int = 4, width: int = 5) -> nn.Sequential:
    layers = [nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Flatten(), nn.Linear(width * 36, classes)]
    return nn.Sequential(OrderedDict(zip(["conv", "norm", "relu", "flat", "head"], layers, strict=True)))


@pytest.fixture
def trained() -> nn.Sequential:
    torch.manual_seed(1)
    network = tower()
    network(torch.rand(16, 3, 8, 8))  # the batch norm learns
    return network


def prefixed(state: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {f"{prefix}{key}": value for key, value in state.items()}


def inside(state: dict[str, Any], between: str) -> dict[str, Any]:
    return {key.replace("norm.", f"norm.{between}."): value for key, value in state.items()}


WRAPPERS = {
    "bare": lambda s: s,
    "module.": lambda s: prefixed(s, "module."),
    "_orig_mod.": lambda s: prefixed(s, "_orig_mod."),
    "network.": lambda s: prefixed(s, "network."),
    "net.": lambda s: prefixed(s, "net."),
    "state_dict": lambda s: {"state_dict": s, "epoch": 3},
    "model": lambda s: {"model": s, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}},
    "beside an optimizer and scores": lambda s: {
        "model": s,
        "optimizer": {"state": {i: {"step": torch.tensor(1.0), "exp_avg": v} for i, v in enumerate(s.values())}},
        "callbacks": {"best": {"a.ckpt": torch.tensor(0.5)}},
    },
    "unknown name": lambda s: {"best": s, "accuracy": 0.9},
    "two dictionaries": lambda s: {"model": {"state_dict": s}},
    "Lightning, compiled, on several GPUs": lambda s: {
        "state_dict": prefixed(s, "network._orig_mod.module."),
        "epoch": 1,
        "callbacks": {},
        "hyper_parameters": {"lr": 0.1},
    },
    "prefixes in another order": lambda s: prefixed(s, "module.model._orig_mod.net."),
    "one layer in DataParallel": lambda s: inside(s, "module"),
    "one layer compiled": lambda s: inside(s, "_orig_mod"),
    "averaged": lambda s: prefixed(s, "module.") | {"n_averaged": torch.tensor(3)},
    "before counters of batches": lambda s: {k: v for k, v in s.items() if "num_batches_tracked" not in k},
}


@pytest.mark.parametrize("wrapper", WRAPPERS.values(), ids=WRAPPERS.keys())
def test_wrappers_are_undone(wrapper: Any, trained: nn.Sequential, tmp_path: Path) -> None:
    torch.save(wrapper(trained.state_dict()), tmp_path / "model.pt")
    network = load_weights(tower(), tmp_path / "model.pt")
    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(network.eval()(images), trained.eval()(images))


def test_a_wrapped_network_takes_bare_weights(trained: nn.Sequential, tmp_path: Path) -> None:
    torch.save(trained.state_dict(), tmp_path / "model.pt")
    network = load_weights(nn.ModuleDict({"net": nn.DataParallel(tower())}), tmp_path / "model.pt")
    assert torch.equal(network["net"].module.head.weight, trained.head.weight)


def test_a_network_whose_names_are_those_of_wrappers_keeps_them(tmp_path: Path) -> None:
    one, other = (nn.ModuleDict({"model": nn.Linear(2, 2), "module": nn.Linear(2, 2)}) for _ in range(2))
    torch.save(prefixed(one.state_dict(), "network."), tmp_path / "model.pt")
    load_weights(other, tmp_path / "model.pt", prefix="network")
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_a_prefix_chooses_among_networks(trained: nn.Sequential, tmp_path: Path) -> None:
    both = prefixed(tower().state_dict(), "student.") | prefixed(trained.state_dict(), "teacher.module.")
    torch.save(both, tmp_path / "both.pt")
    with pytest.raises(
        UserError, match=r"keys are missing .* below (student|teacher)\. 9 fit, and .* beside them; set weights_p"
    ):
        load_weights(tower(), tmp_path / "both.pt")
    for prefix in ("teacher", "teacher.", "teacher.module"):
        network = load_weights(tower(), tmp_path / "both.pt", prefix)
        assert torch.equal(network.head.weight, trained.head.weight)
    with pytest.raises(UserError, match=r"no key below head\."):
        load_weights(tower(), tmp_path / "both.pt", "head")


def test_weights_beside_the_network_are_not_left_out_silently(trained: nn.Sequential, tmp_path: Path) -> None:
    beside = prefixed(trained.state_dict(), "network.") | {"normalize.mean": torch.zeros(3)}
    torch.save(beside, tmp_path / "model.pt")
    with pytest.raises(
        UserError, match=r"9 fit, and the file holds normalize.mean beside them; set weights_prefix=network"
    ):
        load_weights(tower(), tmp_path / "model.pt")


def refusal(network: nn.Module, path: Path) -> str:
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(UserError) as caught:
        load_weights(network, path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    return str(caught.value)


def test_keys_that_do_not_fit_are_named_and_counted(trained: nn.Sequential, tmp_path: Path) -> None:
    state = trained.state_dict()
    state["classifier.weight"] = state.pop("head.weight")
    torch.save(state, tmp_path / "model.pt")
    message = refusal(tower(), tmp_path / "model.pt")
    assert "1 of 9 keys are missing (head.weight), 1 are unexpected (classifier.weight); 8 fit" in message
    torch.save({f"block.{index}.w": torch.zeros(1) for index in range(7)}, tmp_path / "model.pt")
    message = refusal(tower(), tmp_path / "model.pt")
    assert "8 of 9 keys are missing (conv.weight, conv.bias, norm.weight and 5 more), 7 are unexpected" in message
    assert "none fit" in message


def test_shapes_that_do_not_fit_are_named(trained: nn.Sequential, tmp_path: Path) -> None:
    torch.save(trained.state_dict(), tmp_path / "model.pt")
    message = refusal(tower(classes=10), tmp_path / "model.pt")
    assert "2 of 9 shapes" in message
    assert "head.weight is (4, 180) in the file and (10, 180) in the network" in message


class Harm:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_complex_weights_are_refused_for_a_real_network(trained: nn.Sequential, tmp_path: Path) -> None:
    torch.save({key: value.to(torch.complex64) for key, value in trained.state_dict().items()}, tmp_path / "model.pt")
    assert "are complex (" in refusal(tower(), tmp_path / "model.pt")


def test_no_code_of_a_file_runs(trained: nn.Sequential, tmp_path: Path) -> None:
    torch.save({"state_dict": trained.state_dict(), "x": Harm(tmp_path / "harm")}, tmp_path / "model.pt")
    assert "loading objects runs code" in refusal(tower(), tmp_path / "model.pt")
    (tmp_path / "model.pth").write_bytes(pickle.dumps(Harm(tmp_path / "harm")))
    refusal(tower(), tmp_path / "model.pth")
    assert not (tmp_path / "harm").exists()


def test_files_that_hold_no_state_dict_are_refused(trained: nn.Sequential, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    assert "is no file" in refusal(tower(), path)
    torch.save(trained, path)
    message = refusal(tower(), path)
    assert "Sequential" in message
    assert "save the state dict alone: torch.save(network.state_dict()" in message
    path.write_bytes(path.read_bytes()[:100])
    assert "damaged" in refusal(tower(), path)
    for content, words in {
        "a list": ([torch.zeros(2)], "hold a list"),
        "a tensor": (torch.zeros(2), "hold a Tensor"),
        "numbers": ({"epoch": 3, "accuracy": 0.5}, "a dictionary with 'epoch', 'accuracy', no state dict"),
        "nothing": ({}, "hold a dict, no state dict"),
        "several": ({"a": trained.state_dict(), "b": trained.state_dict()}, "several state dicts (a, b)"),
        "an average": (
            {"ema": {"module": prefixed(trained.state_dict(), "module.")}, "net": trained.state_dict()},
            "several state dicts (ema, net)",
        ),
        "known names": ({"ema": trained.state_dict(), "net": trained.state_dict()}, "several state dicts (ema, net)"),
    }.values():
        torch.save(content, path)
        assert words in refusal(tower(), path)


def test_safetensors_are_read(trained: nn.Sequential, tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    path = tmp_path / "model.safetensors"
    safetensors.save_file(prefixed(trained.state_dict(), "module."), path)
    assert torch.equal(load_weights(tower(), path).head.weight, trained.head.weight)
    path.write_bytes(path.read_bytes()[:-8])
    assert "damaged" in refusal(tower(), path)


def test_without_safetensors_one_line_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "safetensors", None)
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"any")
    with pytest.raises(UserError, match=r"pip install 'symmetry-robustness\[safetensors\]'"):
        read_state_dict(path)


def test_a_wrapped_network_normalises_and_is_ready_for_evaluation(trained: nn.Sequential) -> None:
    images = torch.rand(2, 3, 8, 8)
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
    shifted = (images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    expected = trained.eval()(shifted)
    network = wrap(trained.train(), mean, std)
    torch.testing.assert_close(network(images), expected)
    assert not any(module.training for module in network.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert wrap(trained) is trained


@pytest.mark.parametrize(
    ("mean", "std", "named"),
    [
        (0.5, None, "mean=0.5 comes without std"),
        (None, [0.5], "std=[0.5] comes without mean"),
        ([0.5, 0.5], 0.2, "mean must be one number or 3"),
        (0.5, [0.2] * 4, "std must be one number or 3"),
        (0.5, 0, "std must be positive"),
    ],
)
def test_a_normalisation_that_is_none_is_refused(mean: Any, std: Any, named: str) -> None:
    with pytest.raises(UserError) as caught:
        wrap(tower(), mean, std)
    assert named in str(caught.value)
