"""Length of the smallest perturbation found that changes a prediction, in one norm."""

from dataclasses import dataclass
from typing import ClassVar, Final, final

import numpy as np
import torch
from torch import Tensor, nn

from symmetry_robustness.attacks.gradient import PGD
from symmetry_robustness.attacks.norms import NormName, find_norm, per_image
from symmetry_robustness.attacks.threat import ThreatModel, parse_epsilon
from symmetry_robustness.attacks.validation import predict
from symmetry_robustness.engine.continuous_batching import ContinuousBatching, misclassified
from symmetry_robustness.engine.fusion import fuse
from symmetry_robustness.errors import UserError
from symmetry_robustness.results.plots import Distribution
from symmetry_robustness.robustness.measures.base import Arrays, MeasureInputs
from symmetry_robustness.settings import checked

# Halvings of the way back to the image: the end is known to a 256th of the length.
_HALVINGS: Final = 8


@final
@checked
@dataclass(frozen=True)
class MinimalDistance:
    """Measures `distance` (N,), the length of the smallest perturbation found, and where it is `saturated` (N,).

    PGD tries radii that grow by a constant factor until it succeeds at one; the perturbation is then shortened by
    bisection as long as it deceives the network. Its direction stays, so lengths are upper bounds: on linear networks
    they are a quarter above the true ones (median) with a factor of 1.5, and closer with more radii.

    An image that is misclassified as it is has the distance 0; one that withstands the largest radius has that radius
    and is saturated, which says "at least". The mean over all images is therefore the area under the curve of robust
    accuracy over epsilon.

    Costs `steps` gradients for each radius that an image withstands, and 8 passes.

    Args:
        norm: "linf" or "l2"; radii and result are lengths in it, pixel units.
        smallest: first radius, a number or a fraction such as "1/255".
        largest: last radius, and the cap of the result.
        radii: number of radii, in geometric progression.
        steps: of PGD at each radius.
        images: on how many images, those with the lowest numbers, it is taken; None for all.

    Raises:
        UserError: an unknown norm, or radii that do not grow.
    """

    norm: NormName = "linf"
    smallest: float | str = "0.25/255"
    largest: float | str = "64/255"
    radii: int = 9
    steps: int = 20
    images: int | None = None

    upper_bound: ClassVar = "distance"
    plots: ClassVar = (Distribution("distance", "minimal distance"),)

    def __post_init__(self) -> None:
        find_norm(self.norm)
        low, high = parse_epsilon(self.smallest, "smallest"), parse_epsilon(self.largest, "largest")
        if not low < high or self.radii < 2:
            raise UserError(
                f"radii must grow from smallest to largest, got {self.radii} from {self.smallest} to {self.largest}; "
                "give at least 2"
            )
        _ = self.rule

    @property
    def rule(self) -> PGD:
        """The attack at each radius."""
        return PGD(steps=self.steps)

    @property
    def grid(self) -> tuple[float, ...]:
        """The radii, increasing."""
        ends = parse_epsilon(self.smallest, "smallest"), parse_epsilon(self.largest, "largest")
        return tuple(float(radius) for radius in np.geomspace(*ends, self.radii))

    def compute(self, inputs: MeasureInputs) -> Arrays:
        """Distance of each image."""
        inputs.check()
        wrong = misclassified(inputs.logits(inputs.images), inputs.labels).cpu().numpy()
        distance = np.where(wrong, 0.0, self.grid[-1])
        saturated = ~wrong
        standing = np.flatnonzero(~wrong)
        attacked = inputs.take(standing)
        network = fuse(attacked.network, attacked.images[: inputs.batch_size])
        threats = [ThreatModel(self.norm, radius) for radius in self.grid]
        search = ContinuousBatching(network, self.rule, threats, inputs.seed, inputs.batch_size)
        result = search.find_minimal_epsilon(
            attacked.images,
            attacked.labels,
            indices=attacked.indices,
            keep=range(len(standing)),
            progress=lambda done: inputs.notify(len(wrong) - len(standing) + done),
        )
        found = np.array(sorted(result.adversarial), dtype=np.int64)
        for rows in np.array_split(found, range(inputs.batch_size, len(found), inputs.batch_size)):
            if len(rows):
                part = attacked.take(rows)
                changed = torch.stack([result.adversarial[int(row)] for row in rows])
                shortened = shorten(part.network, part.images, part.labels, changed)
                distance[standing[rows]] = threats[0].distance(shortened, part.images).cpu().numpy()
        saturated[standing[found]] = False
        return {"distance": distance, "saturated": saturated}


def shorten(network: nn.Module, images: Tensor, labels: Tensor, adversarial: Tensor) -> Tensor:
    """Move adversarial images (B, ...) straight towards the images by bisection; all results are misclassified."""
    low, high = (torch.full_like(images[:, 0, 0, 0], end) for end in (0.0, 1.0))
    best = adversarial
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        tried = images + per_image(middle, images) * (adversarial - images)
        wrong = misclassified(predict(network, tried), labels)
        high, low = torch.where(wrong, middle, high), torch.where(wrong, low, middle)
        best = torch.where(per_image(wrong, images), tried, best)
    return best
