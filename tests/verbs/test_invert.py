"""``invert`` and ``compose`` on files, and the inverse that a registration writes on request."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest

from scripts import compose, invert, warp
from scripts.common.errors import InputError
from scripts.spatial.chain import map_points
from scripts.spatial.geometry import apply_affine
from scripts.spatial.transform_files import read_chain
from scripts.workflow.outputs import SaveRegistration
from tests.workflow.registered import prepared


def test_inverse_pulls_the_fixed_image_back(heart_files, tmp_path):
    facts = invert(heart_files["true_ddf"], tmp_path / "i.nii.gz", moving=heart_files["moving"], progress=False)
    assert facts["residual"]["p95_mm"] < 0.3 and facts["residual_fixed"]["p95_mm"] < 0.3  # 0.1 voxel
    assert set(facts["residual"]) == {"mean_mm", "p95_mm", "max_mm", "points", "outside_percent"}
    warp(heart_files["fixed_label"], tmp_path / "l.nii.gz", tmp_path / "i.nii.gz", label=True, progress=False)
    back, truth = (np.asarray(nib.load(p).dataobj) for p in (tmp_path / "l.nii.gz", heart_files["moving_label"]))
    assert (back == truth)[truth > 0].mean() > 0.9


def test_affines_invert_exactly(heart_files, tmp_path):
    matrix = np.array([[1.1, 0.1, 0, 5], [0, 0.9, 0, -3], [0, 0, 1, 2], [0, 0, 0, 1]])
    np.savetxt(tmp_path / "a.txt", matrix)
    facts = invert(tmp_path / "a.txt", tmp_path / "i.tfm")
    assert facts == {"output": str(tmp_path / "i.tfm")}
    np.testing.assert_allclose(read_chain(tmp_path / "i.tfm")[0].matrix @ matrix, np.eye(4), atol=1e-9)


def test_compose_converts_and_joins(heart_files, tmp_path):
    shift = np.eye(4)
    shift[:3, 3] = (3.0, -2.0, 1.0)
    np.savetxt(tmp_path / "s.txt", shift)
    chain = [heart_files["true_ddf"], tmp_path / "s.txt"]
    points = apply_affine(nib.load(heart_files["fixed"]).affine, np.array([[30, 30, 3], [20, 40, 2]]))
    expected = map_points(read_chain(chain), points)
    for name, options in (("o.nii.gz", {}), ("ras.nii.gz", {"intent": 1006}), ("o.h5", {}), ("o.nrrd", {})):
        assert compose(chain, tmp_path / name, **options) == {"output": str(tmp_path / name), "transforms": 2}
        np.testing.assert_allclose(map_points(read_chain(tmp_path / name), points), expected, atol=1e-3)


def test_what_is_refused(heart_files, tmp_path):
    field = heart_files["true_ddf"]
    for verb, transforms, output, options, message in (
        (invert, field, field, {}, "is an input as well as the output"),
        (compose, field, field, {}, "is an input as well as the output"),
        (compose, field, tmp_path / "o.nii.gz", {"intent": 1005}, "intent must be 1007"),
        (compose, field, tmp_path / "o.npz", {"layout": "middle"}, "layout must be one of last, first"),
        (invert, field, tmp_path / "o.jpg", {}, "ends in none of"),
        (invert, "gone.h5", tmp_path / "o.h5", {}, "does not exist"),
    ):
        with pytest.raises(InputError, match=message):
            verb(transforms, output, **options)
    assert not list(tmp_path.iterdir())


def test_a_registration_writes_its_inverse_on_request(tmp_path):
    data = prepared(tmp_path)
    out = SaveRegistration(str(tmp_path / "out"), overview=False, inverse=True)(data)
    assert "inverse_ddf.nii.gz" in out["files"]
    record = json.loads((tmp_path / "out" / "correspondence.json").read_text(encoding="utf-8"))
    residual = record["metrics"]["inverse"]["residual"]
    assert residual["p95_mm"] < 0.1 * min(data["pair"].fixed.geometry.spacing) and residual["points"] > 10_000
    inverse, forward = (read_chain(tmp_path / "out" / n) for n in ("inverse_ddf.nii.gz", "ddf.nii.gz"))
    np.testing.assert_allclose(inverse[0].grid.affine, data["pair"].moving.geometry.affine, atol=1e-4)
    landmarks = data["pair"].moving_landmarks
    there = map_points(forward, map_points(inverse, landmarks))
    assert np.percentile(np.linalg.norm(there - landmarks, axis=1), 95) < 0.3
