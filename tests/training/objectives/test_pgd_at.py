"""PGD training, and its variants of one step, on networks whose worst case is known."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from symmetry_robustness.training import CrossEntropy, Objective
from symmetry_robustness.training.objectives import NFGSM, FGSMRandomStart, PGDTraining

from .networks import batch, linear_network, smooth_network

EPSILON = 0.1


def margins(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    logits = network(images)
    return (logits[:, 1] - logits[:, 0]) * (2 * labels - 1)


class Recording(nn.Module):
    """Notes the images that it is trained on."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.seen = torch.empty(0)

    def forward(self, images: Tensor) -> Tensor:
        self.seen = images.detach()
        return self.network(images)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "objective",
    [
        PGDTraining(EPSILON, steps=1, relative_step_size=1.0, random_start=False),
        PGDTraining(EPSILON, steps=1, relative_step_size=2.0),  # from any start to the far side
        PGDTraining(EPSILON, steps=10),
        FGSMRandomStart(EPSILON, relative_step_size=2.0),
        NFGSM(EPSILON, noise=0.0),
    ],
    ids=repr,
)
def test_a_linear_network_loses_epsilon_times_the_l1_norm(objective: Objective) -> None:
    network, (images, labels) = linear_network(2), batch()
    labels = labels % 2
    weight = (network[1].weight[1] - network[1].weight[0]).detach()
    worst = margins(network, images, labels) - EPSILON * weight.abs().sum()
    loss, logits = objective(network, images, labels)
    torch.testing.assert_close((logits[:, 1] - logits[:, 0]) * (2 * labels - 1), worst)
    torch.testing.assert_close(loss, F.softplus(-worst).mean())


def test_without_noise_n_fgsm_is_fgsm() -> None:
    network, (images, labels) = Recording(smooth_network()).eval(), batch()
    variable = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(network.network(variable), labels), variable)
    NFGSM(EPSILON, noise=0.0, crafted_in="evaluation")(network, images, labels)
    torch.testing.assert_close(network.seen, (images + EPSILON * gradient.sign()).clamp(0, 1))


def test_in_the_l2_ball_it_loses_epsilon_times_the_l2_norm() -> None:
    network, (images, labels) = linear_network(2), batch()
    labels = labels % 2
    weight = (network[1].weight[1] - network[1].weight[0]).detach()
    assert PGDTraining(2.0, norm="l2").epsilon == 2  # more than 1, which would be all pixels in linf
    objective = PGDTraining(EPSILON, norm="l2", steps=1, relative_step_size=1.0, random_start=False)
    loss, _ = objective(network, images, labels)
    torch.testing.assert_close(loss, F.softplus(EPSILON * weight.norm() - margins(network, images, labels)).mean())


@pytest.mark.parametrize("mode", ["training", "evaluation"])
@pytest.mark.parametrize("objective", [PGDTraining, FGSMRandomStart, NFGSM])
def test_attacked_images_stay_in_reach_and_in_the_pixel_range(objective: type, mode: str) -> None:
    network, labels = Recording(smooth_network()), batch()[1]
    images = torch.rand(8, 3, 4, 4).round()  # at the bounds
    objective(EPSILON, crafted_in=mode)(network, images, labels)
    distance = (network.seen - images).abs().max()
    assert 0.5 * EPSILON < distance <= (3 if objective is NFGSM else 1) * EPSILON + 1e-6
    assert network.seen.min() >= 0
    assert network.seen.max() <= 1


def test_n_fgsm_leaves_the_ball_and_its_noise_is_that_stated() -> None:
    network, (images, labels) = Recording(linear_network()), batch()
    NFGSM(EPSILON, relative_step_size=1e-6)(network, images, labels)
    noise = network.seen - images
    assert 1.8 * EPSILON < noise.max() <= 2 * EPSILON + 1e-6
    assert -2 * EPSILON - 1e-6 <= noise.min() < -1.8 * EPSILON


def test_running_statistics_see_the_attacked_images_once() -> None:
    network, (images, labels) = smooth_network().train(), batch()
    PGDTraining(EPSILON)(network, images, labels)
    assert network[1].num_batches_tracked == 1


def test_in_training_mode_the_attack_meets_the_statistics_of_the_batch() -> None:
    torch.manual_seed(1)
    network, (images, labels) = smooth_network().train(), batch()
    network[1].running_mean += 1  # far from those of any batch
    seen = {}
    for mode in ("training", "evaluation"):
        recording = Recording(network)
        PGDTraining(EPSILON, random_start=False, crafted_in=mode)(recording, images, labels)  # type: ignore[arg-type]
        seen[mode] = F.cross_entropy(network(recording.seen), labels)
    assert seen["training"] > seen["evaluation"]
    assert seen["training"] > CrossEntropy()(network, images, labels)[0]
