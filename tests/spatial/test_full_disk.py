"""A disk that is full while a transform is written: the old file stays, and one sentence says so, for every format."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from scripts.common.errors import InputError
from scripts.common.files import whole_file
from scripts.spatial.chain import Field, Linear
from scripts.spatial.transform_files import WRITABLE, read_chain, write_chain
from tests.conftest import oblique

GRID = oblique((12, 10, 8), (1.5, 1.2, 3.0))
HDF5 = (".h5", ".hdf5")
SHARES = (0, 0.1, 0.6, 0.95)
AFFINES = (".tfm", ".txt", ".mat", ".xfm")
CODE = """
import pathlib, sys
from tests.spatial.test_full_disk import fill_disk
sys.exit(fill_disk(pathlib.Path(sys.argv[1])))
"""


def field(seed: int) -> Field:
    return Field(np.random.default_rng(seed).normal(size=(*GRID.shape, 3)).astype(np.float32), GRID)


def matrix(shift: float) -> Linear:
    affine = np.eye(4)
    affine[:3, 3] = shift
    return Linear(affine)


def fill_disk(folder) -> str | None:
    """Writes every format under a limit on file size that acts like a full disk; None if the old files stay."""
    import resource
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    fields = [s for s in WRITABLE if s not in (*HDF5, ".mat", ".xfm")]
    for old, new, suffix in [(field(0), field(1), s) for s in fields] + [(matrix(1), matrix(2), s) for s in AFFINES]:
        target = folder / type(old).__name__ / suffix[1:] / f"t{suffix}"
        with whole_file(target) as part:
            write_chain(part, [old], GRID)
        before = {p.name: p.read_bytes() for p in target.parent.iterdir()}
        for share in SHARES:
            limit = int(share * max(len(content) for content in before.values()))
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            message = "no error"
            try:
                with whole_file(target) as part:
                    write_chain(part, [new], GRID)
            except InputError as error:
                message = str(error)
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            # The zeros at the end of a .mat may be missing; ITK reads the file anyway.
            if message == "no error" and type(new) is Linear and np.allclose(read_chain(target)[0].matrix, new.matrix):
                continue
            if "nothing was replaced" not in message or "\n" in message:
                return f"{target} at {limit} bytes: {message}"
            if {p.name: p.read_bytes() for p in target.parent.iterdir()} != before:
                return f"{target} at {limit} bytes was changed"
    return None


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_every_format_but_hdf5(bundle, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path)], cwd=bundle, capture_output=True, encoding="utf-8", check=False
    )
    assert not done.returncode, done.stderr[-1500:]
    assert read_chain(tmp_path / "Linear" / "mat" / "t.mat")


def test_hdf5_is_not_written_if_the_disk_is_too_small(tmp_path, monkeypatch):
    """HDF5 ends the process with a segmentation fault when it cannot close a file."""
    free = type("usage", (), {"free": GRID.shape[0] * GRID.shape[1] * GRID.shape[2] * 24})
    monkeypatch.setattr("shutil.disk_usage", lambda path: free)
    with (
        pytest.raises(InputError, match=r"f\.h5 failed \(the disk has .* MB free"),
        whole_file(tmp_path / "f.h5") as part,
    ):
        write_chain(part, [field(0)], GRID)
    assert not list(tmp_path.iterdir())


def test_a_field_that_is_not_finite_is_not_written(tmp_path):
    broken = field(0)
    broken.u_lps[3, 4, 5, 1] = np.nan
    for suffix in (".nii.gz", ".nrrd", ".h5", ".npz"):
        with pytest.raises(InputError, match="not finite"), whole_file(tmp_path / f"f{suffix}") as part:
            write_chain(part, [broken], GRID, GRID)
    assert not list(tmp_path.iterdir())
