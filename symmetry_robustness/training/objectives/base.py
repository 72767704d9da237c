"""The contract of training objectives, and what several of them share."""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Literal, Protocol

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from symmetry_robustness.attacks import ThreatModel, UpdateRule, parse_epsilon
from symmetry_robustness.attacks.base import run_rule
from symmetry_robustness.errors import UserError

Mode = Literal["training", "evaluation"]
# Forward and backward passes of a batch through the network; the backward pass of a gradient counts as two.
Passes = tuple[int, int]
# Loss (), logits (B, K), and the terms of the loss, () each, of an objective that names them.
Result = tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Mapping[str, Tensor]]


class Objective(Protocol):
    """A training objective: the loss to minimise, and the logits from which the training accuracy is counted.

    An objective may state `passes`, the passes of a batch through the network in one step, and `second_derivatives`,
    the mode of the network in which gradients are differentiated again, or None. Compiled networks cannot do that, nor
    can batch norms that share statistics over ranks in training mode. `reads_layers` says whether features inside the
    network are read, which compiled networks do not show.

    An objective may name in `terms` parts of its loss, such as a penalty. It returns them behind the logits, and their
    means over the images of an epoch are logged as train/{name}.

    An objective that trains against attacks may state `defends`, the threat that the network is to withstand, or None.
    Training images are then watched for catastrophic overfitting.

    It may also have any of these methods:

    - `check_network(network)`, called before anything is written, which raises a UserError for a network that the
      objective cannot train.
    - `set_epoch(epoch)`, called before each batch, also after a run was resumed in the middle of an epoch.
    - `update(network, step)`, called for each batch in place of `step()`, which calls the objective and goes backward
      and lets the optimiser step. It may call `step` several times and change weights in place before and after it.
      It is refused where batches are accumulated, since only the last of them ends with a step.
    - `state_dict()` and `load_state_dict(state)`, as of an optimiser: tensors and plain values in containers. Each rank
      saves its own state in every checkpoint. An objective that is an `nn.Module` is saved as a part of the training
      module instead, equally on all ranks.
    """

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor) -> Result:
        """Return loss () and logits (B, K) of images (B, C, H, W) in [0, 1] with labels (B,).

        The logits are those of the clean images; where only attacked ones are trained on, those of the attacked. If the
        objective names terms, a mapping follows from their names to means over the images, () each.
        """
        ...


