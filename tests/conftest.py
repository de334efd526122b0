"""Shared fixtures: phantoms made once, the place of real data, a small random grid."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from scripts.common.weights import export_weights
from scripts.data.phantoms.cardiac import cardiac_pair
from scripts.data.sample import write_phantom
from scripts.masks.net import build_net
from scripts.spatial.geometry import Geometry

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def bundle() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def real_data() -> Path:
    folder = Path(os.environ.get("SAM_REGISTRATION_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "splits").is_dir():
        pytest.skip(f"real data is not at {folder}; set SAM_REGISTRATION_DATA")
    return folder


@pytest.fixture(scope="session")
def heart():
    """A small 3-D cardiac phantom pair."""
    return cardiac_pair(3, (64, 64, 6), (3.0, 3.0, 12.0))


@pytest.fixture(scope="session")
def heart_files(heart, tmp_path_factory) -> dict[str, str]:
    return write_phantom(tmp_path_factory.mktemp("heart"), heart)


@pytest.fixture(scope="session")
def untrained(tmp_path_factory) -> dict[str, str]:
    """Weights of each bundled network before any training."""
    folder = tmp_path_factory.mktemp("untrained")
    torch.manual_seed(0)
    paths = {name: str(folder / f"{name}.pt") for name in ("cardiac", "abdomen")}
    for name, path in paths.items():
        export_weights(build_net(name), path)
    return paths


@pytest.fixture(scope="module")
def browser():
    """Chromium, for tests marked with tests.browser.in_browser."""
    from tests.browser import started

    with started() as found:
        yield found


def rotation(axis: tuple[float, float, float], degrees: float) -> np.ndarray:
    """Rotation matrix by Rodrigues' formula."""
    x, y, z = np.asarray(axis) / np.linalg.norm(axis)
    k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    a = np.deg2rad(degrees)
    return np.eye(3) + np.sin(a) * k + (1 - np.cos(a)) * k @ k


def oblique(
    shape: tuple[int, ...], spacing: tuple[float, ...], degrees: float = 20.0, centre=(5.0, -7.0, 3.0)
) -> Geometry:
    """A grid around a centre, RAS mm, at an angle to the axes of the patient."""
    affine = np.eye(4)
    sizes = np.ones(3)
    sizes[: len(spacing)] = spacing
    affine[:3, :3] = rotation((1, 2, 3), degrees) @ np.diag([-1, -1, 1]) @ np.diag(sizes)
    middle = np.zeros(3)
    middle[: len(shape)] = (np.asarray(shape) - 1) / 2
    affine[:3, 3] = np.asarray(centre) - affine[:3, :3] @ middle
    return Geometry(shape, affine)


def smooth_field(shape: tuple[int, ...], amplitude: float, seed: int = 0) -> torch.Tensor:
    """A smooth random DDF (1, n, *shape) in voxels."""
    generator = torch.Generator().manual_seed(seed)
    n = len(shape)
    coarse = torch.randn(1, n, *[4] * n, generator=generator) * amplitude
    mode = "bicubic" if n == 2 else "trilinear"
    return torch.nn.functional.interpolate(coarse, shape, mode=mode, align_corners=True)
