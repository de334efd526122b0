"""The DICOM objects of a result never lie beside another result, whenever a disk fills or a process is killed."""

from __future__ import annotations

import contextlib
import gc
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

from scripts.common.staging import complete_result
from tests.apps.dicom_series import write_series

from .failures import KilledError, full_disk, killed, quick_collection
from .inputs import QUICK
from .test_failures import WRITTEN, Call, attempt


@pytest.mark.slow
@pytest.mark.parametrize(("fails", "steps"), [(killed, range(1, 200)), (full_disk, range(1, 2000, 9))])
@quick_collection()
def test_dicom_objects_belong_to_the_result_beside_them(good, tmp_path, fails, steps):
    image = nib.load(good / "fixed.nii.gz")
    positive = np.clip(np.asarray(image.dataobj), 0, None)
    write_series(tmp_path / "series", positive, image.affine, study="1.2.3", frame="1.2.4")
    options = {"moving": "{good}/series", "fixed": str(tmp_path / "series"), "output_dir": "{out}", "dicom": True}
    call: Call = ("register", options | QUICK)
    wholes, old = [], tmp_path / "old"
    for out, smoothness in ((old, 14.0), (tmp_path / "new", 3.0)):
        assert attempt(call, good, out, smoothness=smoothness)[0] in WRITTEN
        wholes.append((field_of(out), grid_of(out)))
    assert None not in wholes[0] and wholes[0] != wholes[1]
    for number in steps:
        out = tmp_path / str(number)
        shutil.copytree(old, out)
        with fails(number) as done, contextlib.suppress(KilledError):
            _, errors = attempt(call, good, out, smoothness=3.0)
            assert "Traceback" not in errors and errors.count("error: ") <= 1, (number, errors[-2000:])
        gc.collect()
        found = field_of(complete_result(out, "correspondence.json")), grid_of(out)
        # While a committed result waits to be put in place, the old objects still lie in the folder.
        assert found in wholes or found == (wholes[1][0], None) or (out / ".committed").exists(), number
        assert found[0] in (wholes[0][0], wholes[1][0]), number
        if not done.failed:
            assert found == wholes[1]
            return
        shutil.rmtree(out)


def field_of(folder: Path | None) -> bytes | None:
    assert folder is not None
    return (folder / "ddf.nii.gz").read_bytes()


def grid_of(folder: Path) -> bytes | None:
    """The displacements in the DICOM object of a result folder, if it has one."""
    path = folder / "dicom" / "registration.dcm"
    if not path.exists():
        return None
    (sequence,) = pydicom.dcmread(path).DeformableRegistrationSequence[-1:]
    return sequence.DeformableRegistrationGridSequence[0].VectorGridData
