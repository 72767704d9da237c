import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from symmetry_robustness.errors import UserError
from symmetry_robustness.models import build_network, build_network_from_untrusted
from symmetry_robustness.models.stems import ParallelStem

BAD = [
    ("standard", "model.trunk=[pool,wide]", "trunk must hold widths and 'pool', got 'wide'"),
    ("standard", "model.trunk=[0]", "trunk must hold widths and 'pool', got 0"),
    ("standard", "model.trunk=[true]", "trunk must hold widths and 'pool', got True"),
    ("standard", "model.trunk=5", "trunk must be a list of widths and 'pool', got 5"),
    (
        "standard",
        "model.trunk=[pool,pool,pool,pool,pool,pool]",
        "trunk has 6 pools, more than 32 pixels allow; keep at most 5",
    ),
    ("standard", "model.num_classes=1", "num_classes must be at least 2, got 1"),
    ("standard", "model.std=0", "std must be positive"),
    ("standard", "model.stem.channels=-3", "channels must be a positive whole number, got -3"),
    ("standard", "+model.dropout=0.1", "dropout"),
    ("standard", "model.stem._target_=symmetry_robustness.models.stems.GaborStem", "GaborStem"),
    ("standard", "~model.std", "std"),
    ("parallel_rotation", "model.stem.branches.rotation.group=C0", "group must be .* got 'C0'"),
    ("parallel_rotation", "model.stem.fused_channels=none", "fused_channels must be a positive whole number"),
    ("parallel_scale", "model.stem.branches.scale.scales=[0]", "scales must be positive"),
    (
        "parallel_scale",
        "model/branch=scale_equivariant model.stem.branches.scale.scales=0",
        "scales must be a positive",
    ),
    (
        "parallel_scale",
        "model/branch=scale_equivariant +model.stem.branches.scale.step=1",
        "step must be a number above 1",
    ),
    ("cascaded", "model.stem.group=X4", "group must be .* got 'X4'"),
    ("cascaded", "model.stem.channels=30", "channels must be a multiple of 4 for group C4, got 30"),
    ("fully_equivariant", "model.head=mean", "head must be released or invariant, got 'mean'"),
    ("fully_equivariant", "+model.representation=vector", "representation must be .* got 'vector'"),
    ("fully_equivariant", "+model.representation=irrep1", "relu does not commute .* choose norm"),
    ("invariant_vector", "model.pool=max", "pool max does not commute .* choose average"),
    ("invariant", "+model.image_size=28", "windows of 2×2 do not tile 7 pixels"),
    ("fully_equivariant", "model.group=SO2", "group must be .* got 'SO2'"),
    ("roto_scale", "model.rotations=8", "rotations must be 1 or 4, got 8"),
    ("roto_scale", "model.scales=0", "scales must be a positive whole number, got 0"),
    ("roto_scale", "+model.scale_extent=4", "scale_extent must be at most 3"),
]


@pytest.mark.parametrize(("name", "overrides", "message"), BAD)
def test_a_bad_setting_ends_in_one_line(compose_model, name, overrides, message):
    with pytest.raises(UserError, match=message) as caught:
        build_network(compose_model(name, *overrides.split()))
    assert "\n" not in str(caught.value)


def test_a_missing_number_of_classes_ends_in_one_line(compose_model):
    config = compose_model("standard")
    del config.data
    with pytest.raises(UserError, match=r"data\.num_classes") as caught:
        build_network(config)
    assert "\n" not in str(caught.value)


def test_a_parallel_stem_needs_branches_that_state_their_width():
    with pytest.raises(UserError, match="branches must not be empty"):
        ParallelStem({})
    with pytest.raises(UserError, match="ReLU has no number of channels"):
        ParallelStem({"conv": nn.ReLU()})


@pytest.mark.parametrize(
    "config", [{}, {"model": None}, {"model": {"name": "standard"}}, {"_target_": "builtins.dict"}]
)
def test_what_is_no_network_is_refused(config):
    with pytest.raises(UserError, match="model"):
        build_network(config)


def test_takes_the_root_or_the_node(compose_model):
    config = compose_model("standard_4layer")
    assert repr(build_network(config)) == repr(build_network(config.model))


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "torch.nn.Linear",
        "symmetry_robustness.models.network.torch.hub.load",
        "symmetry_robustness.models.network.copy.deepcopy",
        "symmetry_robustness.models.network.nn.Linear",  # ours only in name
        "symmetry_robustness.models.checkpoint.load_network",  # a function
        "symmetry_robustness.errors.UserError",
        "symmetry_robustness.models..os.system",
        "symmetry_robustness.layers_of_another.Layer",
        "symmetry_robustness.models.",
        "",
        7,
        ["os.system"],
        None,
    ],
)
def test_an_untrusted_description_names_our_modules_only(target, tmp_path):
    harm = {"_target_": target, "command": f"touch {tmp_path}/harm"}
    for description in (harm, {"_target_": "symmetry_robustness.models.network.Network", "stem": [{"deep": harm}]}):
        with pytest.raises(UserError, match="do not trust the file") as caught:
            build_network_from_untrusted(description)
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "extra",
    [{"_args_": ["x"]}, {"_partial_": True}, {"trunk": "${oc.env:HOME}"}, {3: "x"}, {"trunk": object()}],
)
def test_an_untrusted_description_holds_plain_values_only(extra):
    with pytest.raises(UserError, match="do not trust the file"):
        build_network_from_untrusted({"_target_": "symmetry_robustness.models.network.Network", **extra})


def test_an_untrusted_description_of_a_network_builds_it(compose_model):
    config = compose_model("parallel_rotation_scale_4layer")
    plain = OmegaConf.to_container(config.model, resolve=True)
    network = build_network_from_untrusted(plain)
    assert isinstance(network, nn.Module)
    assert network(torch.rand(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize("name", ["standard_4layer", "invariant_4layer", "roto_scale_4layer"])
def test_the_image_size_is_that_of_the_data(name, compose_model):
    config = OmegaConf.to_container(compose_model(name), resolve=True)
    config["data"] = {**config["data"], "image_size": 1}
    for build in (build_network, build_network_from_untrusted):
        with pytest.raises(UserError, match=r"than 1 pixels allow|do not tile 1 pixels"):
            build(config)
    config["model"]["image_size"] = 32  # stated, it stays
    build_network(config)
