"""Training guided by attributions: segments that do not speak for the class are hidden, smoothed and attacked."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from symmetry_robustness.attacks.validation import check_count, predict
from symmetry_robustness.errors import UserError
from symmetry_robustness.settings import checked
from symmetry_robustness.training.objectives.attacked import PGDImages
from symmetry_robustness.training.objectives.base import (
    Mode,
    Passes,
    check_positive,
    check_share,
    check_weight,
    crafting,
    gradient_by_images,
    half_square,
)


@final
@checked
@dataclass(frozen=True)
class AttributionGuided(PGDImages):
    """Cross-entropy of images, of the same with spurious segments hidden, and attacked, and a penalty on gradients.

    A reconstruction: arXiv 2601.00968 states the idea (LIME finds spurious segments; masking, a penalty on sensitivity
    and attacked images suppress them), but neither formula nor settings nor code are public. Here segments are the
    cells of a grid. In every step all images are seen under the same random choices of cells, in evaluation mode, with
    the mean colour of the image elsewhere; a ridge regression of the label's probability on the choice gives each cell
    its attribution. A cell is spurious if that is not positive, or among the smallest of its image in size; the cell
    with the largest attribution never is. The penalty is half the squared gradient of the clean cross-entropy at the
    spurious cells. Attributions are taken for given when gradients are computed.

    Args:
        epsilon: radius of the linf ball in pixel units, number or fraction; at 0 nothing is attacked.
        relative_step_size: length of a step of PGD as a fraction of epsilon.
        crafted_in: mode of the network while attacked images are made.
        steps: of PGD.
        hidden_strength: weight of the cross-entropy of images whose spurious cells have the mean colour.
        gradient_strength: weight of the penalty.
        attacked_strength: weight of the cross-entropy of attacked images.
        grid: cells along each side of the image.
        samples: random choices of cells in a step; each is a forward pass.
        kernel_width: of the weight of a choice, exp(-(d / width)²), d the cosine distance from choosing all cells.
        ridge: weight of the squared attributions in the regression.
        quantile: share of the cells, those of the smallest attribution in size, that are spurious whatever their sign.
    """

    crafted_in: Mode = "evaluation"
    hidden_strength: float = 1.0
    gradient_strength: float = 1.0
    attacked_strength: float = 1.0
    grid: int = 4
    samples: int = 32
    kernel_width: float = 0.25
    ridge: float = 1.0
    quantile: float = 0.2

    def __post_init__(self) -> None:
        for name in ("hidden_strength", "gradient_strength", "attacked_strength"):
            check_weight(name, getattr(self, name))
        check_count("grid", self.grid)
        check_count("samples", self.samples)
        check_positive("kernel_width", self.kernel_width)
        check_positive("ridge", self.ridge)
        check_share("quantile", self.quantile)
        super().__post_init__()

    @property
    def _explains(self) -> bool:
        return bool(self.hidden_strength or self.gradient_strength)

    @property
    def _attacks(self) -> bool:
        return bool(self.attacked_strength and self.epsilon)

    @property
    def attack_passes(self) -> Passes:
        """One for each step."""
        return super().attack_passes if self._attacks else (0, 0)

    @property
    def loss_passes(self) -> Passes:
        """One each for clean, hidden and attacked images; a forward pass for each choice; two for the gradient."""
        both = 1 + bool(self.hidden_strength) + self._attacks
        return both + (self.samples if self._explains else 0), both + (2 if self.gradient_strength else 0)

    @property
    def second_derivatives(self) -> Mode | None:
        """In training mode."""
        return "training" if self.gradient_strength else None

    def attacked(self, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Images (B, C, H, W) that PGD attacks; the images themselves where their loss does not count."""
        return super().attacked(network, images, labels) if self._attacks else images

    def loss(self, network: nn.Module, images: Tensor, attacked: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss and the logits of the clean images.

        Raises:
            UserError: the grid has more cells along a side than the image has pixels.
        """
        spurious = self.spurious(network, images, labels) if self._explains else None
        variable = images.detach().requires_grad_(bool(self.gradient_strength))
        logits = network(variable)
        loss = F.cross_entropy(logits, labels)
        if spurious is not None and self.gradient_strength:
            _, gradient = gradient_by_images(logits, labels, variable)
            loss = loss + self.gradient_strength * half_square(gradient * spurious).mean()
        if spurious is not None and self.hidden_strength:
            hidden = torch.where(spurious, mean_colour(images), images)
            loss = loss + self.hidden_strength * F.cross_entropy(network(hidden), labels)
        if self._attacks:
            loss = loss + self.attacked_strength * F.cross_entropy(network(attacked), labels)
        return loss, logits

    def spurious(self, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Which pixels of images (B, C, H, W) belong to spurious cells, (B, 1, H, W).

        Raises:
            UserError: the grid has more cells along a side than the image has pixels.
        """
        cells = grid_cells(self.grid, *images.shape[2:]).to(images.device)
        choices = torch.randint(2, (self.samples, self.grid**2)).to(images.device)
        fill = mean_colour(images)
        with crafting(network):
            outputs = [
                predict(network, torch.where(choice.bool()[cells], images, fill)).softmax(1).gather(1, labels[:, None])
                for choice in choices
            ]
        found = attributions(torch.cat(outputs, 1), choices, self.kernel_width, self.ridge)
        return spurious_cells(found, self.quantile)[:, cells][:, None]


def grid_cells(grid: int, height: int, width: int) -> Tensor:
    """Number of the cell of each pixel, (H, W), row by row.

    Raises:
        UserError: the grid has more cells along a side than the image has pixels.
    """
    if grid > min(height, width):
        raise UserError(
            f"grid must be at most {min(height, width)} for images {height} × {width}, got {grid}; lower it"
        )
    rows, columns = torch.arange(height) * grid // height, torch.arange(width) * grid // width
    return rows[:, None] * grid + columns


def mean_colour(images: Tensor) -> Tensor:
    """Mean of each channel of each image, (B, C, 1, 1)."""
    return images.mean((2, 3), keepdim=True)


def attributions(outputs: Tensor, choices: Tensor, kernel_width: float, ridge: float) -> Tensor:
    """Coefficients (B, S) of a weighted ridge regression, with an intercept, of outputs on choices.

    Args:
        outputs: (B, M), for each image and choice.
        choices: (M, S), 1 where a segment is shown.
        kernel_width: of the weight of a choice.
        ridge: weight of the squared coefficients.
    """
    shown = choices.double()
    weights = (-((1 - shown.mean(1).sqrt()) / kernel_width).square()).exp()  # one minus the cosine with all ones
    design = torch.cat([torch.ones_like(shown[:, :1]), shown], 1)
    penalty = ridge * torch.eye(design.shape[1], dtype=design.dtype, device=design.device)
    penalty[0, 0] = 0
    weighted = design.T * weights
    found: Tensor = torch.linalg.solve(weighted @ design + penalty, weighted @ outputs.T.double())
    return found[1:].T


def spurious_cells(found: Tensor, quantile: float) -> Tensor:
    """Whether each attribution (B, S) is not positive, or smaller in size than the quantile; never the largest."""
    size = found.abs()
    chosen = (found <= 0) | (size < size.quantile(quantile, dim=1, keepdim=True))
    return chosen.scatter(1, found.argmax(1, keepdim=True), False)
