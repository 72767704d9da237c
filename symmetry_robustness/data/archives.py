"""The official CIFAR archives: their files, checksums and classes."""

from collections.abc import Sequence
from dataclasses import dataclass

from symmetry_robustness.data.integrity import Archive

PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class CIFAR:
    """A CIFAR data set in its official binary layout.

    A record holds label bytes, of which the last is the class, and 3,072 channel-first pixels.
    Source: https://www.cs.toronto.edu/~kriz/cifar.html, "Binary version".

    Args:
        title: For tables.
        class_names: In the order of the labels.
        archive: Of the files, each of which holds whole records.
        train: Files of the training images, in order.
        test: Files of the test images, in order.
        label_bytes: Of a record: 1 for CIFAR-10, 2 (coarse, fine) for CIFAR-100.
    """

    title: str
    class_names: tuple[str, ...]
    archive: Archive
    train: tuple[str, ...]
    test: tuple[str, ...]
    label_bytes: int

    def count(self, files: Sequence[str]) -> int:
        """Number of images in some of the files."""
        return sum(self.archive.files[name] or 0 for name in files) // (self.label_bytes + PIXELS)


_CIFAR10_NAMES = "airplane automobile bird cat deer dog frog horse ship truck"
_CIFAR100_NAMES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate
poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
wardrobe whale willow_tree wolf woman worm
"""
_SITE = "https://www.cs.toronto.edu/~kriz/"
_CIFAR10_TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))

CIFAR10 = CIFAR(
    title="CIFAR-10",
    class_names=tuple(_CIFAR10_NAMES.split()),
    archive=Archive(
        command="cifar10",
        filename="cifar-10-binary.tar.gz",
        folder="cifar-10-batches-bin",
        files=dict.fromkeys((*_CIFAR10_TRAIN, "test_batch.bin"), 10_000 * (1 + PIXELS)),
        url=_SITE + "cifar-10-binary.tar.gz",
        md5="c32a1d4ab5d03f1284b67883e8d87530",
    ),
    train=_CIFAR10_TRAIN,
    test=("test_batch.bin",),
    label_bytes=1,
)

CIFAR100 = CIFAR(
    title="CIFAR-100",
    class_names=tuple(_CIFAR100_NAMES.split()),
    archive=Archive(
        command="cifar100",
        filename="cifar-100-binary.tar.gz",
        folder="cifar-100-binary",
        files={"train.bin": 50_000 * (2 + PIXELS), "test.bin": 10_000 * (2 + PIXELS)},
        url=_SITE + "cifar-100-binary.tar.gz",
        md5="03b5dce01913d631647c71ecec9e9cb8",
    ),
    train=("train.bin",),
    test=("test.bin",),
    label_bytes=2,
)
