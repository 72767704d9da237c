"""Data sets as Lightning data modules: whole uint8 batches from memory, in an order known in advance."""

from symmetry_robustness.data.augmentation import (
    Augmentation,
    Augmentations,
    AugMix,
    Cutout,
    RandomCropFlip,
    RandomRotation,
    RandomScale,
)
from symmetry_robustness.data.cifar import CIFAR10DataModule, CIFAR100DataModule
from symmetry_robustness.data.corruptions import CIFAR10C, CIFAR100C
from symmetry_robustness.data.loaders import EvaluationLoader, Split, TrainLoader
from symmetry_robustness.data.module import ImageDataModule
from symmetry_robustness.data.shapes import ShapesDataModule
from symmetry_robustness.data.test_transforms import RotatedViews, ScaledViews, TestTransform

__all__ = [
    "CIFAR10C",
    "CIFAR100C",
    "AugMix",
    "Augmentation",
    "Augmentations",
    "CIFAR10DataModule",
    "CIFAR100DataModule",
    "Cutout",
    "EvaluationLoader",
    "ImageDataModule",
    "RandomCropFlip",
    "RandomRotation",
    "RandomScale",
    "RotatedViews",
    "ScaledViews",
    "ShapesDataModule",
    "Split",
    "TestTransform",
    "TrainLoader",
]
