import pytest
import torch

from symmetry_robustness.errors import UserError
from symmetry_robustness.layers.normalize import Normalize


@pytest.mark.parametrize(("mean", "std"), [(0.5, 0.5), ([0.4914, 0.4822, 0.4465], [0.247, 0.2435, 0.2616])])
def test_standardises_each_channel_and_exports(mean, std):
    images = torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last)
    layer = Normalize(mean, std)
    shape = (1, -1, 1, 1)
    expected = (images - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)
    torch.testing.assert_close(layer(images), expected)
    torch.testing.assert_close(layer.export()(images), expected)
    assert layer(images).is_contiguous(memory_format=torch.channels_last)
    assert not layer.state_dict()


def test_the_exported_layer_may_be_put_in_training_mode():
    assert Normalize(0.5, 0.5).export().train()(torch.rand(2, 3, 4, 4)).isfinite().all()


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        (0.5, 0.0, "std must be positive"),
        ([0.5, 0.5], 0.5, "mean must be one number or 3"),
        ("half", 0.5, "mean must be one number or 3, got 'half'"),
        (True, 0.5, "mean must be one number or 3, got True"),
        (0.5, [0.5, True, 0.5], "std must be one number or 3"),
        (float("nan"), 0.5, "mean must be finite, got nan"),
        ([0.5, 0.5, float("-inf")], 0.5, "mean must be finite"),
        (0.5, float("inf"), "std must be finite, got inf"),
        (0.5, float("nan"), "std must be finite, got nan"),
        (0.5, 1e-320, "mean=0.5 and std=1e-320 overflow in float32"),
        (0.5, 1e60, "overflow in float32"),
    ],
)
def test_a_bad_setting_is_named(mean, std, message):
    with pytest.raises(UserError, match=message):
        Normalize(mean, std)
