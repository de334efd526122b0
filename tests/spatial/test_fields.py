"""A field written slab by slab is the same file as one written at once."""

from __future__ import annotations

import gzip
import tracemalloc

import numpy as np
import pytest

from scripts.spatial import fields
from scripts.spatial.fields import stream_field, write_field
from scripts.spatial.geometry import world_displacement
from tests.conftest import oblique, rotation, smooth_field


@pytest.mark.parametrize("shape", [(12, 9), (12, 9, 7)])
@pytest.mark.parametrize("slab_voxels", [1, 250, 10**6])
def test_the_bytes_are_the_same(tmp_path, shape, slab_voxels, monkeypatch):
    monkeypatch.setattr(fields, "SLAB_VOXELS", slab_voxels)
    grid = oblique(shape, (1.5, 2.0, 4.0)[: len(shape)])
    transform = np.eye(4)
    transform[:3, :3], transform[:3, 3] = rotation((1, 0, 2), 7), (4.0, -3.0, 2.0)
    ddf = smooth_field(shape, 2.0)
    stream_field(tmp_path / "slabs.nii.gz", ddf, grid, transform)
    write_field(tmp_path / "whole.nii.gz", world_displacement(ddf[0].numpy(), grid, transform), grid)
    slabs, whole = (gzip.decompress((tmp_path / f"{n}.nii.gz").read_bytes()) for n in ("slabs", "whole"))
    assert slabs[:352] == whole[:352]
    values = [np.frombuffer(b[352:], np.float32) for b in (slabs, whole)]
    np.testing.assert_allclose(*values, rtol=1e-6, atol=1e-6)


def test_a_slab_is_in_memory_beside_the_field_and_no_more(tmp_path, monkeypatch):
    """A whole CT is written beside arrays that nearly fill the memory."""
    shape, peaks = (80, 80, 32), {}
    grid, ddf = oblique(shape, (1.5, 2.0, 4.0)), smooth_field(shape, 2.0)
    for slabs in (1, 16):
        monkeypatch.setattr(fields, "SLAB_VOXELS", int(np.prod(shape)) // slabs)
        tracemalloc.start()
        stream_field(tmp_path / "field.nii.gz", ddf, grid, np.eye(4))
        peaks[slabs] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    whole = ddf.numel() * ddf.element_size()
    assert peaks[16] < whole / 3 and peaks[16] < peaks[1] / 4, (peaks, whole)
