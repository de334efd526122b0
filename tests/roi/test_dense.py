"""The dense field: known displacements are found, nothing folds, memory groups change nothing."""

from __future__ import annotations

import pytest
import torch

from scripts.benchmarks.speed.dense import plain_loop, roi_dice, roi_loss
from scripts.common.errors import InputError
from scripts.metrics.jacobian import regularity
from scripts.metrics.overlap import dice
from scripts.roi import pair_loss
from scripts.roi.centroids import fit_centroids
from scripts.roi.dense import DenseSettings, level_shapes, roi_to_dense
from scripts.roi.image_terms import image_term
from scripts.roi.level import gaussian_smooth
from scripts.roi.pair_loss import PairLoss
from scripts.spatial.warp import warp


def disc(shape, centre, radius) -> torch.Tensor:
    grid = torch.stack(torch.meshgrid(*[torch.arange(s, dtype=torch.float32) for s in shape], indexing="ij"))
    distance = (grid - torch.tensor(centre).view(-1, *[1] * len(shape))).norm(dim=0)
    return ((radius - distance + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)


def scene(shape, shift, grow) -> tuple[torch.Tensor, torch.Tensor]:
    """Moving and fixed discs; the fixed ones are shifted back and larger."""
    n = len(shape)
    centres = [[s * f for s in shape] for f in (0.35, 0.62)]
    moving = torch.stack([disc(shape, c, 6.0) for c in centres])
    fixed = torch.stack([disc(shape, [v - shift * (i == 0) for i, v in enumerate(c)], 6.0 * grow) for c in centres])
    assert moving.shape[1:] == shape and n in (2, 3)
    return moving, fixed


@pytest.mark.parametrize("shape", [(48, 44), (40, 36, 28)])
@pytest.mark.parametrize("diffeomorphic", [True, False])
def test_regions_meet(shape, diffeomorphic):
    moving, fixed = scene(shape, 4.0, 1.3)
    settings = DenseSettings(smoothness=0.3, diffeomorphic=diffeomorphic)
    result = roi_to_dense(moving, fixed, [1.5] * len(shape), settings)
    warped = warp(moving[None].float() / 255, result.ddf, padding="zeros")[0]
    before, after = (float(roi_loss(m, fixed / 255).mean()) for m in (moving / 255, warped))
    assert after < 0.15 < 0.4 < before
    assert regularity(result.ddf)["folds_percent"] == 0


def test_pure_shift_is_recovered_by_the_start():
    shape = (60, 50)
    moving, fixed = scene(shape, 8.0, 1.0)
    spacing = torch.tensor([2.0, 1.0])
    centroids = torch.tensor([[21.0, 17.5], [37.2, 31.0]])
    start = fit_centroids((centroids + 0.5) * spacing, (centroids - torch.tensor([8.0, 0]) + 0.5) * spacing,
                          torch.ones(2), 120.0)  # fmt: skip
    torch.testing.assert_close(start, torch.tensor([[1.0, 0, 16.0], [0, 1.0, 0]]), atol=1e-3, rtol=0)
    result = roi_to_dense(moving, fixed, spacing.tolist(), DenseSettings(steps=2), start=start)
    assert result.start_used
    torch.testing.assert_close(result.ddf[:, 0].mean(), torch.tensor(8.0), atol=0.3, rtol=0)
    wrong = torch.tensor([[1.0, 0, -60.0], [0, 1.0, 0]])
    assert not roi_to_dense(moving, fixed, spacing.tolist(), DenseSettings(steps=1), start=wrong).start_used


def test_regions_overlap_no_less_than_after_plain_steps_on_the_full_grid():
    moving, fixed = scene((48, 44), 3.0, 1.25)
    settings = DenseSettings(smoothness=3.0, sigma=0.7, steps=60)
    before = roi_dice(moving, fixed, None)
    plain = roi_dice(moving, fixed, plain_loop(moving, fixed, (1.0, 1.0), settings.smoothness, 2000))
    ours = roi_dice(moving, fixed, roi_to_dense(moving, fixed, (1.0, 1.0), settings).ddf)
    assert before < 0.75 < plain <= ours


@pytest.mark.parametrize("shape", [(40, 38), (26, 24, 8)])
def test_regions_that_lie_on_each_other_stay(shape):
    """Also their borders, where a voxel is covered in part."""
    moving = scene(shape, 0.0, 1.0)[0]
    assert roi_to_dense(moving, moving.clone(), [1.0] * len(shape)).ddf.abs().max() < 0.01


@pytest.mark.parametrize("group", [500_000, 1000])
@pytest.mark.parametrize("shape", [(32, 30), (20, 18, 7), (24, 22, 1), (3, 40)])
def test_a_list_of_the_voxels_that_reach_a_mask_has_the_loss_and_gradient_of_whole_masks(shape, group, monkeypatch):
    monkeypatch.setattr(pair_loss, "GROUP_VOXELS", group)  # all pairs at once, and in several groups
    generator = torch.Generator().manual_seed(1)
    moving = (torch.rand(4, *shape, generator=generator) * 255).to(torch.uint8)
    fixed = (torch.rand(4, *shape, generator=generator) * 255).to(torch.uint8)
    for k, mask in enumerate(moving):
        mask[: 3 * k] = 0
        mask[..., : k * shape[-1] // 5] = 0
        mask[3 * k + 9 :] = 0
    moving[3] = 0  # an empty mask
    ddf = torch.randn(1, len(shape), *shape, generator=generator) * 4 - 2
    gradient = torch.zeros_like(ddf)
    weights = torch.tensor([1.0, 0.5, 2.0, 1.0])
    found = PairLoss(moving, fixed, weights)(ddf, gradient)
    leaf = ddf.clone().requires_grad_()
    warped = warp(moving[None].float() / 255, leaf, padding="zeros")[0]
    whole = (weights * roi_loss(warped, fixed / 255)).sum()
    whole.backward()
    assert found == pytest.approx(whole.item(), rel=1e-5)
    torch.testing.assert_close(gradient, leaf.grad, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("shape", [(32, 30), (20, 18, 7)])
def test_excluded_voxels_count_in_neither_mask(shape):
    generator = torch.Generator().manual_seed(2)
    moving, fixed = ((torch.rand(3, *shape, generator=generator) * 255).to(torch.uint8) for _ in range(2))
    valid = [torch.ones(shape), torch.ones(shape)]
    valid[0][4:9], valid[1][:, 6:12] = 0, 0
    ddf = torch.randn(1, len(shape), *shape, generator=generator) * 2
    gradient = torch.zeros_like(ddf)
    found = PairLoss(moving, fixed, valid=tuple(valid))(ddf, gradient)
    leaf = ddf.clone().requires_grad_()
    look = valid[1] * warp(valid[0][None, None], ddf)[0]
    whole = roi_loss(warp(moving[None].float() / 255, leaf, padding="zeros")[0] * look, fixed / 255 * look).sum()
    whole.backward()
    assert found == pytest.approx(whole.item(), rel=1e-5)
    torch.testing.assert_close(gradient, leaf.grad, atol=1e-6, rtol=1e-4)
    for mask, weight in ((moving, valid[0]), (fixed, valid[1])):
        other = torch.where(weight > 0, mask, 255 - mask)
        # Beside the excluded voxels of the moving mask, the mask is interpolated with theirs.
        pair = (other, fixed) if mask is moving else (moving, other)
        still = torch.zeros_like(ddf)
        assert PairLoss(*pair, valid=tuple(valid))(still) == pytest.approx(
            PairLoss(moving, fixed, valid=tuple(valid))(still), rel=1e-6
        )


def test_image_term_alone_and_hybrid():
    moving, fixed = scene((48, 44), 3.0, 1.0)
    texture = gaussian_smooth(torch.randn(1, 1, 48, 44, generator=torch.Generator().manual_seed(0)), [2.0, 2.0])[0]
    images = (
        moving.float().sum(0, keepdim=True) / 255 + texture,
        fixed.float().sum(0, keepdim=True) / 255 + torch.roll(texture, -3, 1),
    )
    none = torch.zeros(0, 48, 44, dtype=torch.uint8)
    result = roi_to_dense(
        none, none, (1, 1), DenseSettings(image_weight=1.0, image_term="lncc", smoothness=0.5), images=images
    )
    inner = result.ddf[0, 0, 12:-12, 12:-12]
    assert float(inner.median()) == pytest.approx(3.0, abs=0.6)
    with pytest.raises(ValueError, match="neither a pair"):
        roi_to_dense(none, none, (1, 1), DenseSettings(image_weight=1.0))


def test_best_state_is_returned_and_levels_stop():
    moving, fixed = scene((32, 30), 3.0, 1.0)
    result = roi_to_dense(moving, fixed, (1, 1), DenseSettings(steps=200, learning_rate=1.5, patience=5))
    assert all(len(level) < 200 for level in result.history)
    warped = warp(moving[None].float() / 255, result.ddf, padding="zeros")[0]
    assert float(roi_loss(warped, fixed / 255).sum()) <= min(result.history[-1]) + 0.05


def test_a_first_step_uphill_does_not_end_the_search():
    # The first Adam step is as long for every voxel, and many small regions want to go different ways.
    generator = torch.Generator().manual_seed(3)
    shape = (96, 96)
    centres = [(12.0 + 18 * i, 12.0 + 18 * j) for i in range(5) for j in range(5)]
    moving = torch.stack([disc(shape, c, 3.0) for c in centres])
    shifts = (torch.rand(25, 2, generator=generator) * 6 - 3).tolist()
    fixed = torch.stack([disc(shape, [c + d for c, d in zip(cs, ds)], 3.0) for cs, ds in zip(centres, shifts)])
    settings = DenseSettings(smoothness=1.0, learning_rate=2.0, patience=4)
    coarse = roi_to_dense(moving, fixed, (1, 1), settings).history[0]
    assert min(coarse[1 : settings.patience + 1]) > coarse[0]  # uphill for as long as the patience
    assert min(coarse) < coarse[0]


@pytest.mark.parametrize("shape", [(24, 20), (24, 20, 4)])
def test_masks_that_are_empty_or_out_of_reach_have_no_gradient(shape):
    ddf, empty = torch.zeros(1, len(shape), *shape), torch.zeros(1, *shape, dtype=torch.uint8)
    square = empty.clone()
    square[:, 3:9, 3:9] = 255
    gradient = torch.zeros_like(ddf)
    assert PairLoss(empty, empty)(ddf, gradient) == pytest.approx(0, abs=1e-6)
    missed = 1 + float((square > 0).float().mean())
    assert PairLoss(square, square)(ddf + 100, gradient) == pytest.approx(missed, rel=1e-4)
    assert not gradient.any()


def test_the_finest_level_may_take_fewer_steps():
    none, images = torch.zeros(0, 40, 36, dtype=torch.uint8), (noise(0, (40, 36)), noise(1, (40, 36)))
    seen = []
    settings = DenseSettings(image_weight=100.0, levels=3, steps=6, fine_share=0.25)
    found = roi_to_dense(none, none, (1, 1), settings, images=images, progress=lambda steps, _: seen.append(steps))
    assert [len(losses) for losses in found.history] == settings.level_steps == [6, 6, 2]
    assert sum(seen) == 14


def test_levels_leave_thick_slices_alone():
    shapes = level_shapes((128, 128, 10), (1.5, 1.5, 8.0), DenseSettings())
    assert shapes == [(32, 32, 10), (64, 64, 10), (128, 128, 10)]
    big = level_shapes((256, 256, 256), (1.0, 1.0, 1.0), DenseSettings(max_voxels=10**6))
    assert 0.7e6 < big[-1][0] ** 3 <= 1e6
    many = level_shapes((256, 256, 256), (1.0, 1.0, 1.0), DenseSettings(max_work=10**7), pairs=100)
    assert 0.7e5 < many[-1][0] ** 3 <= 1e5
    assert level_shapes((256, 256, 256), (1.0, 1.0, 1.0), DenseSettings(), pairs=10**6)[-1] == (8, 8, 8)


def test_outlier_pairs_lose_their_influence():
    generator = torch.Generator().manual_seed(0)
    fixed = torch.rand(12, 3, generator=generator) * 200
    moving = fixed + torch.tensor([5.0, -3.0, 2.0])
    moving[0] += torch.tensor([90.0, 40.0, 0.0])
    start = fit_centroids(moving, fixed, torch.ones(12), 200.0)
    carried = fixed[1:] @ start[:, :3].T + start[:, 3]
    assert float((carried - moving[1:]).norm(dim=1).mean()) < 2.5


def test_labels_follow():
    moving, fixed = scene((40, 36, 28), 3.0, 1.2)
    result = roi_to_dense(moving, fixed, (1.0, 1.0, 1.0), DenseSettings(smoothness=0.3))
    label = (moving[0] > 127).float()
    moved = warp(label[None, None], result.ddf, "nearest")[0, 0].long()
    truth = (fixed[0] > 127).long()
    assert dice(moved, truth, [1])[1] > dice(label.long(), truth, [1])[1] + 0.15


@pytest.mark.parametrize(
    "fields", [{"smoothness": -1}, {"image_weight": -0.5}, {"levels": 0}, {"steps": 0}, {"fine_share": 1.5}]
)
def test_bad_settings(fields):
    with pytest.raises(InputError, match=str(next(iter(fields.values())))):
        DenseSettings(**fields)
    with pytest.raises(ValueError, match=r"\(1, 4, 4\) and \(2, 4, 4\)"):
        roi_to_dense(torch.zeros(1, 4, 4), torch.zeros(2, 4, 4), (1, 1))


def noise(seed: int, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.rand(1, *shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("excluded", [False, True])
def test_intensities_join_the_descriptors_of_one_contrast_only(excluded):
    shape = (28, 24)
    moving = gaussian_smooth(noise(0, shape)[None], [2.0, 2.0])[0] * 4 - 1.5
    fixed = moving + 0.02 * noise(1, shape)
    valid = (torch.ones(shape), torch.ones(shape)) if excluded else None
    if excluded:
        valid[0][:5] = 0
    ddf = 2 * torch.randn(1, 2, *shape, generator=torch.Generator().manual_seed(2))
    plain, both = (image_term((moving, fixed), (1, 1), "mind", 3.0, valid, intensity=a) for a in (0.0, 4.0))
    look = torch.ones(1, 1, *shape) if valid is None else warp(valid[0][None, None], ddf) * valid[1]
    apart = ((warp(moving[None], ddf) - fixed[None]).square() * look).sum() / look.sum()
    assert both(ddf) == pytest.approx(plain(ddf) + 3 * 4 * apart.item(), rel=1e-4)
    other = image_term((moving, 1 - fixed), (1, 1), "mind", 3.0, valid, intensity=4.0)
    assert other(ddf) == pytest.approx(plain(ddf), rel=1e-3)


def test_a_wider_gaussian_gives_smoother_steps():
    shape = (40, 36)
    none, images = torch.zeros(0, *shape, dtype=torch.uint8), (noise(0, shape), noise(1, shape))
    fields = [
        roi_to_dense(none, none, (1, 1), DenseSettings(image_weight=100, levels=1, steps=2, sigma=s), images=images).ddf
        for s in (0.7, 1.2)
    ]
    narrow, wide = (regularity(ddf)["sdlogj"] for ddf in fields)
    assert 0 < wide < 0.7 * narrow
