"""A detector that compares a network's layers with each other: the recovery, logit and joint tests."""

import math
from dataclasses import dataclass
from typing import Final, Literal, final

import torch
from torch import Tensor, nn

from symmetry_robustness.attacks.validation import check_count
from symmetry_robustness.errors import UserError
from symmetry_robustness.features import default_layers, read_features
from symmetry_robustness.rng import keyed_generator
from symmetry_robustness.robustness.measures.detection import Detector, Score
from symmetry_robustness.settings import checked

_GUARD: Final = 1e-8  # added before logarithms, as in the released code
_WIDTH: Final = 128
_DEPTH: Final = 4
_BATCH: Final = 64
_FITTED_ON: Final = 2 / 3  # of the images; the rest makes the map to normal quantiles


@final
@checked
@dataclass(frozen=True)
class LayerInconsistency(Detector):
    """Scores of "A Few Large Shifts", from clean images and the frozen network alone. Source: arXiv 2505.12586.

    The recovery test (`rt`) predicts the pooled feature of each layer from the deepest one by a small perceptron; the
    errors of attacked images are large, and concentrated in few layers. The logit test (`lt`) multiplies pixels by
    learned masks; the logits of attacked images change more than their features do. Each is mapped to normal quantiles
    of clean images, and the score is its squared deviation; `rlt` adds both.

    Deviations from the released code: attacked and clean images are normalised alike, by the network's first layer
    (there the logit test normalises attacked images only, and its masks are trained without, so that published figures
    of `lt` and `rlt` may be too good); the map to quantiles is made on validation images instead of the test's, and
    goes on linearly beyond them, so that it has a gradient; masks begin at 1 with noise, without which all would stay
    alike; features are read at the network's blocks.

    For a network that is invariant, the recovery test is so only where its pooled features are: those of regular fields
    are permuted when the image turns.

    Args:
        test: "rt", "lt" or "rlt".
        epochs: of the perceptrons, on stored features.
        learning_rate: of the perceptrons.
        masks: how many.
        mask_epochs: of the masks, each a gradient of the network for each image.
        mask_learning_rate: of the masks.
    """

    test: Literal["rt", "lt", "rlt"] = "rlt"
    epochs: int = 100
    learning_rate: float = 1e-3
    masks: int = 4
    mask_epochs: int = 5
    mask_learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        if self.test not in ("rt", "lt", "rlt"):
            raise UserError(f"test must be rt, lt or rlt, got {self.test!r}; choose one of them")
        for name in ("epochs", "masks", "mask_epochs"):
            check_count(name, getattr(self, name))
        for name in ("learning_rate", "mask_learning_rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"{name} must be positive, got {getattr(self, name)}; 0.001 is usual")

    def fit(self, network: nn.Module, images: Tensor, seed: int) -> Score:
        """Fit perceptrons and masks on some of the images, and the map to quantiles on the others.

        Raises:
            UserError: the network has fewer than three layers to compare.
        """
        layers = default_layers(network)
        if len(layers) < 3:
            raise UserError(f"layer inconsistency needs three layers at least, got {', '.join(layers)}; use the orbit")
        count = int(_FITTED_ON * len(images))
        fitted, held = images[:count], images[count:]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**31, (), generator=keyed_generator(seed, 17))))
            tests: list[Score] = []
            if "r" in self.test:
                tests.append(self._recovery_test(network, layers, fitted))
            if "l" in self.test:
                tests.append(self._logit_test(network, layers, fitted))
        maps = [_NormalScores(_in_parts(test, held)) for test in tests]

        def score(seen: Tensor) -> Tensor:
            return torch.stack([mapped(test(seen)).square() for mapped, test in zip(maps, tests, strict=True)]).sum(0)

        return score

    def _recovery_test(self, network: nn.Module, layers: tuple[str, ...], images: Tensor) -> Score:
        """Errors with which pooled features follow from the deepest one."""
        with torch.no_grad():
            parts = [pooled(network, part, layers)[1] for part in torch.split(images, _BATCH)]
        features = [torch.cat(found) for found in zip(*parts, strict=True)]
        deepest = features[-1]
        adapters = nn.ModuleList(_perceptron(deepest.shape[1], feature.shape[1]) for feature in features[:-1])
        adapters.to(deepest)
        with torch.enable_grad():
            optimizer = torch.optim.AdamW(adapters.parameters(), lr=self.learning_rate, weight_decay=1e-2)
            for _ in range(self.epochs):
                for rows in torch.split(torch.randperm(len(deepest)).to(deepest.device), _BATCH):
                    if len(rows) < 2:  # of which a batch norm has no statistics
                        continue
                    losses = [
                        (feature[rows] - adapter(deepest[rows])).square().mean()
                        for adapter, feature in zip(adapters, features[:-1], strict=True)
                    ]
                    optimizer.zero_grad()
                    torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
        adapters.eval().requires_grad_(False)

        def score(seen: Tensor) -> Tensor:
            found = pooled(network, seen, layers)[1]
            errors = [(z - adapter(found[-1])).square().sum(1) for adapter, z in zip(adapters, found[:-1], strict=True)]
            return recovery(torch.stack(errors, dim=1))

        return score

    def _logit_test(self, network: nn.Module, layers: tuple[str, ...], images: Tensor) -> Score:
        """Change of logits under mild masks, beside that of features."""
        shape = (self.masks, *images.shape[1:])
        masks = (1 + 0.01 * torch.randn(shape)).to(images).requires_grad_()
        optimizer = torch.optim.AdamW([masks], lr=self.mask_learning_rate, weight_decay=1e-2)

        def score(seen: Tensor) -> Tensor:
            logits, features = pooled(network, seen, layers)
            changed = [pooled(network, mask * seen, layers) for mask in masks]
            return torch.stack([logit_test(logits, features, other, moved) for other, moved in changed]).mean(0)

        for _ in range(self.mask_epochs):
            for rows in torch.split(torch.randperm(len(images)).to(images.device), _BATCH):
                with torch.enable_grad():
                    (gradient,) = torch.autograd.grad(score(images[rows]).mean(), masks)
                masks.grad = torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)
                optimizer.step()
        masks.requires_grad_(False)
        return score


