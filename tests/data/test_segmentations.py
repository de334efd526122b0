"""Overlapping regions survive a file of 3D Slicer voxel for voxel."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from scripts.common.errors import InputError
from scripts.data.segmentations import pair_colours, read_segmentation, write_segmentation
from scripts.spatial.geometry import LPS, Geometry
from tests.data.files import packed

TURN = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
OBLIQUE = np.eye(4)
OBLIQUE[:3, :3], OBLIQUE[:3, 3] = TURN * (0.8, 1.3, 4.0), (12.5, -30.25, 7)


def blobs(count: int, shape: tuple[int, ...], seed: int = 0) -> list[np.ndarray]:
    """Boxes at random places; many overlap."""
    chance = np.random.default_rng(seed)
    masks = []
    for _ in range(count):
        start = [chance.integers(0, s - 1) for s in shape]
        mask = np.zeros(shape, bool)
        mask[tuple(slice(a, a + chance.integers(1, 6)) for a in start)] = True
        masks.append(mask)
    return masks


@pytest.mark.parametrize("count", [5, 300])
@pytest.mark.parametrize("shape", [(14, 11, 7), (20, 16)])
def test_a_written_segmentation_is_read_unchanged(tmp_path, count, shape):
    grid = Geometry(shape, OBLIQUE)
    masks = blobs(count, shape)
    masks[2][:] = False
    names = [f"pair {k + 1} ({1 - k / count:.2f})" for k in range(count)]
    path = tmp_path / "r.seg.nrrd"
    write_segmentation(path, packed((m for m in masks), names, grid))
    read = read_segmentation(path)
    assert read.geometry.shape == shape
    np.testing.assert_allclose(read.geometry.affine, OBLIQUE, atol=1e-5)
    assert [s.name for s in read.segments] == names
    assert [s.number for s in read.segments] == list(range(1, count + 1))
    np.testing.assert_allclose([s.colour for s in read.segments], pair_colours(count), atol=1e-4)
    for k, mask in enumerate(masks):
        np.testing.assert_array_equal(read.mask(k), mask)


def test_more_regions_than_a_label_can_number_are_refused():
    with pytest.raises(InputError, match="65536 regions do not fit into a 16-bit segmentation; keep fewer with --max_"):
        packed(iter(()), ["region"] * 65536, Geometry((4, 4), np.eye(4)))


def test_fields_that_slicer_needs(tmp_path):
    """Names and meaning from Slicer's vtkMRMLSegmentationStorageNode."""
    grid = Geometry((6, 5, 4), OBLIQUE)
    outer, inner = np.zeros((2, 6, 5, 4), bool)
    outer[1:5, 1:4, 0:3] = True
    inner[2:4, 2:3, 1:2] = True
    path = tmp_path / "a.seg.nrrd"
    write_segmentation(path, packed([outer, inner], ["outer", "inner"], grid))
    assert b"\nkinds: list domain domain domain\n" in path.read_bytes()[:4096]  # slicerio refuses "vector"
    image = sitk.ReadImage(str(path))
    fields = {k: image.GetMetaData(k) for k in image.GetMetaDataKeys()}
    assert image.GetNumberOfComponentsPerPixel() == 2  # one layer for each of two regions that overlap
    assert fields["Segment0_Extent"] == "1 4 1 3 0 2"
    assert (fields["Segment1_Layer"], fields["Segment1_LabelValue"], fields["Segment1_Name"]) == ("1", "2", "inner")
    assert fields["Segmentation_ContainedRepresentationNames"] == "Binary labelmap|"
    array = sitk.GetArrayFromImage(image)  # (Z, Y, X, layer)
    np.testing.assert_array_equal(array[..., 0].T == 1, outer)
    np.testing.assert_array_equal(array[..., 1].T == 2, inner)
    corner = image.TransformIndexToPhysicalPoint((5, 4, 3))
    np.testing.assert_allclose(corner, (LPS @ OBLIQUE @ [5, 4, 3, 1])[:3], atol=1e-4)


def test_regions_apart_share_a_layer_and_colours_do_not_depend_on_their_number():
    grid = Geometry((40, 3, 3), np.eye(4))
    masks = [np.zeros(grid.shape, bool) for _ in range(20)]
    for k, mask in enumerate(masks):
        mask[2 * k] = True
    assert len(packed(masks, ["a"] * 20, grid).layers) == 1
    assert pair_colours(7) == pair_colours(50)[:7]
    assert len(set(pair_colours(50))) == 50


def test_other_files_are_refused(tmp_path):
    plain = tmp_path / "plain.seg.nrrd"
    sitk.WriteImage(sitk.Image(4, 4, 4, sitk.sitkUInt8), str(plain))
    with pytest.raises(InputError, match="is not a segmentation"):
        read_segmentation(plain)
    (tmp_path / "junk.seg.nrrd").write_bytes(b"NRRD0004\nrubbish")
    for name in ("junk.seg.nrrd", "absent.seg.nrrd"):
        with pytest.raises(InputError, match=f"{name} cannot be read as a segmentation"):
            read_segmentation(tmp_path / name)
