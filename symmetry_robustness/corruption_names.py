"""The corruptions of CIFAR-10-C and CIFAR-100-C. Source: arXiv 1903.12261, sec. 4.1 and appendix B."""

from typing import Final

# In the order of the paper; the error of the benchmark is the mean over these at all severities.
BENCHMARK: Final = (
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "snow",
    "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression",
)  # fmt: skip
# Published beside the benchmark, for the choice of hyperparameters.
EXTRA: Final = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
SEVERITIES: Final = (1, 2, 3, 4, 5)
