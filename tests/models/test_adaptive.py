"""Two sets of norms: which one speaks, and which one learns."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from symmetry_robustness.engine.fusion import fuse
from symmetry_robustness.errors import UserError
from symmetry_robustness.layers.fields import InnerBatchNorm
from symmetry_robustness.models import build_network, export
from symmetry_robustness.models.adaptive import AdaptiveNetwork, DualNorm, MixingPredictor
from symmetry_robustness.models.network import Network
from symmetry_robustness.models.stems import ConvStem, ScaleStem


def network(weight: float | None = None, stem: Callable[[], nn.Module] = lambda: ConvStem(4)) -> AdaptiveNetwork:
    """Trained a little, so that its norms differ."""
    torch.manual_seed(0)
    made = AdaptiveNetwork(stem(), ["pool", 6], 3, 0.5, 0.5, image_size=8, weight=weight)
    for branch, scale in (("clean", 1.0), ("attacked", 2.0)):
        with made.learning(branch):  # type: ignore[arg-type]
            made(scale * torch.rand(16, 3, 8, 8))
    return made.eval()


def single(adaptive: AdaptiveNetwork, branch: str) -> nn.Sequential:
    """The network with the norms of one branch alone."""
    made = copy.deepcopy(adaptive)
    for module in list(made.modules()):
        for name, child in module.named_children():
            if isinstance(child, DualNorm):
                setattr(module, name, getattr(child, branch))
    return nn.Sequential(made.normalize, made.stem, made.trunk, made.head)


@pytest.mark.parametrize(("weight", "branch"), [(0.0, "clean"), (1.0, "attacked")])
def test_at_its_ends_the_weight_selects_one_branch(weight: float, branch: str) -> None:
    adaptive, images = network(weight), torch.rand(5, 3, 8, 8)
    assert torch.equal(adaptive(images), single(adaptive, branch)(images))
    other = single(adaptive, "attacked" if branch == "clean" else "clean")
    assert not torch.allclose(adaptive(images), other(images))


def test_a_norm_is_affine_in_the_weight() -> None:
    norm, features = DualNorm(nn.BatchNorm2d(4)), torch.randn(3, 4, 5, 5)
    norm.attacked(3 * features + 1)
    norm.eval()
    ends = []
    for weight in (0.0, 1.0, 0.25):
        norm.mixing = torch.full((3,), weight)
        ends.append(norm(features))
    torch.testing.assert_close(ends[2], 0.75 * ends[0] + 0.25 * ends[1])
    norm.mixing = torch.tensor([0.0, 1.0, 0.25])  # image by image
    torch.testing.assert_close(norm(features), torch.stack([ends[0][0], ends[1][1], ends[2][2]]))


def test_equal_norms_make_the_weight_mean_nothing() -> None:
    torch.manual_seed(0)
    outputs, images = [], torch.rand(5, 3, 8, 8)
    for weight in (None, 0.0, 0.3, 1.0):
        torch.manual_seed(0)
        outputs.append(AdaptiveNetwork(ConvStem(4), [6], 3, 0.5, 0.5, 8, weight=weight).eval()(images))
    assert all(torch.equal(found, outputs[0]) for found in outputs)
    torch.manual_seed(0)
    assert torch.equal(Network(ConvStem(4), [6], 3, 0.5, 0.5, 8).eval()(images), outputs[0])


@pytest.mark.parametrize(("branch", "other"), [("clean", "attacked"), ("attacked", "clean")])
def test_statistics_learn_from_the_images_of_their_branch_alone(branch: str, other: str) -> None:
    adaptive = network().train()
    before = {name: buffer.clone() for name, buffer in adaptive.named_buffers()}
    with adaptive.learning(branch):  # type: ignore[arg-type]
        adaptive(torch.rand(8, 3, 8, 8)).sum().backward()
    assert all(module.training for module in adaptive.modules())
    for name, buffer in adaptive.named_buffers():
        if "running" in name:
            assert torch.equal(buffer, before[name]) == (f".{other}." in name), name


def test_graphs_of_both_branches_may_be_differentiated_together() -> None:
    adaptive, images = network().train(), torch.rand(8, 3, 8, 8)
    with adaptive.learning("clean"):
        clean = adaptive(images)
    with adaptive.learning("attacked"):
        attacked = adaptive(images)
    (clean + attacked).sum().backward()
    assert all(p.grad is not None for p in adaptive.parameters())


def test_exported_and_fused_networks_give_the_same_logits() -> None:
    adaptive, images = network(stem=lambda: ScaleStem(4, pooled=False)), torch.rand(5, 3, 8, 8)
    plain = export(adaptive)
    assert not any(isinstance(module, InnerBatchNorm) for module in plain.modules())
    torch.testing.assert_close(plain(images), adaptive(images))
    torch.testing.assert_close(fuse(plain, images)(images), adaptive(images), rtol=1e-4, atol=1e-5)
    assert all(norm.mixing is None for norm in adaptive.modules() if isinstance(norm, DualNorm))


def test_the_weight_is_predicted_for_each_image_whatever_its_pose_and_attacks_see_through_it() -> None:
    predictor, images = MixingPredictor(), torch.rand(4, 3, 8, 8, requires_grad=True)
    weights = predictor(images)
    assert weights.shape == (4,)
    assert len(set(weights.tolist())) == 4
    for moved in (torch.rot90(images, 1, (2, 3)), images.flip(3)):
        torch.testing.assert_close(predictor(moved), weights)
    (gradient,) = torch.autograd.grad(weights.sum(), images)
    assert gradient.any()


@pytest.mark.parametrize("name", ["adaptive", "adaptive_4layer"])
def test_files_add_a_set_of_norms_and_a_head(name: str, compose_model) -> None:  # type: ignore[no-untyped-def]
    made, usual = (build_network(compose_model(each)) for each in (name, name.replace("adaptive", "standard")))
    counts = [sum(p.numel() for p in each.parameters()) for each in (made, usual)]
    norms = sum(
        p.numel() for module in usual.modules() if isinstance(module, nn.BatchNorm2d) for p in module.parameters()
    )
    assert counts[0] - counts[1] == norms + 6 * 16 + 16 + 16 + 1


def test_wrong_weights_are_refused() -> None:
    with pytest.raises(UserError, match="weight"):
        network(1.5)