class AdversarialObjective(ABC):
    """An objective in two parts, attacked images and the loss on them, which wrappers also use one by one."""

    @property
    @abstractmethod
    def attack_passes(self) -> Passes:
        """Passes that making the attacked images takes."""

    @property
    @abstractmethod
    def loss_passes(self) -> Passes:
        """Passes that the loss on them takes."""

    @abstractmethod
    def attacked(self, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Attacked images (B, C, H, W), which no gradient flows through."""

    @abstractmethod
    def loss(self, network: nn.Module, images: Tensor, attacked: Tensor, labels: Tensor) -> Result:
        """Loss () and logits (B, K) of images and their attacked copies, both (B, C, H, W), with labels (B,)."""

    @property
    def passes(self) -> Passes:
        """Those of both parts."""
        return add_passes(self.attack_passes, self.loss_passes)

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor) -> Result:
        """Return loss and logits."""
        return self.loss(network, images, self.attacked(network, images, labels), labels)


def add_passes(*parts: Passes) -> Passes:
    """Forward and backward passes of all parts together."""
    return sum(forward for forward, _ in parts), sum(backward for _, backward in parts)


def run_update(objective: Objective, network: nn.Module, step: Callable[[], object]) -> None:
    """Update the weights on a batch, as the objective does it; one step where it has no way of its own.

    Args:
        objective: with or without `update`.
        network: that the objective trains.
        step: calls the objective, goes backward, and lets the optimiser step.
    """
    update = getattr(objective, "update", None)
    if update is None:
        step()
    else:
        update(network, step)


def term_names(objective: Objective) -> tuple[str, ...]:
    """Names of the terms that an objective returns beside its loss.

    Raises:
        UserError: they are no names, or a training calls something else so.
    """
    terms = getattr(objective, "terms", ())
    if not isinstance(terms, tuple | list) or not all(isinstance(term, str) and term.isidentifier() for term in terms):
        raise UserError(
            f"terms of objective {type(objective).__name__} must be names, as in ('penalty',), got {terms!r}"
        )
    if taken := {"loss", "accuracy"}.intersection(terms):
        raise UserError(
            f"objective {type(objective).__name__} calls a term {taken.pop()}, as every training calls a metric of its "
            "own; choose another name"
        )
    return tuple(terms)


def check_result(
    objective: Objective, found: object, images: int, classes: int
) -> tuple[Tensor, Tensor, Mapping[str, Tensor]]:
    """Loss (), logits (B, K) and terms, () each, that an objective has returned for numbers of images and classes.

    Raises:
        UserError: it has returned something else, or a loss without gradient.
    """
    terms: object = {}
    if isinstance(found, tuple) and len(found) == 3:
        terms, found = found[2], found[:2]
    names = sorted(getattr(objective, "terms", ()))
    if not isinstance(terms, Mapping) or sorted(map(str, terms)) != names or not all(map(_is_number, terms.values())):
        returned = sorted(map(str, terms)) if isinstance(terms, Mapping) else type(terms).__name__
        raise UserError(
            f"objective {type(objective).__name__} names in `terms` {names} and returned {returned} behind the logits; "
            "return a dict with a tensor () for each that it names"
        )
    if isinstance(found, tuple) and len(found) == 2 and all(isinstance(part, Tensor) for part in found):
        loss, logits = found
        if loss.ndim == 0 and logits.shape == (images, classes):
            if loss.requires_grad:
                return loss, logits, terms
            raise UserError(
                f"objective {type(objective).__name__} returned a loss without gradient; do not detach it, and leave "
                "the network weights that require one"
            )
    parts = found if isinstance(found, tuple) else (found,)
    shapes = [f"a tensor {tuple(part.shape)}" if isinstance(part, Tensor) else type(part).__name__ for part in parts]
    raise UserError(
        f"objective {type(objective).__name__} returned {' and '.join(shapes) or 'nothing'} for {images} images; "
        f"return a pair: the loss () and the logits ({images}, {classes}) of the clean images"
    )


def _is_number(value: object) -> bool:
    return isinstance(value, Tensor) and value.ndim == 0


@contextlib.contextmanager
def crafting(network: nn.Module, mode: Mode = "evaluation") -> Iterator[None]:
    """Put the network into evaluation mode, or leave it as training has it; afterwards modes and buffers are as before.

    So in training mode batch norms normalise by the statistics of the batch, and running statistics forget them.
    """
    modes = [(module, module.training) for module in network.modules()]
    kept = [(buffer, buffer.clone()) for buffer in network.buffers()] if mode == "training" else []
    if mode == "evaluation":
        network.eval()
    try:
        yield
    finally:
        for module, was_training in modes:
            module.training = was_training
        for buffer, before in kept:
            buffer.data.copy_(before)  # by data, since autograd forbids graphs whose buffers have changed


def craft(
    network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, rule: UpdateRule, mode: Mode
) -> Tensor:
    """Attacked images (B, C, H, W), made in float32; random numbers come from torch's global generator.

    Neither gradients of parameters nor running statistics are touched.
    """
    # Batch norms shared by ranks add up the gradients of all ranks' losses, and means over unequal parts have unequal
    # weights. Sums have equal ones.
    shared = distributed.is_available() and distributed.is_initialized()
    with crafting(network, mode):
        return run_rule(network, images, labels, threat, rule, torch.default_generator, scale=1.0 if shared else None)


def read_epsilon(value: float | str, norm: str = "linf") -> float:
    """Read a radius in pixel units that may be 0, at which nothing is attacked.

    Raises:
        UserError: the radius is no number or fraction, or holds more than all images in the linf norm.
    """
    numerator = str(value).partition("/")[0].strip()
    epsilon = 0.0 if numerator in ("0", "0.0") else parse_epsilon(value)
    if norm == "linf" and epsilon > 1:
        raise UserError(f"epsilon must lie in [0, 1], got {value}; pixels are in [0, 1], write 8/255 for 8 grey levels")
    return epsilon


def check_mode(mode: str) -> None:
    """Refuse a mode that does not exist.

    Raises:
        UserError: names those that there are.
    """
    if mode not in ("training", "evaluation"):
        raise UserError(f"crafted_in must be training or evaluation, got {mode!r}; choose one of them")


def check_positive(name: str, value: float) -> None:
    """Refuse a length that is not positive and finite.

    Raises:
        UserError: names the setting.
    """
    if not 0 < value < float("inf"):
        raise UserError(f"{name} must be positive and finite, got {value}; give a number above 0")


def check_weight(name: str, value: float) -> None:
    """Refuse the weight of a term that is negative or not finite.

    Raises:
        UserError: names the setting.
    """
    if not 0 <= value < float("inf"):
        raise UserError(f"{name} must be finite and not negative, got {value}; 0 turns the term off")


def check_share(name: str, value: float) -> None:
    """Refuse a share that is not in [0, 1].

    Raises:
        UserError: names the setting.
    """
    if not 0 <= value <= 1:
        raise UserError(f"{name} must lie in [0, 1], got {value}; 0.5 is half of them")


def divergence(logits: Tensor, others: Tensor) -> Tensor:
    """Kullback-Leibler divergence (B,) of the predictions of other logits (B, K) from those of logits (B, K)."""
    log, log_others = logits.float().log_softmax(1), others.float().log_softmax(1)
    return F.kl_div(log_others, log, reduction="none", log_target=True).sum(1)


def input_gradient(network: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (B, K), cross-entropies (B,) and their gradients (B, C, H, W), which can be differentiated again."""
    variable = images.detach().requires_grad_()
    logits = network(variable)
    return logits, *gradient_by_images(logits, labels, variable)


def gradient_by_images(logits: Tensor, labels: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropies (B,) of logits (B, K), and their gradients by the images that these were computed from."""
    losses = F.cross_entropy(logits, labels, reduction="none")
    (gradient,) = torch.autograd.grad(losses.sum(), images, create_graph=True)
    return losses, gradient


def half_square(values: Tensor) -> Tensor:
    """Half the squared l2 norm of each image's values, (B,)."""
    return values.flatten(1).square().sum(1) / 2
