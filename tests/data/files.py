"""Small image files, whole and damaged."""

from collections.abc import Iterable, Sequence

import nibabel as nib
import numpy as np

from scripts.data.segmentations import Segmentation, pack_parts
from scripts.spatial.geometry import Geometry
from tests.conftest import oblique

GRID = oblique((12, 10, 8), (1.5, 1.2, 3.0))
VALUES = np.arange(960, dtype=np.int16).reshape(12, 10, 8)


def change(path, name, array=None, **fields):
    image = nib.load(path)
    data = np.asarray(image.dataobj) if array is None else array
    copy = nib.Nifti1Image(data, image.affine)
    target = path.with_name(name)
    nib.save(copy, target)
    if fields:
        raw = bytearray(nib.openers.Opener(target).read())
        header = nib.Nifti1Header(bytes(raw[:348]), check=False)
        for key, value in fields.items():
            header[key] = value
        raw[:348] = header.binaryblock
        with nib.openers.Opener(target, "wb") as stream:
            stream.write(bytes(raw))
    return target


def packed(masks: Iterable[np.ndarray], names: Sequence[str], grid: Geometry) -> Segmentation:
    """A segmentation of whole masks (*grid.shape) bool."""
    whole = tuple(slice(0, size) for size in grid.shape)
    return pack_parts(((whole, np.asarray(mask, bool)) for mask in masks), names, grid)
