"""The order is a pure function, shares are partitions, and a position can be resumed."""

from itertools import chain

import pytest
import torch

from symmetry_robustness.data.loaders import (
    EvaluationLoader,
    Split,
    TrainLoader,
    evaluation_slices,
    rank_slice,
    training_order,
)
from symmetry_robustness.errors import UserError
from symmetry_robustness.rng import keyed_generator


def make_split(size: int) -> Split:
    images = torch.arange(size, dtype=torch.uint8)[:, None, None, None].expand(size, 3, 2, 2).contiguous()
    return Split("train", images, torch.arange(size), torch.arange(size))


def labels_of(loader: TrainLoader | EvaluationLoader) -> list[list[int]]:
    return [labels.tolist() for _, labels in loader]


def test_order_depends_on_seed_and_epoch_only() -> None:
    first = training_order(100, 0, 0)
    torch.rand(7)  # the global generator plays no part
    assert torch.equal(first, training_order(100, 0, 0))
    assert not torch.equal(first, training_order(100, 0, 1))
    assert not torch.equal(first, training_order(100, 1, 0))
    assert torch.equal(first.sort().values, torch.arange(100))


def test_generators_of_different_keys_differ() -> None:
    keys = [(0, 0), (0, 1), (1, 0), (0, 0, 1), (0, 1, 1), (0, 0, 0, 3), (2**40, 0)]
    draws = {tuple(torch.rand(4, generator=keyed_generator(*key)).tolist()) for key in keys}
    assert len(draws) == len(keys)


def test_iterating_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    labels_of(TrainLoader(make_split(20), 4, seed=3))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("size", [1, 7, 64, 103])
@pytest.mark.parametrize("world_size", [1, 2, 5, 7])
def test_rank_slices_partition(size: int, world_size: int) -> None:
    shares = [list(range(size))[rank_slice(size, rank, world_size)] for rank in range(world_size)]
    assert list(chain(*shares)) == list(range(size))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_training_steps_do_not_depend_on_the_number_of_ranks(world_size: int) -> None:
    loaders = [TrainLoader(make_split(50), 8, 5, rank, world_size) for rank in range(world_size)]
    steps = [list(chain(*shares)) for shares in zip(*map(labels_of, loaders), strict=True)]
    order = training_order(50, 5, 0).tolist()
    drop = world_size > 50 % 8
    assert steps == [order[start : start + 8] for start in range(0, 48 if drop else 50, 8)]
    assert all(len(loader) == len(steps) for loader in loaders)


def test_last_batch_is_dropped_where_a_rank_would_have_none() -> None:
    assert [len(TrainLoader(make_split(9), 4, 0, 0, world_size)) for world_size in (1, 2)] == [3, 2]


@pytest.mark.parametrize("size", [3, 10, 17, 100, 101])
@pytest.mark.parametrize("batch_size", [1, 3, 16, 1000])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_covers_all_in_order_with_equally_many_batches(size: int, batch_size: int, world_size: int) -> None:
    shares = [evaluation_slices(size, batch_size, rank, world_size) for rank in range(world_size)]
    assert len({len(share) for share in shares}) == 1
    rows = [row for share in shares for part in share for row in range(part.start, part.stop)]
    assert rows == list(range(size))
    assert all(part.start < part.stop for share in shares for part in share)
    limit = max(1, batch_size // world_size)
    # One image more where the smallest share has room for no further batch.
    assert all(part.stop - part.start <= limit + 1 for share in shares for part in share)


def test_evaluation_batch_size_is_respected() -> None:
    sizes = [part.stop - part.start for part in evaluation_slices(10_000, 512, 0, 1)]
    assert max(sizes) <= 512
    assert max(sizes) - min(sizes) <= 1


def test_resume_in_mid_epoch_is_exact() -> None:
    reference = TrainLoader(make_split(30), 4, seed=1)
    reference.set_epoch(2)
    expected = labels_of(reference)

    interrupted = TrainLoader(make_split(30), 4, seed=1)
    interrupted.set_epoch(2)
    iterator = iter(interrupted)
    begun = [next(iterator)[1].tolist() for _ in range(3)]
    state = interrupted.state_dict()

    # Another number of ranks may go on: their shares together are the same steps.
    ranks = [TrainLoader(make_split(30), 4, 1, rank, 2) for rank in range(2)]
    for loader in ranks:
        loader.load_state_dict(state)
        loader.set_epoch(2)
    rest = [list(chain(*shares)) for shares in zip(*map(labels_of, ranks), strict=True)]
    assert begun + rest == expected
    # Only the resumed epoch is short.
    assert len(labels_of(ranks[0])) == len(expected)


def test_another_epoch_forgets_the_position() -> None:
    loader = TrainLoader(make_split(30), 4, seed=1)
    loader.load_state_dict({**loader.state_dict(), "epoch": 1, "position": 5})
    loader.set_epoch(2)
    assert len(labels_of(loader)) == len(loader)


def test_state_of_another_order_is_refused() -> None:
    state = TrainLoader(make_split(30), 4, seed=1).state_dict()
    with pytest.raises(UserError, match="seed=1"):
        TrainLoader(make_split(30), 4, seed=2).load_state_dict(state)


def test_too_many_processes_are_refused() -> None:
    with pytest.raises(UserError, match="fewer processes"):
        EvaluationLoader(make_split(2), 4, 0, 3)
    with pytest.raises(UserError, match="batch_size=2"):
        TrainLoader(make_split(9), 2, 0, 0, 3)


def test_batches_are_copies_of_the_right_images() -> None:
    split = make_split(20)
    for images, labels in TrainLoader(split, 6, seed=0):
        assert images.dtype == torch.uint8
        assert labels.dtype == torch.int64
        assert torch.equal(images[:, 0, 0, 0].long(), labels)
        images.zero_()
    assert torch.equal(split.images[:, 0, 0, 0].long(), torch.arange(20))
