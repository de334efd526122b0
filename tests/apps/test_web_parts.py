"""The web application without a browser: zips, folders of users, slices, the worker process."""

from __future__ import annotations

import io
import stat
import threading
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from scripts.apps.web.app import app
from scripts.apps.web.sessions import Sessions
from scripts.apps.web.slices import Shown, coloured, show
from scripts.apps.web.uploads import clean_name, unpack_series
from scripts.apps.web.worker import Worker
from scripts.common.errors import InputError
from tests.apps.dicom_series import write_series


def zipped(path: Path, **files: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as content:
        for name, data in files.items():
            content.writestr(name, data)
    return path


@pytest.fixture
def series(heart, tmp_path):
    """A zip with two DICOM series, of which the second has the lower number."""
    for number, role in ((2, "moving"), (1, "fixed")):
        array, affine = getattr(heart, role), getattr(heart, f"{role}_affine")
        write_series(tmp_path / "d" / role, array, affine, study="1.2.3", frame="1.2.4", number=number)
    path = tmp_path / "both.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as content:
        for file in sorted((tmp_path / "d").rglob("*.dcm")):
            content.write(file, file.relative_to(tmp_path))
        content.writestr("d/readme.txt", "not an image")
    return path


def test_series_of_a_zip(series, heart, tmp_path):
    first, second = unpack_series(series, tmp_path / "out")
    shown = show(first, tmp_path / "shown", "fixed")
    assert shown.geometry.shape == heart.fixed.shape and len(list(second.iterdir())) == heart.moving.shape[2]
    stored = np.load(tmp_path / "shown" / "image.npy")[0]
    assert np.corrcoef(stored.ravel(), heart.fixed.ravel())[0, 1] > 0.99


@pytest.mark.parametrize("name", ["../out.dcm", "/etc/out.dcm", "a/../../out.dcm", "..\\out.dcm", "C:\\out.dcm"])
def test_names_that_leave_the_zip(tmp_path, name):
    path = zipped(tmp_path / "x.zip", **{name: b"x"})
    with pytest.raises(InputError, match="leads out of it"):
        unpack_series(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_bad_zips(tmp_path):
    link = zipfile.ZipInfo("link.dcm")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as content:
        content.writestr(link, "/etc/passwd")
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as content:
        content.writestr("zeros.dcm", bytes(3_000_000))
    assert bomb.stat().st_size < 10_000
    locked = bytearray(zipped(tmp_path / "locked.zip", **{"a.dcm": b"x"}).read_bytes())
    for mark in (b"PK\x03\x04", b"PK\x01\x02"):  # the encryption flag, in both headers
        locked[locked.index(mark) + (6 if mark[2] == 3 else 8)] |= 1
    (tmp_path / "locked.zip").write_bytes(locked)
    zipped(tmp_path / "empty.zip", **{"notes.txt": b"nothing"})
    zipped(tmp_path / "many.zip", **{f"{k}.dcm": b"x" for k in range(10_001)})
    (tmp_path / "junk.zip").write_bytes(b"PK but not a zip")
    for name, sentence in (
        ("link", "contains the link 'link.dcm'"), ("bomb", r"of 0\.0 GB, and the limits are 10000 files and 0\.001 GB"),
        ("locked", "is encrypted"), ("empty", "contains no DICOM series"), ("many", "unpacks to 10001 files"),
        ("junk", "cannot be read as a zip"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=sentence):
            unpack_series(tmp_path / f"{name}.zip", tmp_path / "out", max_gb=0.001)
    assert not list((tmp_path / "out").rglob("*.dcm"))


def test_names_of_uploads():
    assert clean_name("../../heart ed (1).nii.gz") == "heart_ed_1_.nii.gz"
    assert clean_name(".hidden") == "hidden" and clean_name("..") == "image"
    assert clean_name("x" * 300 + ".nii.gz").endswith("x.nii.gz")


def test_results_are_found_while_users_come(tmp_path, monkeypatch):
    """Requests for results arrive in other threads than the events of the page."""
    sessions = Sessions(tmp_path)
    tokens = [sessions.get(name).token for name in "ab"]

    def compared(mine: str, theirs: str) -> bool:
        newcomer = threading.Thread(target=sessions.get, args=("c",))
        newcomer.start()
        newcomer.join(0.2)
        return mine == theirs

    monkeypatch.setattr("secrets.compare_digest", compared)
    assert sessions.by_token(tokens[1]) is sessions.get("b")


def test_sessions_keep_users_apart(tmp_path, heart_files):
    sessions = Sessions(tmp_path)
    one, two = sessions.get("one"), sessions.get("two")
    assert sessions.get("one") is one and one.folder != two.folder and one.token not in two.folder.name
    assert sessions.by_token(two.token) is two and sessions.by_token("guess") is None
    upload = tmp_path / "heart 1.nii.gz"
    upload.write_bytes(Path(heart_files["fixed"]).read_bytes())
    name = one.receive(upload)
    assert not upload.exists() and (one.folder / name).is_file() and name.endswith("heart_1.nii.gz")
    with pytest.raises(InputError, match=r"heart_1\.nii\.gz did not arrive; upload it again"):
        two.receive(upload)
    shown = show(one.folder / name, one.folder / "shown" / "fixed", "heart")
    one.images = {"moving": "inputs/a/m.nii", "moving_label": "inputs/a/l.nii", "fixed_label": "inputs/a/f.nii"}
    (one.folder / "inputs" / "old").mkdir()
    (one.folder / "results").mkdir()
    one.update({"fixed": name}, {"fixed": shown})
    # Labels stay with their images; results of other images are gone.
    assert one.images == {"moving": "inputs/a/m.nii", "fixed": name}
    assert {p.name for p in (one.folder / "inputs").iterdir()} == {Path(name).parts[1]}
    assert not (one.folder / "results").exists()
    (one.folder / "results" / "registration").mkdir(parents=True)
    for file in ("registration/ddf.nii.gz", "registration/.lock"):
        (one.folder / "results" / file).write_bytes(b"x")
    assert zipfile.ZipFile(one.archive()).namelist() == ["registration/ddf.nii.gz"]
    stopped = []
    sessions.remove("one", stopped.append)
    sessions.remove("never there", stopped.append)
    assert stopped == [one.folder] and not one.folder.exists() and two.folder.exists()
    with pytest.raises(InputError, match="reload the page"):
        sessions.get("one")


@pytest.mark.parametrize("turn", [np.eye(3), [[0, 0, -1], [1, 0, 0], [0, 1, 0]], [[0, 1, 0], [0, 0, 1], [1, 0, 0]]])
def test_a_place_in_a_picture_is_a_place_in_the_image(tmp_path, turn):
    """A bright voxel is found by its colour in the picture, and its place there gives its mm, whatever the axes."""
    affine = np.eye(4)
    affine[:3, :3] = np.asarray(turn) @ np.diag([1.0, 2.0, 5.0])
    affine[:3, 3] = (-30, 12, 7)
    array = np.zeros((20, 16, 6), np.int16)
    voxel = (5, 11, 3)
    array[4:7, 10:13, 2:5] = 1000
    nib.save(nib.Nifti1Image(array, affine), tmp_path / "image.nii.gz")
    shown = show(tmp_path / "image.nii.gz", tmp_path / "shown", "image")
    truth = affine[:3, :3] @ voxel + affine[:3, 3]
    at = voxel[shown.plan.axis]
    pixels = np.asarray(Image.open(io.BytesIO(shown.picture(at))).convert("L"), float)
    assert sorted(pixels.shape) == [320, 512]  # 20 voxels of 1 mm and 16 of 2 mm
    y, x = (np.average(i, weights=pixels > 200) + 0.5 for i in np.indices(pixels.shape))
    np.testing.assert_allclose(shown.place(at, x / pixels.shape[1], y / pixels.shape[0]), truth, atol=0.3)
    assert shown.middle == 3
    labels = np.zeros(array.shape, np.uint8)
    labels[5, 11, 4] = 2
    shown.show_regions(labels)
    assert shown.middle == 4
    colour = np.asarray(Image.open(io.BytesIO(shown.picture(4))), float)
    assert (
        np.ptp(colour, axis=2).max() > 100
        and np.ptp(np.asarray(Image.open(io.BytesIO(shown.picture(0)))), axis=2).max() == 0
    )


def test_outlines_are_opaque_and_insides_are_not():
    labels = np.zeros((9, 9), int)
    labels[2:7, 2:7] = 1
    drawn = coloured(np.full((9, 9, 3), 100.0), labels, 1)
    assert (drawn[labels == 0] == 100).all()
    inside, edge = drawn[4, 4], drawn[2, 2]
    np.testing.assert_allclose(inside, 0.7 * 100 + 0.3 * edge, rtol=1e-5)


def test_without_gradio_the_command_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr("scripts.apps.web.app.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install -r requirements-app\.txt"):
        app()


@pytest.mark.slow
def test_jobs_run_one_by_one_and_can_be_stopped(tmp_path):
    worker = Worker()
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
    try:
        *steps, last = worker.run("phantom", folders[0], tuple)
        assert last.done and not any(s.done for s in steps)
        images, shown = last.value
        assert isinstance(shown["fixed"], Shown) and images["moving_label"].startswith("inputs")
        with pytest.raises(InputError, match="Load a fixed image first"):
            list(worker.run("run_register", folders[0], lambda: ({"moving": "x"}, {}, {})))
        with pytest.raises(InputError, match=r"^inputs/junk\.nii\.gz cannot be read") as error:
            (folders[1] / "inputs").mkdir()
            (folders[1] / "inputs" / "junk.nii.gz").write_bytes(b"junk")
            list(worker.run("load", folders[1], lambda: ("fixed", "inputs/junk.nii.gz", "")))
        assert str(tmp_path) not in str(error.value)
        running = worker.run("run_register", folders[0], lambda: (images, {"device": "cpu"}, shown))
        waiting = worker.run("phantom", folders[1], tuple)
        while next(running).part is None:
            pass
        assert next(waiting).text == "Waiting for 1 other job"
        process = worker._process
        running.close()
        assert not process.is_alive()
        assert [*waiting][-1].done  # in a new process
        again = worker.run("run_register", folders[0], lambda: (images, {"device": "cpu"}, shown))
        while next(again).part is None:
            pass
        worker.stop(folders[1])  # another user's folder
        assert worker._process.is_alive()
        worker.stop(folders[0])
        with pytest.raises(InputError, match="stopped, or ran out of memory"):
            list(again)
        assert not (folders[0] / "results" / "registration" / "correspondence.json").exists()
    finally:
        worker.close()
