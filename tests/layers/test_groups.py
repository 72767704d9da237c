import itertools

import pytest
import torch
from escnn import gspaces

from symmetry_robustness.errors import UserError
from symmetry_robustness.layers.groups import FieldType, Group

GROUPS = ("C1", "C3", "C4", "C8", "D1", "D3", "D4", "D8")
TYPES = [
    ("C4", "trivial"),
    ("C4", "regular"),
    ("C8", "irrep3"),
    ("C8", "trivial+irrep1+regular"),
    ("D4", "regular"),
    ("D4", "trivial+irrep1"),
    ("D8", "irrep2+regular"),
]


@pytest.mark.parametrize("name", GROUPS)
def test_group_axioms(name):
    group = Group(name)
    elements = range(group.order)
    for first, second in itertools.product(elements, elements):
        assert group.compose(second, first) in elements
    for element in elements:
        assert group.compose(element, 0) == group.compose(0, element) == element
        assert group.compose(element, group.inverse(element)) == group.compose(group.inverse(element), element) == 0
    for a, b, c in itertools.product(elements, elements[:4], elements):
        assert group.compose(group.compose(a, b), c) == group.compose(a, group.compose(b, c))
    assert all({group.compose(a, b) for b in elements} == set(elements) for a in elements)


@pytest.mark.parametrize(("group", "representation"), TYPES)
def test_matrices_are_an_orthogonal_representation(group, representation):
    field_type = FieldType(group, representation, 2)
    elements = range(Group(group).order)
    matrices = [field_type.matrix(element) for element in elements]
    for first, second in itertools.product(elements, elements):
        composed = matrices[Group(group).compose(second, first)]
        torch.testing.assert_close(matrices[second] @ matrices[first], composed, rtol=0, atol=1e-6)
    for matrix in matrices:
        torch.testing.assert_close(matrix @ matrix.T, torch.eye(field_type.size), rtol=0, atol=1e-6)
    different = {tuple(matrix.round(decimals=3).flatten().tolist()) for matrix in matrices}
    assert len(different) == 1 if representation == "trivial" else len(different) > 3


@pytest.mark.parametrize(("group", "representation"), TYPES)
def test_action_composes_and_inverts(group, representation):
    field_type, elements = FieldType(group, representation, 3), Group(group).exact_elements
    features = torch.randn(2, field_type.channels, 6, 6)
    assert len(elements) == (8 if group[0] == "D" else 4)
    for first, second in itertools.product(elements, elements):
        twice = field_type.act(field_type.act(features, first), second)
        torch.testing.assert_close(
            twice, field_type.act(features, Group(group).compose(second, first)), rtol=0, atol=1e-5
        )
    for element in elements:
        back = field_type.act(field_type.act(features, element), Group(group).inverse(element))
        torch.testing.assert_close(back, features, rtol=0, atol=1e-5)
        assert element == 0 or float((field_type.act(features, element) - features).abs().max()) > 0.5


@pytest.mark.parametrize(("group", "representation"), TYPES)
def test_matrices_are_those_of_escnn(group, representation):
    number, reflects = int(group[1:]), group[0] == "D"
    space = (gspaces.flipRot2dOnR2 if reflects else gspaces.rot2dOnR2)(number)
    for part in FieldType(group, representation, 1).parts:
        irreducible = (1, part.frequency) if reflects else (part.frequency,)
        theirs = {"trivial": space.trivial_repr, "regular": space.regular_repr}.get(part.representation)
        theirs = theirs or space.irrep(*irreducible)
        for element in range(Group(group).order):
            flip, rotation = Group(group).split(element)
            same = space.fibergroup.element((int(flip), rotation) if reflects else rotation)
            torch.testing.assert_close(part.matrix(element), torch.tensor(theirs(same)).float(), rtol=0, atol=1e-6)


def test_a_turn_that_the_grid_does_not_hold_is_resampled():
    ramp = torch.linspace(-1, 1, 33).expand(1, 1, 33, 33)  # a plane rising to the right
    turned = Group("C8").transform_images(ramp, 1)[
        0, 0, 12:21, 12:21
    ]  # by 45° counter-clockwise: rising to the upper right
    rows, columns = torch.meshgrid(torch.arange(12, 21), torch.arange(12, 21), indexing="ij")
    expected = ((columns - 16) - (rows - 16)) / 16 / 2**0.5
    torch.testing.assert_close(turned, expected, rtol=0, atol=1e-5)
    assert torch.equal(Group("C4").transform_images(ramp, 1)[0, 0, :, 0], torch.linspace(1, -1, 33))


def test_channels_follow_an_angle():
    field_type = FieldType("C8", "regular", 2)
    features = torch.arange(16.0).view(1, 16, 1, 1)
    assert torch.equal(field_type.permute_fields(features, -45.0), field_type.act_on_channels(features, 7))
    assert torch.equal(field_type.permute_fields(features, 450.0), features.roll(4, dims=1))  # 90°: two elements on
    assert field_type.permute_fields(features, 30.0) is None
    assert field_type.permute_fields(features, 45.0, scale=0.5) is None


@pytest.mark.parametrize(
    ("group", "representation", "message"),
    [
        (
            "C8",
            "irreducible",
            "trivial, regular or irrep1 to irrep3, or several joined by \\+, got 'irreducible'",
        ),
        ("C8", "irrep4", "got 'irrep4'"),
        ("C8", "trivial+", "got ''"),
        ("C2", "irrep1", "no irrepK for C2"),
        ("X4", "trivial", "group must be C1 to C16 or D1 to D8, got 'X4'"),
        ("D9", "trivial", "got 'D9'"),
    ],
)
def test_a_bad_setting_is_named(group, representation, message):
    with pytest.raises(UserError, match=message):
        FieldType(group, representation, 1)


def test_an_element_outside_of_the_group_is_refused():
    with pytest.raises(UserError, match="element must be 0 to 7 in D4, got 8"):
        FieldType("D4", "regular", 1).act(torch.zeros(1, 8, 2, 2), 8)


def test_the_exact_elements_are_those_of_the_square():
    assert Group("C8").exact_elements == (0, 2, 4, 6)
    assert Group("C3").exact_elements == (0,)
    assert Group("D4").exact_elements == tuple(range(8))
