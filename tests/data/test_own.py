"""A data set of the user's own is checked once, before training, whatever it returns."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from symmetry_robustness.data import ImageDataModule, Split
from symmetry_robustness.errors import UserError

Change = Callable[[Any, Any], tuple[Any, Any]]


def keep(images: Any, labels: Any) -> tuple[Any, Any]:
    return images, labels


class Own(ImageDataModule):
    """Returns what its changes make of proper images and labels, written as docs/extending.md shows."""

    def __init__(self, train: Change = keep, test: Change = keep, **settings: Any) -> None:
        super().__init__(class_names=("a", "b", "c"), **{"num_classes": 3, "validation_size": 4, **settings})
        self.train, self.test = train, test

    def draw(self, size: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        images = torch.randint(0, 256, (size, 3, 32, 32), generator=generator, dtype=torch.uint8)
        return images, torch.arange(size) % 3

    def load_train(self) -> Any:
        return self.train(*self.draw(20, 0))

    def load_test(self) -> Any:
        images, labels = self.test(*self.draw(10, 1))
        return [Split("test", images, labels, torch.arange(10))]


REFUSED = {
    "float in [0, 1]": (lambda x, y: (x / 255, y), r"images are torch\.float32; return torch\.uint8 .*255 \* images"),
    "float64 array": (lambda x, y: (x.numpy() / 255, y), r"images are torch\.float64"),
    "int64 pixels": (lambda x, y: (x.long(), y), r"images are torch\.int64"),
    "channels last": (lambda x, y: (x.permute(0, 2, 3, 1), y), r"\(\d+, 32, 32, 3\).*permute\(0, 3, 1, 2\)"),
    "grey": (lambda x, y: (x[:, :1], y), r"\(\d+, 1, 32, 32\), expected \(N, 3, 32, 32\)"),
    "no channels": (lambda x, y: (x[:, 0], y), r"images have shape \(\d+, 32, 32\)"),
    "other size": (lambda x, y: (x[..., :28, :28], y), r"28, 28.*set data\.image_size"),
    "sparse": (lambda x, y: (x.to_sparse(), y), "images must be a dense tensor on the CPU"),
    "without values": (lambda x, y: (x, y.to("meta")), "labels must be a dense tensor on the CPU.*on meta"),
    "no images": (lambda x, y: (x[:0], y[:0]), "there are no images"),
    "list of images": (lambda x, y: (list(x), y), "images are a list; return a torch.Tensor"),
    "float labels": (lambda x, y: (x, y.float()), r"labels are torch\.float32"),
    "fewer labels": (lambda x, y: (x, y[:-1]), r"\d+ images have labels of shape"),
    "column of labels": (lambda x, y: (x, y[:, None]), r"labels of shape \(\d+, 1\)"),
    "labels from 1": (lambda x, y: (x, y + 1), "labels are 1 to 3, expected 0 to 2"),
    "negative labels": (lambda x, y: (x, y - 1), "labels are -1 to 1"),
    "names": (lambda x, y: (x, np.array(["a"] * len(y))), "labels are an array of <U1"),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED.keys())
@pytest.mark.parametrize("part", ["train", "test"])
def test_what_cannot_be_meant_is_refused_before_training(change: Change, message: str, part: str) -> None:
    with pytest.raises(UserError, match=rf"Own\.load_{part}: .*{message}") as caught:
        Own(**{part: change}).setup("fit")
    assert "\n" not in str(caught.value)


class Returned(Own):
    """Returns something else than the pair, or than the list."""

    found: Any

    def load_train(self) -> Any:
        return self.found

    def load_test(self) -> Any:
        return self.found


SPLIT = Split("test", *Own().draw(10, 1), torch.arange(10))


@pytest.mark.parametrize(
    "found",
    [None, SPLIT, [], (1, 2, 3), [SPLIT, SPLIT], [SPLIT, 3], [Split("mine", *Own().draw(10, 1), torch.arange(10))]],
    ids=["nothing", "split", "none", "three", "twice", "other things", "other name"],
)
@pytest.mark.parametrize("part", ["train", "test"])
def test_what_is_no_pair_or_no_list_of_the_test_sets_is_refused(found: Any, part: str) -> None:
    own = Returned()
    own.found = found
    with pytest.raises(UserError, match=rf"Returned\.load_{part}"):
        own.subset(part, None, 0)  # type: ignore[arg-type]


CONVERTED = {
    "int32 labels": lambda x, y: (x, y.int()),
    "uint8 labels": lambda x, y: (x, y.byte()),
    "arrays": lambda x, y: (x.numpy(), y.numpy()),
    "arrays, int16": lambda x, y: (x.numpy(), y.numpy().astype(np.int16)),
    "reversed arrays": lambda x, y: (x.flip(0).numpy()[::-1], y.flip(0).numpy()[::-1]),
    "read-only": lambda x, y: (np.broadcast_to(x.numpy(), x.shape), y.numpy().astype(">i8")),
    "strided": lambda x, y: (x.contiguous(memory_format=torch.channels_last), y),
}


@pytest.mark.parametrize("change", CONVERTED.values(), ids=CONVERTED.keys())
@pytest.mark.parametrize("split", ["train", "test"])
def test_what_can_only_be_meant_one_way_is_taken_that_way(change: Change, split: Any) -> None:
    for one, other in zip(Own(change, change).subset(split, None, 0), Own().subset(split, None, 0), strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


@pytest.mark.parametrize("rows", [torch.arange(11), torch.arange(10) - 1, torch.zeros(2, 2)])
def test_rows_that_are_none_are_refused(rows: torch.Tensor) -> None:
    own = Returned()
    own.found = [Split("test", *own.draw(10, 1), rows)]
    with pytest.raises(UserError, match=r"indices must be rows \(N,\) of its 10 images"):
        own.subset("test", None, 0)


def test_images_of_another_size_are_taken_where_they_are_stated() -> None:
    own = Own(lambda x, y: (x[..., :28, :28], y), lambda x, y: (x[..., :28, :28], y), image_size=28)
    own.setup("fit")
    assert own.image_shape == (3, 28, 28)
