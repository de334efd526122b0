# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
import pytest
import torch

from scripts.correspondence.region_masks import RegionMasks


def masks(*shape: int) -> torch.Tensor:
    """Three masks: a soft box, a single voxel in a corner, nothing."""
    found = torch.zeros(3, *shape, dtype=torch.uint8)
    found[0][tuple(slice(2, 5) for _ in shape)] = torch.randint(1, 256, (3,) * len(shape)).to(torch.uint8)
    found[(1, *[-1] * len(shape))] = 7
    return found


@pytest.mark.parametrize("shape", [(9, 8), (9, 8, 7)])
def test_masks_come_back_unchanged(shape):
    given = masks(*shape)
    kept = RegionMasks(given)
    assert torch.equal(kept.whole(), given) and kept.shape == (3, *shape)
    assert len(kept) == 3 and all(torch.equal(a, b) for a, b in zip(kept, given))
    assert torch.equal(kept[-1], given[-1])
    with pytest.raises(IndexError):
        kept[3]


def test_only_the_boxes_are_kept():
    given = masks(9, 8, 7)
    kept = RegionMasks(given)
    assert sum(part.untyped_storage().nbytes() for _, part in kept.parts) == 27 + 1
    given[:] = 0
    assert kept.whole().any()


def test_no_masks():
    assert RegionMasks(torch.zeros(0, 4, 4, dtype=torch.uint8)).whole().shape == (0, 4, 4)
