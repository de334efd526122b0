"""Metrics assembled from stages, in slabs and boxes, equal a direct computation on the whole volume."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance
from scipy.ndimage import find_objects

from scripts.metrics import assembly, jacobian
from scripts.metrics.assembly import common_values, field_metrics, label_metrics, landmark_metrics, mean_known, plain
from scripts.metrics.overlap import assd, bounding_box, bounding_boxes, hd95
from scripts.metrics.tables import flat_metrics, mean_sd, summarise_rows
from tests.conftest import smooth_field


def determinant_whole(ddf: torch.Tensor) -> torch.Tensor:
    """The determinant from numpy's gradient of the whole field."""
    n = ddf.shape[1]
    field = ddf[0].double().numpy()
    matrix = np.stack([np.stack(np.gradient(field[i]), axis=-1) for i in range(n)], axis=-2) + np.eye(n)
    return torch.from_numpy(np.linalg.det(matrix))[None]


@pytest.mark.parametrize("shape", [(9, 8), (9, 8, 7)])
@pytest.mark.parametrize("slab_voxels", [1, 130, 10**6])
def test_slabs_give_the_determinant_of_the_whole_field(shape, slab_voxels, monkeypatch):
    monkeypatch.setattr(jacobian, "SLAB_VOXELS", slab_voxels)
    ddf = smooth_field(shape, 2.0)
    det = determinant_whole(ddf)
    torch.testing.assert_close(jacobian.jacobian_determinant(ddf.double()), det)
    for margin in (0, 2):
        inner = det[(slice(None), *[slice(margin, s - margin) for s in shape])]
        found = jacobian.regularity(ddf, margin)
        assert found["folds_percent"] == pytest.approx(float((inner <= 0).double().mean() * 100))
        assert found["sdlogj"] == pytest.approx(float((inner + 3).clamp(1e-9, 1e9).log().std()), rel=1e-9)
        assert found["sdlogj_plain"] == pytest.approx(float(inner.clamp(1e-9, 1e9).log().std()), rel=1e-9)


def test_surface_distances_in_a_box_equal_those_of_the_whole_volume():
    """Structures in the middle and at the border of the volume, where an edge has no neighbours."""
    a, b = torch.zeros(24, 20, 16, dtype=torch.int32), torch.zeros(24, 20, 16, dtype=torch.int32)
    a[4:9, 5:9, 3:8], b[5:11, 5:10, 2:8] = 1, 1
    a[18:24, 0:4, 10:16], b[17:23, 0:5, 11:16] = 2, 2
    spacing = (1.0, 2.0, 3.0)
    options = {"include_background": True, "spacing": list(spacing)}
    for value in (1, 2):
        x, y = (a == value)[None, None], (b == value)[None, None]
        whole = float(compute_hausdorff_distance(x, y, percentile=95, **options))
        assert hd95(a, b, [value], spacing)[value] == pytest.approx(whole)
        whole = float(compute_average_surface_distance(x, y, symmetric=True, **options))
        assert assd(a, b, [value], spacing)[value] == pytest.approx(whole)
    assert bounding_box(a == 2, margin=0) == (slice(18, 24), slice(0, 4), slice(10, 16))


@pytest.mark.parametrize("shape", [(9, 7), (6, 8, 5)])
def test_boxes_equal_those_of_scipy(shape):
    masks = torch.rand(20, *shape, generator=torch.Generator().manual_seed(0)) > 0.97
    masks[3] = False
    expected = [find_objects(mask.numpy().view(np.uint8), 1) for mask in masks]
    expected = [found[0] if found and found[0] else (slice(0, 0),) * len(shape) for found in expected]
    assert bounding_boxes(masks) == bounding_boxes(masks.to(torch.uint8) * 200) == expected
    assert bounding_boxes(masks[:0]) == []


def test_stages_and_values():
    fixed = np.zeros((8, 8), np.uint8)
    fixed[2:5, 2:5], fixed[6, 6] = 1, 9
    moving = np.roll(fixed, 1, axis=0)
    moving[moving == 9] = 7
    assert common_values(moving, fixed) == [1]
    found = label_metrics([("initial", moving), ("final", fixed)], fixed, [1, 3], (2.0, 1.0))
    assert set(found) == set(assembly.LABEL_METRICS)
    assert found["dice"]["initial"][1] == pytest.approx(2 * 6 / 18) and found["dice"]["final"][1] == 1
    assert found["centroid_mm"]["initial"]["mean"] == pytest.approx(2.0)
    assert math.isnan(found["hd95_mm"]["final"][3]) and plain(found)["hd95_mm"]["final"]["3"] is None


def test_a_new_measure_is_one_line(monkeypatch):
    """What the contributing guide describes."""
    monkeypatch.setitem(
        assembly.LABEL_METRICS,
        "voxels_apart",
        lambda a, b, values, mm: {v: float(((a == v) ^ (b == v)).sum()) for v in values},
    )
    fixed = np.zeros((4, 4), np.uint8)
    fixed[0] = 1
    assert label_metrics([("final", fixed * 0)], fixed, [1], (1, 1))["voxels_apart"]["final"] == {1: 4.0, "mean": 4.0}


def test_landmarks_and_displacements():
    points = np.zeros((20, 3))
    found = landmark_metrics([("initial", points + np.array([0.0, 3.0, 4.0]))], points)["tre_mm"]["initial"]
    assert found == {"mean": 5.0, "sd": 0.0, "max": 5.0, "p95": 5.0, "n": 20}
    ddf = torch.zeros(1, 2, 40, 3)
    ddf[0, 0, 30], ddf[0, 1, 30] = 1.5, 2.0
    field = field_metrics(ddf, (2.0, 2.0))["field"]
    assert field["max_displacement_mm"] == pytest.approx(5.0)
    assert field["mean_displacement_mm"] == pytest.approx(5.0 / 40)


def test_rows_of_a_table():
    metrics = {
        "dice": {"initial": {"1": 0.5, "7": 0.25, "mean": 0.4}, "aligned": {"1": 0.6, "7": None, "mean": 0.6}},
        "tre_mm": {"initial": {"mean": 5.0}, "final": {"mean": 2.0}},
        "region_dice": {"initial": {"1": 0.2, "mean": 0.2}, "final": {"1": 0.9, "mean": 0.9}},
        "field": {"sdlogj": 0.1},
        "inverse": {"residual": {"mean_mm": 0.1}},
    }
    flat = flat_metrics(metrics, {"1": "left ventricle"})
    assert flat["dice/left ventricle/initial"] == 0.5 and flat["dice/7/initial"] == 0.25
    assert flat["dice/mean/final"] == flat["dice/mean/aligned"] == 0.6 and "dice/7/aligned" not in flat
    assert flat["tre_mm/mean/final"] == 2.0 and flat["field/sdlogj"] == 0.1
    assert not any(key.startswith(("inverse", "region_dice/1")) for key in flat)
    assert flat["region_dice/mean/final"] == 0.9
    assert mean_sd([1.0, 3.0]) == {"mean": 2.0, "sd": 1.0, "n": 2}
    rows = [{"name": "a", "x": 1.0}, {"name": "b", "x": None, "y": 2.0}]
    assert summarise_rows(rows, ["name"]) == {
        "x": {"mean": 1.0, "sd": 0.0, "n": 1},
        "y": {"mean": 2.0, "sd": 0.0, "n": 1},
    }
    assert mean_known([1.0, math.nan, 3.0]) == 2.0 and math.isnan(mean_known([]))
