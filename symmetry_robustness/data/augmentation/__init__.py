"""Augmentation of whole training batches on their device, one class a file."""

from symmetry_robustness.data.augmentation.augmix import AugMix
from symmetry_robustness.data.augmentation.base import Augmentation, Augmentations
from symmetry_robustness.data.augmentation.crop_flip import RandomCropFlip
from symmetry_robustness.data.augmentation.cutout import Cutout
from symmetry_robustness.data.augmentation.rotation import RandomRotation
from symmetry_robustness.data.augmentation.scale import RandomScale

__all__ = ["AugMix", "Augmentation", "Augmentations", "Cutout", "RandomCropFlip", "RandomRotation", "RandomScale"]
