"""The unit test of the bundle in the form of the model zoo, where it is ci/unit_tests/test_sam_registration.py.

It runs in a checkout of the zoo (or in the stand-in that test_zoo.py builds), with the bundle in models/.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import unittest

import nibabel as nib
import numpy as np
from monai.bundle import ConfigWorkflow

ROOT = os.path.join("models", "sam_registration")
QUICK = {"points_per_side": 4, "overview": False, "progress": False}


def balls(shift: float) -> nib.Nifti1Image:
    """Two bright balls on a dark ground, (32, 32, 6) voxels of 4 x 4 x 8 mm."""
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in (32, 32, 6)], indexing="ij"), axis=-1)
    image = np.zeros((32, 32, 6), np.float32)
    for centre, radius, value in (((11, 12, 2.5), 6, 500), ((21, 20, 2.5), 5, 900)):
        inside = (((grid - np.add(centre, [shift, 0, 0])) * [1, 1, 2]) ** 2).sum(axis=-1) < radius**2
        image[inside] = value
    return nib.Nifti1Image(image, np.diag([4.0, 4.0, 8.0, 1.0]))


@unittest.skipUnless(os.path.isdir(ROOT), f"runs where {ROOT} is: in a checkout of the model zoo")
class TestSamRegistration(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp()
        self.paths = {role: os.path.join(self.folder, f"{role}.nii.gz") for role in ("moving", "fixed")}
        for shift, path in enumerate(self.paths.values()):
            nib.save(balls(float(shift)), path)
        sys.path.insert(0, ROOT)

    def tearDown(self):
        shutil.rmtree(self.folder)
        sys.path.remove(ROOT)

    def run_config(self, name: str, **override) -> str:
        output_dir = os.path.join(self.folder, "out")
        workflow = ConfigWorkflow(
            workflow_type="inference",
            config_file=os.path.join(ROOT, "configs", name),
            logging_file=os.path.join(ROOT, "configs", "logging.conf"),
            meta_file=os.path.join(ROOT, "configs", "metadata.json"),
            bundle_root=ROOT,
            output_dir=output_dir,
            **self.paths,
            **override,
        )
        workflow.initialize()
        self.assertEqual(workflow.check_properties() or [], [])
        workflow.run()
        workflow.finalize()
        return output_dir

    def test_roi_registration(self):
        output_dir = self.run_config("samreg.json", min_area=0.01, epsilon=0.5, **QUICK)
        field = nib.load(os.path.join(output_dir, "ddf.nii.gz"))
        self.assertEqual(field.shape, (32, 32, 6, 1, 3))
        self.assertEqual(int(field.header["intent_code"]), 1007)

    def test_network_registration(self):
        options = {key: QUICK[key] for key in ("overview", "progress")}
        output_dir = self.run_config("inference.json", masks=None, **options)
        moved = nib.load(os.path.join(output_dir, "moved.nii.gz"))
        np.testing.assert_allclose(moved.affine, np.diag([4.0, 4.0, 8.0, 1.0]))


if __name__ == "__main__":
    unittest.main()
