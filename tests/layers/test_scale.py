import pytest
import torch
from torch import nn

from symmetry_robustness.errors import UserError
from symmetry_robustness.layers.scale import MultiScaleConv


def test_scale_one_is_a_plain_block():
    layer = MultiScaleConv(4, scales=[1]).eval()
    images = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(layer(images), layer.blocks[0](images))


def test_half_scale_sees_the_mean_of_two_by_two_pixels():
    layer = MultiScaleConv(1, scales=[0.5]).eval()
    layer.blocks[0] = nn.Identity()
    blocks = torch.rand(2, 3, 4, 4)
    images = blocks.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    expected = nn.functional.interpolate(blocks, size=(8, 8), mode="bilinear")
    torch.testing.assert_close(layer(images), expected)


def test_every_scale_has_its_own_weights_and_channels():
    layer = MultiScaleConv(16, scales=[0.5, 1, 2]).eval()
    assert sum(p.numel() for p in layer.parameters()) == 3 * (3 * 16 * 9 + 16 + 2 * 16)
    images = torch.rand(2, 3, 8, 8)
    features = layer(images)
    assert features.shape == (2, layer.out_channels, 8, 8) == (2, 48, 8, 8)
    for parameter in layer.blocks[2].parameters():
        parameter.data.zero_()
    changed = layer(images)
    torch.testing.assert_close(changed[:, :32], features[:, :32])
    assert not changed[:, 32:].any()


@pytest.mark.parametrize("scales", [[], [0], [1, -2], ["half"]])
def test_bad_scales_are_named(scales):
    with pytest.raises(UserError, match="scales must be positive"):
        MultiScaleConv(16, scales=scales)
