"""The MONAI Deploy application on phantom series; the selection of series by rules.

The runs need MONAI Deploy, which has an environment of its own: set SAM_REGISTRATION_DEPLOY_PYTHON to its python.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest

from scripts.apps.monai_deploy.selection import nifti_pair, one_of_each, read_settings
from scripts.common.errors import InputError
from scripts.data.phantoms.cardiac import cardiac_pair
from scripts.data.sample import write_phantom
from scripts.spatial.fields import read_field
from tests.apps.dicom_series import read_deformable, write_pair, write_series

SETTINGS = "scripts/apps/monai_deploy/settings.json"


@dataclass
class Series:
    """What the selection needs from a series of MONAI Deploy."""

    SeriesDescription: str
    SeriesInstanceUID: str
    SeriesNumber: int = 1
    Modality: str = "MR"

    def get_sop_instances(self) -> list:
        return [0, 0]


def test_one_series_must_fit_each_rule():
    a, b = Series("moving", "1"), Series("fixed", "2")
    assert one_of_each({"moving": [a], "fixed": [b]}, [a, b]) == {"moving": a, "fixed": b}
    with pytest.raises(InputError, match=r"No series fits the rule for the fixed image.*'moving' \(number 1, MR, 2 im"):
        one_of_each({"moving": [a]}, [a])
    with pytest.raises(InputError, match="2 series fit the rule for the moving image"):
        one_of_each({"moving": [a, b], "fixed": [b]}, [a, b])
    with pytest.raises(InputError, match="same series fits both rules"):
        one_of_each({"moving": [a], "fixed": [a]}, [a, b])


def test_settings_are_checked(bundle, tmp_path):
    assert read_settings(bundle / SETTINGS)["options"]["method"] == "auto"
    path = tmp_path / "settings.json"
    path.write_text('{"selections": [{"name": "moving", "conditions": {"Modality": "MR"}}]}', encoding="utf-8")
    with pytest.raises(InputError, match="needs one selection for moving and one for fixed"):
        read_settings(path)
    path.write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="cannot be read as settings"):
        read_settings(path)


def test_a_nifti_pair_has_two_names(tmp_path):
    assert nifti_pair(tmp_path) is None
    (tmp_path / "moving.nii.gz").touch()
    with pytest.raises(InputError, match=r"needs one moving.nii.gz and one fixed.nii.gz; it contains moving.nii.gz"):
        nifti_pair(tmp_path)
    (tmp_path / "fixed.nii").touch()
    assert set(nifti_pair(tmp_path)) == {"moving", "fixed"}


@pytest.fixture(scope="module")
def deploy(bundle):
    """Runs the application on a folder; exit code, output and result folder."""
    python = os.environ.get("SAM_REGISTRATION_DEPLOY_PYTHON")
    if not python:
        pytest.skip("SAM_REGISTRATION_DEPLOY_PYTHON does not name the python of an environment with MONAI Deploy")

    def run(source: Path, out: Path, *words: str, **variables: str) -> subprocess.CompletedProcess:
        out.mkdir()
        command = [python, bundle / "scripts" / "apps" / "monai_deploy", "-i", source, "-o", out, *words]
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | variables
        return subprocess.run(
            [str(w) for w in command], cwd=out, env=environment, capture_output=True, encoding="utf-8", timeout=600
        )

    return run


@pytest.fixture(scope="module")
def pair():
    return cardiac_pair(3, (64, 64, 6), (3.0, 3.0, 12.0))


@pytest.fixture
def network_settings(bundle, tmp_path) -> str:
    """The settings of the application, with the method for hearts."""
    settings = json.loads((bundle / SETTINGS).read_text(encoding="utf-8"))
    settings["options"]["method"] = "network"
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(settings), encoding="utf-8")
    return str(path)


@pytest.mark.slow
def test_two_series_in_one_study(deploy, pair, network_settings, bundle, tmp_path):
    write_pair(tmp_path / "study", pair)
    done = deploy(tmp_path / "study", tmp_path / "out", "-m", str(bundle), SAM_REGISTRATION_SETTINGS=network_settings)
    assert done.returncode == 0, done.stderr[-4000:]
    out, objects = tmp_path / "out", tmp_path / "out" / "dicom"
    assert {"ddf.nii.gz", "moved.nii.gz", "correspondence.json", "report.html"} <= {p.name for p in out.iterdir()}
    u_lps, grid = read_field(out / "ddf.nii.gz")
    again, same = read_deformable(pydicom.dcmread(objects / "registration.dcm"))
    np.testing.assert_allclose(same.affine, grid.affine, atol=1e-3)
    assert np.abs(again - u_lps).max() < 0.1, "mm"
    segs = [hd.seg.segread(objects / f"{role}_regions.dcm") for role in ("moving", "fixed")]
    names = [[seg.get_segment_description(k).segment_label for k in seg.segment_numbers] for seg in segs]
    assert names[0] == names[1] and len(names[0]) == 3, "the three structures of the heart"
    assert len(list((objects / "moved").iterdir())) == 6
    if shutil.which("dciodvfy"):
        for path in objects.rglob("*.dcm"):
            said = subprocess.run(["dciodvfy", path], capture_output=True, encoding="utf-8")
            assert not [line for line in (said.stdout + said.stderr).splitlines() if line.startswith("Error")], path


@pytest.mark.slow
def test_a_nifti_pair(deploy, pair, network_settings, tmp_path):
    paths = write_phantom(tmp_path / "phantom", pair)
    (tmp_path / "in").mkdir()
    for role in ("moving", "fixed"):
        shutil.copy(paths[role], tmp_path / "in" / f"{role}.nii.gz")
    done = deploy(tmp_path / "in", tmp_path / "out", SAM_REGISTRATION_SETTINGS=network_settings)
    assert done.returncode == 0, done.stderr[-4000:]
    assert (tmp_path / "out" / "ddf.nii.gz").exists() and not (tmp_path / "out" / "dicom").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("extra", "sentence"), [("moving", "2 series fit"), (None, "No series fits")])
def test_a_study_that_does_not_fit_the_rules(deploy, pair, tmp_path, extra, sentence):
    moving, fixed = write_pair(tmp_path / "study", pair)
    if extra:
        first = pydicom.dcmread(next(moving.iterdir()))
        shared = {"study": first.StudyInstanceUID, "frame": first.FrameOfReferenceUID, "description": extra}
        write_series(tmp_path / "study" / "more", np.rint(pair.moving).clip(0), pair.moving_affine, **shared)
    else:
        shutil.rmtree(fixed)
    done = deploy(tmp_path / "study", tmp_path / "out")
    assert done.returncode == 1 and sentence in done.stderr and "moving series" in done.stderr, done.stderr[-2000:]
    assert not list((tmp_path / "out").iterdir())
