"""Clean and attacked images with norms of their own."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from symmetry_robustness.errors import UserError
from symmetry_robustness.models.adaptive import AdaptiveNetwork
from symmetry_robustness.models.stems import ConvStem
from symmetry_robustness.training.objectives import AdaptiveFeatures, AdversarialWeightPerturbation

from .networks import Counter, batch, smooth_network


def adaptive() -> AdaptiveNetwork:
    network = AdaptiveNetwork(ConvStem(4), [6], 3, 0.5, 0.5, image_size=4)
    network.trunk.append(Counter())  # type: ignore[operator]
    return network.train()


def statistics(network: AdaptiveNetwork, branch: str) -> list[Tensor]:
    return [b.clone() for name, b in network.named_buffers() if f".{branch}." in name and "running" in name]


def test_each_branch_sees_its_images_once() -> None:
    network, (images, labels) = adaptive(), batch()
    AdaptiveFeatures(0.1, steps=2)(network, images, labels)
    counts = {name: int(b) for name, b in network.named_buffers() if "tracked" in name}
    assert set(counts.values()) == {1}
    assert len(counts) == 4


def test_attacked_images_leave_the_statistics_of_the_clean_alone() -> None:
    network, images = adaptive(), batch()[0]
    before = statistics(network, "clean"), statistics(network, "attacked")
    with network.learning("attacked"):
        network(images)
    assert all(torch.equal(a, b) for a, b in zip(statistics(network, "clean"), before[0], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(statistics(network, "attacked"), before[1], strict=True))


def test_without_a_radius_both_branches_learn_the_clean_images() -> None:
    network, (images, labels) = adaptive(), batch()
    loss, logits = AdaptiveFeatures(0)(network, images, labels)
    # At first both norms and their running statistics are equal, so each branch gives the same logits.
    torch.testing.assert_close(loss, F.cross_entropy(logits, labels), rtol=0, atol=0.2)
    assert torch.equal(network.stem[1].clean.running_mean, network.stem[1].attacked.running_mean)  # type: ignore[index, union-attr]


@pytest.mark.parametrize(
    "objective", [AdaptiveFeatures(), AdaptiveFeatures(0), AdversarialWeightPerturbation(AdaptiveFeatures())]
)
def test_the_passes_are_those_stated_and_every_parameter_learns(objective: AdaptiveFeatures) -> None:
    network, (images, labels) = adaptive(), batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, logits = objective(network, images, labels)
    loss.backward()  # type: ignore[no-untyped-call]
    (counter,) = (module for module in network.modules() if isinstance(module, Counter))
    found = counter.forward_images / len(images), counter.backward_images / len(images)
    assert found == objective.passes
    assert logits.shape == (8, 3)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    assert all(module.training for module in network.modules())


def test_radii_lie_in_the_ball_and_differ_from_batch_to_batch() -> None:
    network, (images, labels) = adaptive(), batch()
    objective = AdaptiveFeatures(0.1, steps=5)
    lengths = [float((objective.attacked(network, images, labels) - images).abs().max()) for _ in range(8)]
    assert max(lengths) <= 0.1 + 1e-6
    assert max(lengths) > 2 * min(lengths)


def test_other_networks_are_refused() -> None:
    with pytest.raises(UserError, match="choose model=adaptive"):
        AdaptiveFeatures()(smooth_network(), *batch())


@pytest.mark.parametrize("settings", [{"epsilon": 2.0}, {"steps": 0}, {"relative_step_size": 0.0}])
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(UserError):
        AdaptiveFeatures(**settings)  # type: ignore[arg-type]
