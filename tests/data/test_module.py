"""The data module inside a Trainer: epochs, floats, augmentation and exact resume."""

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from symmetry_robustness.data import Augmentations, AugMix, RandomCropFlip, ShapesDataModule
from symmetry_robustness.data.loaders import training_order


class Recorder(pl.LightningModule):
    """Keeps what it is given; its weights depend on every batch and on the order of batches."""

    def __init__(self, stop_after: int | None = None) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * 32 * 32, 10)
        self.stop_after = stop_after
        self.training_labels: list[tuple[int, list[int]]] = []
        self.images: list[Tensor] = []
        self.tested = 0

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        images, labels = batch
        assert images.dtype == torch.float32
        assert 0 <= images.min() <= images.max() <= 1
        self.training_labels.append((self.current_epoch, labels.tolist()))
        self.images.append(images)
        if len(self.images) == self.stop_after:
            self.trainer.should_stop = True
            self.trainer.save_checkpoint(self.trainer.default_root_dir + "/stopped.ckpt")
            raise KeyboardInterrupt
        return nn.functional.cross_entropy(self.linear(images.flatten(1)), labels)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        assert batch[0].dtype == torch.float32

    def test_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        self.tested += len(batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def trainer(directory: Path, **settings: object) -> pl.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return pl.Trainer(default_root_dir=directory, enable_checkpointing=False, **quiet, **{"max_epochs": 3, **settings})


def data(**settings: object) -> ShapesDataModule:
    sizes = {"train_size": 50, "validation_size": 20, "test_size": 30, "batch_size": 16}
    return ShapesDataModule(**{"num_classes": 10, **sizes, "evaluation_batch_size": 8, **settings})


def test_trainer_finds_set_epoch(tmp_path: Path) -> None:
    module, datamodule = Recorder(), data(seed=4)
    trainer(tmp_path).fit(module, datamodule=datamodule)
    _, labels = datamodule.load_train()
    rows = datamodule._splits["train"][0].indices
    expected = [
        (epoch, labels[rows[part]].tolist()) for epoch in range(3) for part in training_order(50, 4, epoch).split(16)
    ]
    assert module.training_labels == expected


@pytest.mark.parametrize("augmentation", [None, Augmentations(crop_flip=RandomCropFlip(), augmix=AugMix())])
def test_resume_in_mid_epoch_repeats_nothing(augmentation: Augmentations | None, tmp_path: Path) -> None:
    settings = {"augmentation": augmentation, "validation_size": 0}
    torch.manual_seed(0)
    reference = Recorder()
    torch.manual_seed(0)
    interrupted = Recorder(stop_after=7)
    trainer(tmp_path).fit(reference, datamodule=data(**settings))

    with pytest.raises((KeyboardInterrupt, SystemExit)):
        trainer(tmp_path).fit(interrupted, datamodule=data(**settings))
    resumed = Recorder()
    checkpoint = tmp_path / "stopped.ckpt"
    trainer(tmp_path).fit(resumed, datamodule=data(**settings), ckpt_path=checkpoint, weights_only=True)
    # The checkpoint was written inside step 7, before its update: what counts is that the data go on behind it.
    assert interrupted.training_labels + resumed.training_labels == reference.training_labels
    assert all(torch.equal(a, b) for a, b in zip(interrupted.images + resumed.images, reference.images, strict=True))


def test_augmentation_is_for_training_only_and_leaves_the_global_generator_alone(tmp_path: Path) -> None:
    plain, augmented = Recorder(), Recorder()
    states = []
    for module, augmentation in ((plain, None), (augmented, Augmentations(augmix=AugMix()))):
        torch.manual_seed(1)
        trainer(tmp_path, max_epochs=1).fit(module, datamodule=data(augmentation=augmentation))
        states.append(torch.get_rng_state())
    assert torch.equal(*states)
    assert plain.training_labels == augmented.training_labels
    assert not torch.equal(plain.images[0], augmented.images[0])


def test_every_test_image_is_seen_once(tmp_path: Path) -> None:
    module, datamodule = Recorder(), data()
    trainer(tmp_path).test(module, datamodule=datamodule, verbose=False)
    assert module.tested == 30
    assert "train" not in datamodule._splits


def test_paper_way_trains_without_validation(tmp_path: Path) -> None:
    trainer(tmp_path, max_epochs=1).fit(Recorder(), datamodule=data(validation_size=0))


def test_text_of_a_module_reads_no_data() -> None:
    datamodule = data()
    assert str(datamodule) == "shapes, drawn from seed 0"
    assert datamodule._splits == {}
