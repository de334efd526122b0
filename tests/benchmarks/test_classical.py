"""Classical tools: direction, axes and units of their fields, and their effect on a phantom heart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from scripts.benchmarks.peers.classical import TOOLS, ddf_of, itk_image
from scripts.benchmarks.peers.compare import measure_pair
from scripts.data.pair import LoadPair
from scripts.data.structures import AddMasks
from scripts.spatial.warp import warp
from tests.conftest import smooth_field

STRUCTURES = ["right ventricle", "myocardium", "left ventricle"]
QUICK = {
    "demons": {},
    "diffeomorphic_demons": {},
    "bspline": {"control_mm": 24.0, "levels": 1, "iterations": 10, "samples": 0.3},
    "syn": {"iterations": (40, 20, 10), "radius": 2},
    "elastix": {"iterations": 100},
}
NEEDS = {"syn": "ants", "elastix": "itk"}


def tool_of(name: str):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    return replace(TOOLS[name], **QUICK[name])


def test_units_and_axes_are_those_of_simpleitk():
    """A field in mm, read as voxels, warps as SimpleITK does with the field itself."""
    spacing = (1.5, 2.0, 8.0)
    image, ddf = torch.rand(12, 10, 6), smooth_field((12, 10, 6), 1.0)
    mm = (ddf[0] * torch.tensor(spacing).view(3, 1, 1, 1)).numpy().T.astype(np.float64)
    field = sitk.GetImageFromArray(np.ascontiguousarray(mm), isVector=True)
    field.SetSpacing(spacing)
    torch.testing.assert_close(ddf_of(field), ddf, atol=1e-5, rtol=0)
    moved = sitk.Resample(itk_image(image, spacing), sitk.DisplacementFieldTransform(field), sitk.sitkLinear, -1.0)
    theirs = torch.from_numpy(sitk.GetArrayFromImage(moved).T.copy())
    ours = warp(image[None, None], ddf)[0, 0]
    inside = theirs >= 0
    assert inside.float().mean() > 0.4
    torch.testing.assert_close(ours[inside], theirs[inside], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", TOOLS)
def test_a_shift_is_found_along_the_right_axes(name):
    tool = tool_of(name)
    axes = torch.meshgrid(*[torch.arange(n, dtype=torch.float32) for n in (40, 36, 8)], indexing="ij")

    def blob(x: float, y: float) -> torch.Tensor:
        near = ((axes[0] - x) / 7) ** 2 + ((axes[1] - y) / 5) ** 2 + ((axes[2] - 3.5) / 2.5) ** 2
        return torch.exp(-near) + 0.5 * torch.exp(-3 * near)

    ddf = tool(blob(21, 15) / 1.5, blob(19, 18) / 1.5, (1.5, 1.5, 5.0))
    assert ddf.shape == (1, 3, 40, 36, 8)
    centre = ddf[0, :, 17:22, 16:21, 3:5].mean(dim=(1, 2, 3))
    torch.testing.assert_close(centre, torch.tensor([2.0, -3.0, 0.0]), atol=0.7, rtol=0)


@pytest.fixture(scope="module")
def loaded(heart_files) -> dict:
    return AddMasks(STRUCTURES, "label")(LoadPair(window="mr")(heart_files))


@pytest.mark.parametrize("name", TOOLS)
def test_a_heart_comes_closer(name, loaded):
    row = measure_pair(tool_of(name), loaded, STRUCTURES)
    assert row["dice/mean/final"] > row["dice/mean/initial"] + 0.05
    assert row["field/folds_percent"] < 3
    # Here the masks are the label maps, so the carried masks must have the same overlap.
    assert row["masks/mean/final"] == pytest.approx(row["dice/mean/final"])
    assert row["seconds"] > 0


def test_masks_alone_are_measured_on_the_fixed_image(loaded):
    row = measure_pair(None, loaded, STRUCTURES)
    assert row["dice/mean/final"] == 1.0 and row["hd95_mm/mean/final"] == 0.0
    assert not any(key.startswith("field") for key in row)


def test_a_field_is_found_once(loaded, tmp_path):
    """The second time it is read from the file; another setting gives another field."""
    calls = []

    def counted(moving, fixed, spacing):
        calls.append(spacing)
        return TOOLS["demons"](moving, fixed, spacing)

    rows = [measure_pair(counted, loaded, STRUCTURES, tmp_path) for _ in range(2)]
    assert rows[0] == rows[1] and len(calls) == 1
    tools = [replace(TOOLS["demons"], iterations=n, shrink=(4,)) for n in (1, 2)]
    fields = [measure_pair(t, loaded, STRUCTURES, tmp_path)["field/sdlogj"] for t in tools]
    assert fields[0] != fields[1] and len(list(tmp_path.iterdir())) == 3
