"""Fixtures shared by the tests of data."""

import nibabel as nib
import pytest

from tests.data.files import GRID, VALUES


@pytest.fixture
def nifti(tmp_path):
    path = tmp_path / "image.nii.gz"
    nib.save(nib.Nifti1Image(VALUES, GRID.affine), path)
    return path
