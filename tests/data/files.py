"""Small image files, whole and damaged."""

import nibabel as nib
import numpy as np

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
