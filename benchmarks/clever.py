"""CLEVER against ART, on the same network, image, targets and number of points.

ART is an extra of the benchmark: `pip install --no-deps adversarial-robustness-toolbox==1.20.*`, with scikit-learn,
six, threadpoolctl, joblib and narwhals, which it imports. Without it only our own time is reported.

ART draws a pool of points once and its maxima again and again from the pool, so equal effort means equal pools: here
10 maxima of 64 points against a pool of 10 times 64. Its single fit usually ends at the largest maximum, so scores are
compared under `estimate="maximum"`.
"""

import importlib.util
import time
import warnings

import numpy as np
from torch import Tensor, nn

from benchmarks.sweep import subject
from symmetry_robustness.robustness import Clever

NUM_BATCHES, SAMPLES, RADIUS = 10, 64, 5.0


def art_scores(network: nn.Module, image: Tensor, targets: list[int], device: str) -> list[float]:
    """Score towards each target by ART."""
    from art.estimators.classification import PyTorchClassifier
    from art.metrics import clever_t

    classes = len(targets) + 1
    classifier = PyTorchClassifier(
        network,
        nn.CrossEntropyLoss(),
        tuple(image.shape),
        classes,
        clip_values=(0, 1),
        device_type="gpu" if device == "cuda" else "cpu",
    )
    return [
        float(
            clever_t(classifier, image.cpu().numpy(), target, NUM_BATCHES, SAMPLES, RADIUS, 2, pool_factor=NUM_BATCHES)
        )
        for target in targets
    ]


def run(
    device: str = "cpu", checkpoint: str | None = None, overrides: tuple[str, ...] = (), size: int = 2
) -> list[dict[str, float | str]]:
    """Seconds per image and the median ratio of scores."""
    network, images, _ = subject(device, checkpoint, overrides, size)
    settings = Clever("l2", RADIUS, NUM_BATCHES, SAMPLES, estimate="maximum")
    settings(network, images[:1])  # warm-up
    start = time.perf_counter()
    scores = settings(network, images)
    ours = (time.perf_counter() - start) / size
    full = ours * 500 * 1024 / (NUM_BATCHES * SAMPLES)
    row: dict[str, float | str] = {"against": "art", "ours s/image": ours, "500 x 1024 min/image": full / 60}
    if importlib.util.find_spec("art") is None:
        return [row | {"against": "nothing, ART is not installed"}]
    np.random.seed(0)  # noqa: NPY002 - ART draws from the global state
    ratios: list[float] = []
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for index in range(size):
            targets = scores.targets[index].tolist()
            theirs = art_scores(network, images[index], targets, device)
            ratios += (scores.per_target[index].numpy() / np.array(theirs)).tolist()
    art = (time.perf_counter() - start) / size
    return [row | {"art s/image": art, "ratio": art / ours, "median ratio of scores": float(np.median(ratios))}]
