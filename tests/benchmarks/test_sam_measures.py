"""What the benchmark of SAM measures, against known answers."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch

from scripts.benchmarks.models import sam_measures, sam_rank, sam_slices
from scripts.benchmarks.models.sam_measures import PointAnswer, correlation, coverage, point_answers
from scripts.benchmarks.models.sam_rank import (
    Rank,
    Ranking,
    Sought,
    candidate_masks,
    chance,
    largest_slices,
    mean_reciprocal,
)
from scripts.benchmarks.models.sam_slices import LabelledSlice, cut, heart_slices, some
from scripts.benchmarks.models.textures import TEXTURES, repaint
from scripts.data.phantoms.cardiac import cardiac_pair
from scripts.data.reader import Volume
from scripts.data.splits import evenly
from scripts.roi.region_filter import RegionFilter
from scripts.sam.everything import encode
from scripts.sam.slice_masks import SliceMasks
from scripts.spatial.geometry import Geometry

SIDE = 64


def heart(label: torch.Tensor | None = None) -> LabelledSlice:
    """A ring (myocardium) round a disc (left ventricle), and a bar beside it (right ventricle)."""
    if label is None:
        y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
        radius = ((y - 32) ** 2 + (x - 40) ** 2).float().sqrt()
        label = torch.zeros(SIDE, SIDE, dtype=torch.int16)
        label[radius < 14], label[radius < 8] = 2, 3
        label[20:44, 8:22] = 1
    return LabelledSlice("heart", "made", 0, (label * 60).float().expand(3, -1, -1), label)


def masks_of(masks: torch.Tensor, predicted: list[float]) -> SliceMasks:
    """Masks (K, SIDE, SIDE) bool in the form of the model, exact because a cell is a pixel."""
    empty = SliceMasks.empty(torch.rand(4, SIDE // 4, SIDE // 4), (SIDE, SIDE), SIDE, (SIDE, SIDE), 0.0)
    return empty.with_masks(masks.float() * 2 - 1, torch.tensor(predicted), torch.ones(len(masks)), torch.zeros(2))


def test_slices_keep_image_and_label_together():
    """A label made by thresholding the image still matches it after windowing, turning and cropping."""
    rng = np.random.default_rng(0)
    image = (rng.random((60, 50, 4)) > 0.5).astype(np.float32) * 100
    geometry = Geometry((60, 50, 4), np.diag([-1.0, 1.0, 5.0, 1.0]) @ np.eye(4))
    volumes = Volume(image[None], geometry, "image"), Volume((image > 50)[None].astype(np.uint8), geometry, "label")
    for crop, size in ((0, (50, 60)), (32, (32, 32))):
        slices = cut("heart", "someone", *volumes, "mr", crop)
        assert [one.position for one in slices] == [0, 1, 2, 3]
        for one in slices:
            assert one.label.shape == size
            assert torch.equal(one.picture[0] > 127, one.label == 1)
    assert set(heart().structures()) == {1, 2, 3}
    assert set(heart().structures(0.07)) == {1, 2}  # the disc has 4.8 % of the slice, the ring 10 %, the bar 8 %


def test_evenly_and_some():
    assert evenly(list(range(10)), 0) == list(range(10))
    assert evenly(list(range(10)), 2) == [2, 7]
    blank = heart(torch.zeros(SIDE, SIDE, dtype=torch.int16))
    assert len(some([[heart(), blank], [blank]], 0)) == 1


def test_point_answers_are_the_ious_of_the_masks(monkeypatch):
    """Three masks: the ring, the ring with its disc, and a bar elsewhere."""
    one = heart()
    ring, whole, bar = one.label == 2, (one.label == 2) | (one.label == 3), one.label == 1

    class Stand:
        def __init__(self, sam, stack):
            pass

        def masks(self, position, prompt):
            column, row = (prompt.points[0] - 0.5).long().tolist()
            assert one.label[row, column] in (1, 2, 3)  # the point lies in the intended structure
            return masks_of(torch.stack([ring, whole, bar]), [0.9, 0.8, 0.1])

    monkeypatch.setattr(sam_measures, "EncodedSlices", Stand)
    answers = {a.value: a for a in point_answers(None, one, 1, np.random.default_rng(0))}
    assert answers[2].best == 1.0
    # The ring with its disc is a union that contains the point; the bar has only the whole heart in common with it.
    everyone = int((one.label > 0).sum())
    assert answers[2].true == pytest.approx((1.0, 1.0, int(bar.sum()) / everyone))
    assert answers[1].true == pytest.approx((int(ring.sum()) / everyone, int(whole.sum()) / everyone, 1.0))
    assert answers[3].best == pytest.approx(float((one.label == 3).sum() / whole.sum()))
    assert answers[2].predicted == pytest.approx((0.9, 0.8, 0.1))


def test_correlation_is_pearsons():
    rng = np.random.default_rng(0)
    predicted, true = rng.random((2, 5, 3))
    answers = [PointAnswer(1, 0.5, tuple(p), tuple(t)) for p, t in zip(predicted, true)]
    assert correlation(answers) == pytest.approx(np.corrcoef(predicted.ravel(), true.ravel())[0, 1])
    assert np.isnan(correlation([PointAnswer(1, 0.5, (0.4, 0.4, 0.4), (0.1, 0.2, 0.3))]))


def test_coverage_before_and_after_the_filter():
    one = heart()
    shifted = (one.label == 1).roll(4, 1)  # IoU 10 / 18 with the bar
    everything = lambda sam, stack: [masks_of(torch.stack([one.label == 2, shifted]), [0.9, 0.8])]  # noqa: E731
    found = coverage(None, one, everything, RegionFilter(0.0, 0.09, 0.8, "iou", 1.0), 0.005)
    assert found[2] == (1.0, 0.0)  # the filter drops the ring, 10 % of the slice
    assert found[1] == pytest.approx((10 / 18, 10 / 18))
    assert found[3] == (0.0, 0.0)
    assert coverage(None, one, None, None, 0.5) == {}  # nothing that large: the model is not run


def test_candidates_are_the_structures_and_their_surroundings():
    values, masks = candidate_masks(heart())
    assert values[:3] == [1, 2, 3] and set(values[3:]) <= {0}
    named = heart().label > 0
    for mask in masks[3:]:
        assert (mask & named).sum() * 2 < mask.sum()
        assert 0.001 <= mask.float().mean() <= 0.175


def test_prototypes_are_means_of_the_embedding(bundled, picture):
    masks = torch.zeros(2, 200, 240, dtype=torch.bool)
    masks[0, :100, :120], masks[1, 60:140, 80:200] = True, True
    one = LabelledSlice("heart", "made", 0, picture[0], masks[0].short())
    found = sam_rank.prototypes(bundled, one, masks)
    embedding, _ = encode(bundled, picture)
    inner = embedding[0, :, :20]  # 200 of 240 rows fill 20 of 24 tokens
    torch.testing.assert_close(found[0], inner[:, :10, :12].mean(dim=(1, 2)), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found[1], inner[:, 6:14, 8:20].mean(dim=(1, 2)), rtol=1e-3, atol=1e-3)


def test_ranks(monkeypatch):
    """Features that tell the structures apart rank the partner first; random ones perform at chance."""
    moving, fixed = heart(), heart()
    masks = torch.stack(list(fixed.structures().values()))
    monkeypatch.setattr(sam_rank, "candidate_masks", lambda one: ([1, 2, 3], masks))
    monkeypatch.setattr(sam_rank, "prototypes", lambda sam, one, masks: torch.eye(3))
    ranks = [Ranking(None)(Sought(v, moving, fixed)) for v in (1, 2, 3)]
    assert [(r.rank, r.partner, r.rival, r.candidates) for r in ranks] == [(1, 1.0, 0.0, 3)] * 3
    swapped = iter([torch.eye(3), torch.eye(3)[[1, 0, 2]]])
    monkeypatch.setattr(sam_rank, "prototypes", lambda sam, one, masks: next(swapped))
    ranking = Ranking(None)
    found = [ranking(Sought(v, moving, fixed)).rank for v in (1, 2, 3)]
    assert found == [3, 3, 1]  # ties count as wrong: an undecided answer is not a right one
    torch.manual_seed(0)
    monkeypatch.setattr(sam_rank, "prototypes", lambda sam, one, masks: torch.rand(3, 5))
    lots = [Ranking(None)(Sought(2, moving, fixed)) for _ in range(1500)]
    assert mean_reciprocal(lots) == pytest.approx(chance(lots), abs=0.03)
    assert chance([Rank(1, 1, 3, 1.0, 0.0)]) == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)


def test_pairs_of_subjects_use_the_largest_slice():
    small = heart(heart().label.clone().masked_fill(heart().label != 3, 0))
    sought = largest_slices([[small, heart()], [heart()]])
    assert sorted(s.value for s in sought) == [1, 1, 2, 2, 3, 3]
    assert all(s.moving is not s.fixed for s in sought)


def test_repainted_phantoms_have_new_textures():
    tissue = cardiac_pair(2, (96, 96), (2.2, 2.2)).moving_tissue.T
    pictures = {name: repaint(tissue, name, 0).astype(float) for name in TEXTURES}
    inside = [tissue == v for v in np.unique(tissue) if v and (tissue == v).sum() > 100]
    assert len(inside) >= 5
    for name, picture in pictures.items():
        np.testing.assert_array_equal(picture, repaint(tissue, name, 0))
        means = np.sort([picture[mask].mean() for mask in inside])
        assert np.diff(means).max() > 10  # tissues differ
        relative = [picture[mask].std() / picture[mask].mean() for mask in inside]
        assert 0.05 < np.median(relative) < 0.8, name  # and have a texture
        assert picture[tissue == 0].mean() < 20


def test_slices_of_a_patient_folder(tmp_path):
    """Both phases of an ACDC folder, with the label map that belongs to each."""
    folder = tmp_path / "acdc" / "patient900"
    folder.mkdir(parents=True)
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "acdc.json").write_text('{"validation": ["patient900"]}')
    (folder / "Info.cfg").write_text("ED: 1\nES: 12\nGroup: NOR\n")
    for frame, value in ((1, 3), (12, 1)):
        label = np.zeros((20, 24, 3), np.uint8)
        label[5:15, 5:15] = value
        for end, data in (("", label * 50.0 + np.arange(3)), ("_gt", label)):
            nib.save(nib.Nifti1Image(data, np.diag([1, 1, 9, 1])), folder / f"patient900_frame{frame:02d}{end}.nii.gz")
    images = list(heart_slices(str(tmp_path)))
    assert [image[0].subject for image in images] == ["patient900 ED", "patient900 ES"]
    assert [set(image[1].structures()) for image in images] == [{3}, {1}]


def test_phantom_slices_are_labelled():
    images = list(sam_slices.phantom_slices(2))
    assert [image[0].kind for image in images] == ["heart", "heart", "abdomen", "abdomen"]
    assert any(set(one.structures()) == {1, 2, 3} for one in images[0])
    assert images[2][3].label.unique().numel() > 5
