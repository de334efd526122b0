"""Initial alignment: a known transform is found again, files are read in both forms."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from scripts.data.phantoms.abdomen import abdomen_pair
from scripts.data.phantoms.cardiac import cardiac_pair
from scripts.spatial.affine import align, read_linear
from scripts.spatial.geometry import LPS, Geometry, apply_affine, resample
from scripts.spatial.likeness import Scan
from tests.conftest import oblique, rotation


def moved_copy(image: np.ndarray, geometry: Geometry, truth: np.ndarray, target: Geometry) -> np.ndarray:
    """The fixed image whose voxels show the moving image at ``truth`` times their own place."""
    values = torch.from_numpy(image)[None]
    return resample(values, geometry, target, truth, fill=float(image.min()))[0].numpy()


@pytest.mark.parametrize("ndim", [2, 3])
def test_affine_is_found_again(ndim):
    if ndim == 2:
        pair = cardiac_pair(1, (110, 120), (1.6, 1.5))
        center = (6.0, -4.0, 0.0)
    else:
        pair = abdomen_pair(1, (60, 48, 40), (6.0, 6.0, 6.0))
        center = (15.0, -10.0, 12.0)
    geometry = Geometry(pair.moving.shape, pair.moving_affine)
    truth = np.eye(4)
    truth[:3, :3] = rotation((0, 0, 1), 7) @ np.diag([1.06, 0.95, 1.0])
    truth[:3, 3] = center
    fixed = moved_copy(pair.moving, geometry, truth, geometry)
    found = align(Scan(fixed, geometry), Scan(pair.moving, geometry), "affine").matrix
    points = apply_affine(
        geometry.affine, np.random.default_rng(0).uniform(0.3, 0.7, (20, 3)) * [*pair.moving.shape, 0][:3]
    )
    error = np.linalg.norm(apply_affine(found, points) - apply_affine(truth, points), axis=1).mean()
    before = np.linalg.norm(points - apply_affine(truth, points), axis=1).mean()
    assert error < 0.15 * before


def test_the_same_images_give_the_same_affine():
    pair = abdomen_pair(4, (60, 48, 40), (6.0, 6.0, 6.0))
    moving, fixed = (
        Geometry(i.shape, a) for i, a in ((pair.moving, pair.moving_affine), (pair.fixed, pair.fixed_affine))
    )
    found = {align(Scan(pair.fixed, fixed), Scan(pair.moving, moving), "affine").matrix.tobytes() for _ in range(2)}
    assert len(found) == 1


def test_moments_bring_distant_images_together():
    pair = cardiac_pair(2, (48, 48, 6), (3.5, 3.5, 12.0))
    geometry = Geometry(pair.moving.shape, pair.moving_affine)
    far = Geometry(geometry.shape, geometry.affine.copy())
    far.affine[:3, 3] += (300, -200, 100)
    found = align(Scan(pair.moving, geometry), Scan(pair.moving, far), "moments").matrix
    np.testing.assert_allclose(found[:3, 3], (300, -200, 100), atol=1e-3)
    np.testing.assert_allclose(found[:3, :3], np.eye(3), atol=1e-6)


def test_two_dimensional_slices_of_any_orientation():
    # A coronal slice has no 2-D direction in axial axes; its in-plane shift must still be found.
    affine = np.array([[-1.5, 0, 0, 10], [0, 0, 1, 20], [0, -1.5, 0, 30], [0, 0, 0, 1.0]])
    pair = cardiac_pair(1, (80, 80), (1.5, 1.5))
    fixed, moving = Geometry((80, 80), affine), Geometry((80, 80), affine.copy())
    moving.affine[:3, 3] += (40.0, 0, 25.0)
    found = align(Scan(pair.moving, fixed), Scan(pair.moving, moving), "moments").matrix
    np.testing.assert_allclose(apply_affine(found, [[0.0, 20, 0]]), [[40.0, 20, 25.0]], atol=1e-3)


def test_files(tmp_path):
    matrix = np.eye(4)
    matrix[:3, :3] = rotation((1, 0, 1), 12)
    matrix[:3, 3] = (3, -2, 1)
    np.savetxt(tmp_path / "ras.txt", matrix)
    np.testing.assert_allclose(read_linear(str(tmp_path / "ras.txt")), matrix)
    lps = LPS @ matrix @ LPS
    itk = sitk.AffineTransform(lps[:3, :3].flatten().tolist(), lps[:3, 3].tolist(), [4.0, 5.0, 6.0])
    sitk.WriteTransform(itk, str(tmp_path / "itk.tfm"))
    point = np.array([[10.0, -20.0, 5.0]])
    expected = np.array(itk.TransformPoint((point[0] * [-1, -1, 1]).tolist())) * [-1, -1, 1]
    np.testing.assert_allclose(apply_affine(read_linear(str(tmp_path / "itk.tfm")), point)[0], expected, atol=1e-6)
    (tmp_path / "junk.txt").write_text("not a transform")
    with pytest.raises(ValueError, match="neither a 4 x 4 matrix nor an ITK transform"):
        read_linear(str(tmp_path / "junk.txt"))
    (tmp_path / "junk.txt").rename(tmp_path / "junk.nii.gz")  # the name of an archive
    with pytest.raises(ValueError, match="neither a 4 x 4 matrix nor an ITK transform"):
        read_linear(str(tmp_path / "junk.nii.gz"))
    geometry = oblique((8, 8, 8), (1, 1, 1))
    with pytest.raises(ValueError, match="'rigid' is not a file"):
        align(*[Scan(np.zeros((8, 8, 8)), geometry)] * 2, "rigid")
