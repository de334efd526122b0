"""The benchmark of random poses: known answers, and one pair from end to end."""

from __future__ import annotations

import re

import nibabel as nib
import numpy as np
import pytest

from scripts.benchmarks.peers.never_worse import main, reposed
from scripts.spatial.geometry import apply_affine


def test_the_pose_in_the_header_is_the_truth(heart_files):
    posed = reposed("heart", heart_files, 3, same_patient=True)
    before = nib.load(heart_files["fixed"]).affine
    grid = posed.item["fixed"].geometry
    index = np.random.default_rng(0).uniform(0, 20, (50, 3))
    np.testing.assert_allclose(
        apply_affine(posed.truth, apply_affine(grid.affine, index)), apply_affine(before, index), atol=1e-6
    )
    assert posed.error_mm(posed.truth) == 0
    assert posed.error_mm(np.eye(4)) > 5
    np.testing.assert_allclose(posed.item["fixed_label"].geometry.affine, grid.affine)
    assert reposed("heart", heart_files, 3, same_patient=False).error_mm(np.eye(4)) is None


def test_one_phantom(capsys):
    main(first=2, count=1, spacing_mm=11.0)
    printed = capsys.readouterr().out
    assert re.search(r"2 chest same: (affine|similarity)  error before 1\d\.\d mm  error after \d\.\d mm", printed)
    assert "alignment within 5 mm: 1 of 1" in printed
    assert "worse without a doubt: 0 of 1" in printed
    before, after = (float(x) for x in re.search(r"initial ([\d.]+)  Dice aligned ([\d.]+)", printed).groups())
    assert after > before


@pytest.mark.slow
def test_one_phantom_is_registered(capsys):
    main(first=2, count=1, spacing_mm=8.0, register=1, points_per_side=8, slice_spacing_mm=24.0)
    assert "Dice final" in capsys.readouterr().out
