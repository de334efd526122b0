"""Images that are cheap to segment."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from scripts.data.reader import Volume, read_volume
from tests.conftest import oblique


def volume_of(shape=(40, 36, 6), spacing=(4.0, 4.0, 9.0), seed=0, path="image.nii.gz") -> Volume:
    """Noise on an oblique grid."""
    values = np.random.default_rng(seed).normal(300, 80, (1, *shape)).clip(0).astype(np.float32)
    return Volume(values, oblique(shape, spacing), path)


@pytest.fixture
def labelled(tmp_path) -> tuple[Volume, np.ndarray]:
    """An image file beside its label map scan_seg.nii.gz with the values 0, 3 and 7."""
    volume = volume_of(path=str(tmp_path / "scan.nii.gz"))
    labels = np.zeros(volume.geometry.shape, np.int16)
    labels[5:20, 5:20, 1:4] = 3
    labels[22:30, 10:20, 2:5] = 7
    nib.save(nib.Nifti1Image(volume.array[0], volume.geometry.affine), volume.path)
    nib.save(nib.Nifti1Image(labels, volume.geometry.affine), tmp_path / "scan_seg.nii.gz")
    return read_volume(volume.path), labels
