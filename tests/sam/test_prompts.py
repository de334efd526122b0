"""Prompted masks against segment_anything's own predictor, and masks given by the user."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor

from scripts.sam.prompts import EncodedSlices, Prompt, clicked_order, mask_logits
from scripts.sam.suppress import pairwise_overlap

NO_POINTS = torch.zeros(0, 2), torch.zeros(0)


@pytest.fixture(scope="module")
def predictor(bundled, picture) -> SamPredictor:
    predictor = SamPredictor(bundled)
    predictor.set_image(picture[0].permute(1, 2, 0).numpy().astype(np.uint8))
    return predictor


def disk(size: tuple[int, int], x: float, y: float, radius: float) -> torch.Tensor:
    rows, columns = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    return (columns + 0.5 - x) ** 2 + (rows + 0.5 - y) ** 2 < radius**2


@pytest.mark.parametrize("kind", ["point", "points", "box"])
def test_agrees_with_the_packages_predictor(bundled, picture, predictor, kind):
    points = {"point": [[130.0, 92.0]], "points": [[130.0, 92.0], [60.0, 40.0]], "box": []}[kind]
    labels = [1, 0][: len(points)]
    box = [106.0, 71.0, 157.0, 122.0] if kind == "box" else None
    expected, iou, _ = predictor.predict(
        np.array(points) if points else None,
        np.array(labels) if points else None,
        np.array(box) if box else None,
        multimask_output=kind == "point",
    )
    order = np.argsort(-iou)
    asked = (torch.tensor(points), torch.tensor(labels)) if points else NO_POINTS
    found = EncodedSlices(bundled, picture).masks(0, Prompt(*asked, torch.tensor(box) if box else None))
    torch.testing.assert_close(found.predicted_iou, torch.from_numpy(iou[order]), atol=2e-3, rtol=0)
    overlap = pairwise_overlap(found.masks(), torch.from_numpy(expected[order]), "iou").diagonal()
    assert (overlap > 0.97).all()
    for mask, corners in zip(found.masks(), found.boxes):
        y, x = mask.nonzero().T
        assert corners.tolist() == [x.min(), y.min(), x.max(), y.max()]


@pytest.mark.parametrize(("x", "y", "radius"), [(120.0, 90.0, 40.0), (215.0, 175.0, 20.0), (20.5, 101.3, 12.0)])
def test_a_users_mask_comes_back(bundled, picture, x, y, radius):
    # 200 rows fill 79.9 of 96 cells: the last row of cells shows the slice in part only.
    mask = disk((200, 240), x, y, radius)
    empty = EncodedSlices(bundled, picture).empty(0)
    one = torch.ones(1)
    back = empty.with_masks(mask_logits(mask, empty)[None], one, one, torch.zeros(2))
    assert float(pairwise_overlap(back.masks(), mask[None], "iou")) > 0.95
    rows, columns = mask.nonzero().T
    corners = torch.stack([columns.min(), rows.min(), columns.max(), rows.max()]).float()
    torch.testing.assert_close(back.boxes[0], corners, atol=1.0, rtol=0)


def test_of_answers_of_like_quality_the_smaller_comes_first():
    masks = torch.zeros(4, 8, 8, dtype=torch.bool)
    for k, side in enumerate((6, 3, 2, 8)):
        masks[k, :side, :side] = True
    quality = torch.tensor([0.80, 0.75, 0.40, 0.79])
    assert clicked_order(masks, quality).tolist() == [1, 0, 3, 2]  # 2 is the smallest, but far worse
    assert clicked_order(masks[:1], quality[:1]).tolist() == [0]