def pooled(network: nn.Module, images: Tensor, layers: tuple[str, ...]) -> tuple[Tensor, list[Tensor]]:
    """Logits (B, K) and the mean over places of each layer's feature, (B, C), the deepest last."""
    logits, features = read_features(network, images, layers)
    return logits, [feature.flatten(2).mean(2) if feature.dim() > 2 else feature for feature in features.values()]


def recovery(errors: Tensor) -> Tensor:
    """The recovery test (B,) of errors (B, n) of n layers: (n ln n - H(q)) ln(mean error), q their softmax.

    Source: arXiv 2505.12586, released code.

    Examples:
        >>> round(float(recovery(torch.full((1, 4), 3.0))), 4)  # (4 ln 4 - ln 4) ln 3
        4.569
    """
    count = errors.shape[1]
    entropy = -(errors.softmax(1) * errors.log_softmax(1)).sum(1)
    return (count * math.log(count) - entropy) * (errors.mean(1) + _GUARD).log()


def logit_test(logits: Tensor, features: list[Tensor], masked: Tensor, moved: list[Tensor]) -> Tensor:
    """The logit test (B,) under one mask: ln of the change of logits less ln of that of features, mean over layers.

    Args:
        logits: (B, K) of the images.
        features: (B, C) of each layer.
        masked: (B, K), logits of the masked images.
        moved: (B, C), features of the masked images.
    """
    own = logits.log_softmax(1)
    entropy = -(own.exp() * own).sum(1)
    certain = torch.zeros_like(logits).scatter(1, logits.argmax(1, keepdim=True), 1.0)
    change = (masked.softmax(1) - certain).square().mean(1) * entropy
    shifts = torch.stack([(z - other).square().mean(1) for z, other in zip(features, moved, strict=True)], dim=1)
    return (change + _GUARD).log() - (shifts + _GUARD).log().mean(1)


def _perceptron(inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(_DEPTH - 1):
        layers += [nn.Linear(inputs, _WIDTH), nn.BatchNorm1d(_WIDTH), nn.ReLU()]
        inputs = _WIDTH
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))


def _in_parts(test: Score, images: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([test(part) for part in torch.split(images, _BATCH)])


class _NormalScores:
    """Maps values to normal quantiles of a sample: linear between its values, and beyond them with its deviation."""

    def __init__(self, sample: Tensor) -> None:
        values = sample.detach().double().nan_to_num().sort().values
        count = len(values)
        self.values = values
        levels = (torch.arange(1, count + 1, dtype=torch.float64, device=values.device) - 0.5) / count
        self.quantiles = torch.special.ndtri(levels)
        self.deviation = values.std().clamp_min(_GUARD)

    def __call__(self, scores: Tensor) -> Tensor:
        """Normal quantiles (B,) of scores (B,), with gradients."""
        values, quantiles = self.values, self.quantiles
        seen = scores.double()
        above = torch.searchsorted(values, seen.detach().contiguous()).clamp(1, len(values) - 1)
        low, high = values[above - 1], values[above]
        share = (seen - low) / (high - low).clamp_min(1e-12)
        inside = quantiles[above - 1] + share.clamp(0, 1) * (quantiles[above] - quantiles[above - 1])
        beyond = (seen - seen.detach().clamp(values[0], values[-1])) / self.deviation
        mapped: Tensor = inside + torch.where((seen < values[0]) | (seen > values[-1]), beyond, 0.0)
        return mapped.to(scores.dtype)
