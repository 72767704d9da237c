"""The official CIFAR archives: their files, checksums and classes."""

from dataclasses import dataclass

from symmetry_robustness.data.cifar_format import PIXELS
from symmetry_robustness.data.integrity import Archive


@dataclass(frozen=True)
class CIFAR:
    """A CIFAR data set: its classes, and its files in both layouts.

    Args:
        title: For tables.
        class_names: In the order of the labels.
        binary: Archive of the binary layout, whose records start with `label_bytes` bytes.
        python: Archive of the Python layout, whose labels stand under `label_key`.
        train: Batch files of the training images without the suffix, in order.
        test: The same for the test images.
        train_images: Number of training images.
        test_images: Number of test images.
        label_bytes: Of a binary record.
        label_key: In a Python batch.
    """

    title: str
    class_names: tuple[str, ...]
    binary: Archive
    python: Archive
    train: tuple[str, ...]
    test: tuple[str, ...]
    train_images: int
    test_images: int
    label_bytes: int
    label_key: str


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
_CIFAR10_TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))

CIFAR10 = CIFAR(
    title="CIFAR-10",
    class_names=tuple(_CIFAR10_NAMES.split()),
    binary=Archive(
        command="cifar10",
        filename="cifar-10-binary.tar.gz",
        folder="cifar-10-batches-bin",
        files={f"{name}.bin": 10_000 * (1 + PIXELS) for name in (*_CIFAR10_TRAIN, "test_batch")},
        url=_SITE + "cifar-10-binary.tar.gz",
        md5="c32a1d4ab5d03f1284b67883e8d87530",
    ),
    python=Archive(
        command="cifar10",
        filename="cifar-10-python.tar.gz",
        folder="cifar-10-batches-py",
        files=dict.fromkeys((*_CIFAR10_TRAIN, "test_batch")),
        url=_SITE + "cifar-10-python.tar.gz",
        md5="c58f30108f718f92721af3b95e74349a",
        file_md5={
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
            "test_batch": "40351d587109b95175f43aff81a1287e",
        },
    ),
    train=_CIFAR10_TRAIN,
    test=("test_batch",),
    train_images=50_000,
    test_images=10_000,
    label_bytes=1,
    label_key="labels",
)

CIFAR100 = CIFAR(
    title="CIFAR-100",
    class_names=tuple(_CIFAR100_NAMES.split()),
    binary=Archive(
        command="cifar100",
        filename="cifar-100-binary.tar.gz",
        folder="cifar-100-binary",
        files={"train.bin": 50_000 * (2 + PIXELS), "test.bin": 10_000 * (2 + PIXELS)},
        url=_SITE + "cifar-100-binary.tar.gz",
        md5="03b5dce01913d631647c71ecec9e9cb8",
    ),
    python=Archive(
        command="cifar100",
        filename="cifar-100-python.tar.gz",
        folder="cifar-100-python",
        files={"train": None, "test": None},
        url=_SITE + "cifar-100-python.tar.gz",
        md5="eb9058c3a382ffc7106e4002c42a8d85",
        file_md5={"train": "16019d7e3df5f24257cddd939b257f8d", "test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
    ),
    train=("train",),
    test=("test",),
    train_images=50_000,
    test_images=10_000,
    label_bytes=2,
    label_key="fine_labels",
)
