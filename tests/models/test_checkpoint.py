import hashlib
import re
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from symmetry_robustness.errors import UserError
from symmetry_robustness.models import build_network, load_checkpoint, load_network, require_trusted


class Harm:
    """Pickles into a call that leaves a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


def contents_of(config: DictConfig) -> dict:
    network = build_network(config)
    state = {f"network.{key}": value for key, value in network.state_dict().items()}
    return {
        "config": OmegaConf.to_yaml(config, resolve=True),
        "state_dict": {**state, "accuracy.total": torch.tensor(3)},
        "epoch": 4,
    }


@pytest.fixture
def contents(compose_model) -> dict:
    return contents_of(compose_model("parallel_rotation_scale_4layer"))


def write(path: Path, contents: object) -> Path:
    torch.save(contents, path)
    return path


@pytest.mark.parametrize(
    "description",
    [
        ("parallel_rotation_scale_4layer",),
        ("parallel_rotation_scale_4layer", "model/branch=scale_equivariant"),
        ("roto_scale_4layer",),
    ],
)
def test_loads_the_network_that_was_saved(description, compose_model, tmp_path):
    contents = contents_of(compose_model(*description))
    network = build_network(compose_model(*description))
    network.load_state_dict(
        {key.removeprefix("network."): value for key, value in contents["state_dict"].items() if "network" in key}
    )
    loaded = load_network(write(tmp_path / "last.ckpt", contents))
    images = torch.rand(3, 3, 32, 32)
    assert not loaded.training
    torch.testing.assert_close(loaded(images), network.eval()(images), rtol=0, atol=1e-5)


def test_a_checkpoint_is_read_once_with_its_configuration_and_digest(contents, tmp_path, monkeypatch):
    path = write(tmp_path / "last.ckpt", contents)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    reads, read = [], Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: reads.append(self) or read(self))
    loaded = load_checkpoint(path)
    assert reads == [path]
    assert loaded.digest == digest
    assert loaded.config == OmegaConf.to_container(OmegaConf.create(contents["config"]))
    assert loaded.network(torch.rand(2, 3, 32, 32)).shape == (2, 10)


def test_the_data_of_a_checkpoint_s_configuration_are_held_to_the_same_trust(own_module):
    package = ["symmetry_robustness.data"]
    require_trusted({"_target_": "symmetry_robustness.data.CIFAR10C", "_convert_": "all"}, "data", package)
    require_trusted({"_target_": "own_stem.OwnStem"}, "data", package, trusted=[own_module])
    for harm in (
        {"_target_": "pathlib.Path.touch"},
        {"root": "${oc.env:HOME}"},
        {"transform": {"_target_": "os.system"}},
    ):
        with pytest.raises(UserError, match=r"data.* do not trust the file"):
            require_trusted(harm, "data", package)


def refused(path: Path, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_network(path)
    assert "\n" not in str(caught.value)


def test_missing_files_and_directories_are_named(tmp_path):
    refused(tmp_path / "absent.ckpt", "absent.ckpt is no file")
    refused(tmp_path, "is no file")


@pytest.mark.parametrize("wrong", [b"", b"PK\x03\x04", b"not a checkpoint\n" * 100, b"\x80\x02]q\x00.", bytes(4096)])
def test_files_of_another_kind_are_refused(tmp_path, wrong):
    (tmp_path / "wrong.ckpt").write_bytes(wrong)
    refused(tmp_path / "wrong.ckpt", "wrong.ckpt (is damaged|lacks)")


@pytest.mark.parametrize("left", [0.01, 20_000, 40_000, 0.5, 0.99])  # a share, or bytes
def test_truncated_files_are_refused(contents, tmp_path, left):
    whole = write(tmp_path / "whole.ckpt", contents).read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(whole[: int(left * len(whole)) if left < 1 else left])
    refused(tmp_path / "cut.ckpt", "cut.ckpt is damaged")


def test_pickled_code_does_not_run(contents, tmp_path):
    trace = tmp_path / "trace"
    refused(write(tmp_path / "harm.ckpt", {**contents, "epoch": Harm(trace)}), "harm.ckpt is damaged or no checkpoint")
    assert not trace.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": None}, "lacks config or state_dict"),
        ({"state_dict": [1, 2]}, "lacks config or state_dict"),
        ({"state_dict": {"network.stem": "x"}}, "lacks config or state_dict"),
        ({"config": "[unclosed"}, "unreadable configuration"),
        ({"config": "!!python/object/apply:os.getcwd []"}, "unreadable configuration"),
        ({"config": "just a text"}, "no model in its configuration"),
        ({"config": "data: {num_classes: 10}"}, "no model in its configuration"),
        ({"config": "model: {_target_: os.system, command: 'true'}"}, "os.system"),
        ({"state_dict": {}}, "does not fit its own configuration"),
    ],
)
def test_damaged_contents_are_named(contents, tmp_path, change, message):
    refused(write(tmp_path / "last.ckpt", {**contents, **change}), message)


def test_weights_of_another_network_are_refused(contents, tmp_path):
    contents["config"] = contents["config"].replace("- 64", "- 48")
    refused(write(tmp_path / "last.ckpt", contents), r"does not fit its own configuration .*size mismatch")


@pytest.fixture
def own_module(tmp_path, monkeypatch) -> str:
    """A module of the user's own, on the path, that holds a stem and imports things of others."""
    (tmp_path / "own_stem.py").write_text(
        "import pathlib\n"
        "from torch import nn\n"
        "from torch.nn import Flatten\n"
        "pathlib.Path(__file__).with_suffix('.imported').touch()\n"
        "class OwnStem(nn.Conv2d):\n"
        "    def __init__(self, channels):\n"
        "        super().__init__(3, channels, 3, padding=1)\n"
        "def make(channels):\n"
        "    return OwnStem(channels)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield "own_stem"
    sys.modules.pop("own_stem", None)


def with_stem(compose_model, target: str) -> dict:
    network = compose_model("standard_4layer")
    weights = build_network(network).state_dict()
    network.model.stem._target_ = target
    state = {f"network.{key}": value for key, value in weights.items()}
    for name in ("weight", "bias"):
        state[f"network.stem.{name}"] = state[f"network.stem.0.{name}"]
    return {
        "config": OmegaConf.to_yaml(network, resolve=True),
        "state_dict": {key: value for key, value in state.items() if not re.match(r"network\.stem\.\d", key)},
    }


def test_a_module_of_the_user_s_own_is_loaded_when_it_is_trusted(own_module, compose_model, tmp_path):
    path = write(tmp_path / "last.ckpt", with_stem(compose_model, "own_stem.OwnStem"))
    assert load_network(path, trusted=[own_module])(torch.rand(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize("trusted", [["nix"], ["own_stem.OwnStem"], [""], ["json", "nix.nought"]])
def test_a_trusted_module_that_is_not_found_is_refused(trusted, own_module, compose_model, tmp_path):
    path = write(tmp_path / "last.ckpt", contents_of(compose_model("standard_4layer")))
    with pytest.raises(UserError, match=r"names no module that Python finds; give a module, not a class"):
        load_network(path, trusted)


@pytest.mark.parametrize("trusted", [[], ["own"], ["own_ste"], ["other"], ["own_stem.OwnStem"], [""]])
def test_a_module_that_is_not_trusted_is_not_even_imported(trusted, own_module, compose_model, tmp_path):
    path = write(tmp_path / "last.ckpt", with_stem(compose_model, "own_stem.OwnStem"))
    with pytest.raises(UserError, match=r"own_stem\.OwnStem.* do not trust the file, .* trusted="):
        load_network(path, trusted=trusted)
    assert not (tmp_path / "own_stem.imported").exists()


@pytest.mark.parametrize("target", ["own_stem.make", "own_stem.Flatten", "own_stem.pathlib.Path", "own_stem.nn.Conv2d"])
def test_a_trusted_module_gives_only_networks_of_its_own(target, own_module, compose_model, tmp_path):
    path = write(tmp_path / "last.ckpt", with_stem(compose_model, target))
    with pytest.raises(UserError, match="do not trust the file"):
        load_network(path, trusted=[own_module])


def test_trusted_is_a_list(contents, tmp_path):
    with pytest.raises(UserError, match="must be a list"):
        load_network(write(tmp_path / "last.ckpt", contents), trusted="own_stem")
