"""What the viewer embeds: reduced volumes in place, exact regions, the field to a fraction of a millimetre."""

from __future__ import annotations

import base64
import gzip
import hashlib
import re
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch

from scripts.correspondence.region_masks import RegionMasks
from scripts.correspondence.region_pairs import native_masks
from scripts.data.pair import LoadPair, one_pair
from scripts.report.embedded import FIELD_VOXELS, deformed_grid, viewer_data
from scripts.report.page import VENDOR, niivue, packed, render
from scripts.spatial.geometry import apply_affine
from scripts.spatial.landmark_files import fixed_to_moving
from tests.conftest import smooth_field
from tests.roi.perfect import perfect_registration
from tests.workflow.registered import prepared


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    data = prepared(tmp_path_factory.mktemp("embedded"))
    return data, viewer_data(data["pair"], data["pred"], 48)


def unpacked(text: str) -> bytes:
    return gzip.decompress(base64.b64decode(text))


def displacement(field: dict, points: np.ndarray) -> np.ndarray:
    """Trilinear reading of the embedded numbers, as the page does it."""
    shape = tuple(field["shape"])
    values = np.frombuffer(unpacked(field["data"]), "<i2").reshape(3, *reversed(shape)).transpose(0, 3, 2, 1)
    at = np.clip(apply_affine(np.asarray(field["to_voxel"]), points), 0, np.asarray(shape) - 1)
    low = np.minimum(np.floor(at).astype(int), np.maximum(np.asarray(shape) - 2, 0))
    part, total = at - low, 0
    for corner in np.ndindex(2, 2, 2):
        weight = np.prod(np.where(corner, part, 1 - part), axis=1)
        place = np.minimum(low + corner, np.asarray(shape) - 1)
        total = total + weight * values[:, place[:, 0], place[:, 1], place[:, 2]]
    return total.T * field["scale"]


def test_the_embedded_field_leads_to_the_place_of_the_written_one(case):
    data, shown = case
    pair = data["pair"]
    grid = pair.fixed.geometry
    index = np.random.default_rng(0).uniform(2, np.asarray(grid.shape) - 3, (200, 3))
    points = apply_affine(grid.affine, index)
    expected = fixed_to_moving(points, pair.on_fixed_grid(data["pred"].ddf), grid, pair.transform)
    found = points + displacement(shown["field"], points)
    assert np.linalg.norm(expected - points, axis=1).max() > 3
    assert np.linalg.norm(found - expected, axis=1).max() < 0.1


def test_large_fields_are_embedded_coarser(case):
    data, _ = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scripts.report.embedded.FIELD_VOXELS", 4000)
        field = viewer_data(data["pair"], data["pred"], 64)["field"]
    assert np.prod(field["shape"]) <= 4000 < np.prod(data["pair"].fixed.geometry.shape) < FIELD_VOXELS


def test_volumes_are_small_and_lie_where_the_images_lie(case):
    data, shown = case
    assert set(shown["volumes"]) == {
        "fixed", "moving", "before", "after", "grid", "jacobian", "regions_fixed", "regions_moving",
    }  # fmt: skip
    for role in ("fixed", "moving"):
        volume = getattr(data["pair"], role)
        image = nib.Nifti1Image.from_bytes(unpacked(shown["volumes"][role]))
        assert image.get_data_dtype() == np.uint8 and max(image.shape) <= 48
        corners = apply_affine(image.affine, np.array([[-0.5] * 3, [s - 0.5 for s in image.shape]]))
        low, high = volume.geometry.corners_ras().min(axis=0), volume.geometry.corners_ras().max(axis=0)
        assert (corners.min(axis=0) >= low - 0.1).all() and (corners.max(axis=0) <= high + 0.1).all()
        assert " x ".join(map(str, volume.geometry.shape)) in " ".join(shown["reduced"])
    fixed, before, after = (
        np.asarray(nib.Nifti1Image.from_bytes(unpacked(shown["volumes"][n])).dataobj, float)
        for n in ("fixed", "before", "after")
    )
    inside = after > 0  # nothing is known outside the moving image
    assert inside.mean() > 0.8
    assert np.abs(after - fixed)[inside].mean() < 0.9 * np.abs(before - fixed)[inside].mean()


def test_confidence_is_shown_if_the_registration_has_one(case):
    data, shown = case
    assert set(shown["maps"]) == {"jacobian"}
    pair = data["pair"]
    ramp = torch.linspace(0, 1, pair.working.shape[0]).view(1, 1, -1, 1, 1).expand(1, 1, *pair.working.shape)
    shown = viewer_data(pair, replace(data["pred"], confidence=ramp), 48)
    assert set(shown["maps"]) == {"jacobian", "confidence"}
    image = nib.Nifti1Image.from_bytes(unpacked(shown["volumes"]["confidence"]))
    centres = apply_affine(image.affine, np.argwhere(np.ones(image.shape)))
    at = apply_affine(np.linalg.inv(pair.working.affine), centres)[:, 0] / (pair.working.shape[0] - 1)
    np.testing.assert_allclose(np.asarray(image.dataobj).ravel() / 255, at.clip(0, 1), atol=0.01)


def test_regions_are_the_exact_ones(case):
    data, shown = case
    pair, result = data["pair"], data["pred"]
    masks = result.fixed_masks.whole()
    masks[0] = masks.amax(dim=0)  # contains the other regions
    shown = viewer_data(pair, replace(result, fixed_masks=RegionMasks(masks)), 999)
    part = shown["regions"]["fixed"]
    raw = np.frombuffer(unpacked(part["data"]), np.uint8)
    layers = raw.reshape(-1, *reversed(part["shape"])).transpose(0, 3, 2, 1)
    start = apply_affine(np.asarray(part["to_voxel"]), pair.fixed.geometry.affine[:3, 3]).round().astype(int)
    for k, mask in enumerate(native_masks(masks, pair.working, pair.fixed.geometry, np.eye(4))):
        region = np.argwhere(layers[part["layer"][k]] == k + 1)
        np.testing.assert_array_equal(region - start, np.argwhere(mask))
        inside = apply_affine(np.linalg.inv(pair.fixed.geometry.affine), shown["pairs"][k]["fixed"]).round().astype(int)
        assert mask[tuple(inside)]
    assert shown["smallest_first"]["fixed"][-1] == 1


def test_lines_of_the_deformed_grid_are_straight_until_the_field_bends_them():
    still = deformed_grid(torch.zeros(1, 2, 60, 60))
    assert set(np.flatnonzero(still[:, 1] == 1)) == set(range(0, 60, 6))
    shifted = deformed_grid(torch.full((1, 2, 60, 60), 2.0))
    assert set(np.flatnonzero(shifted[:, 1] == 1)) == set(range(4, 60, 6))
    bent = deformed_grid(smooth_field((60, 60), 3.0))
    assert 0.1 < float(bent.mean()) < 0.5 and not torch.equal(bent, still)


def test_pictures_in_colour_without_a_field_or_pairs(tmp_path):
    from PIL import Image

    rng = np.random.default_rng(1)
    for role in ("moving", "fixed"):
        Image.fromarray(rng.integers(0, 255, (40, 50, 3), np.uint8)).save(tmp_path / f"{role}.png")
    data = one_pair([LoadPair()({r: str(tmp_path / f"{r}.png") for r in ("moving", "fixed")})])
    label = torch.zeros(50, 40)
    shown = viewer_data(data["pair"], perfect_registration(label, label, [1], data["pair"].working), 128)
    assert shown["ndim"] == 2 and shown["field"] is None and shown["regions"] is None and shown["pairs"] == []
    image = nib.Nifti1Image.from_bytes(unpacked(shown["volumes"]["fixed"]))
    assert image.shape == (50, 40, 1) and image.get_data_dtype() == np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
    colours = np.asarray(image.dataobj)[:, :, 0]
    np.testing.assert_array_equal(colours["G"].T, np.asarray(Image.open(tmp_path / "fixed.png"))[..., 1])


def test_the_vendored_viewer_is_the_published_file():
    text = (VENDOR / "niivue.txt").read_text(encoding="utf-8")
    code = gzip.decompress((VENDOR / "niivue.umd.js.gz").read_bytes())
    assert hashlib.sha256(code).hexdigest() == re.search(r"SHA-256:\s+([0-9a-f]{64})", text)[1]
    assert "BSD 2-Clause" in text and unpacked(niivue()[0]) == code
    assert (VENDOR / "niivue.umd.js.gz").stat().st_size < 2**20


def test_values_are_escaped():
    with pytest.raises(Exception, match="undefined"):
        render("case.html.j2", title="x")
    assert unpacked(packed(b"bytes")) == b"bytes"
