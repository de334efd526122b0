"""A pair on one working grid: geometry, channels, checks."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from scripts.common.errors import InputError
from scripts.data import pair
from scripts.data.intensity import apply_window
from scripts.data.pair import LoadPair, coarsen, one_pair, working_grid
from scripts.data.phantoms.cardiac import cardiac_pair
from scripts.data.sample import pair_list, write_phantom
from scripts.spatial.affine import align
from scripts.spatial.geometry import Geometry, apply_affine
from tests.conftest import oblique, rotation


def save(path, array, affine):
    nib.save(nib.Nifti1Image(array, affine), path)
    return str(path)


def test_moving_lands_on_the_fixed_grid_through_both_affines(tmp_path):
    # The same scene on two oblique grids of different size: on the working grid both must show the same.
    pair = cardiac_pair(
        1, (80, 72, 8), (2.2, 2.4, 10.0), noise=0.0, bias=0.0, orientation=rotation((1, 2, 0), 25),
        fixed_shape=(60, 64, 10), fixed_spacing=(3.0, 2.8, 8.0),
    )  # fmt: skip
    still = cardiac_pair(1, (60, 64, 10), (3.0, 2.8, 8.0), noise=0.0, bias=0.0, orientation=rotation((1, 2, 0), 25))
    paths = {
        "moving": save(tmp_path / "m.nii.gz", pair.moving, pair.moving_affine),
        "fixed": save(tmp_path / "f.nii.gz", still.moving, still.moving_affine),
    }
    image = LoadPair(window="mr")(paths)["image"]
    assert image.shape == (2, 60, 64, 10)
    np.testing.assert_allclose(image.affine, still.moving_affine, atol=1e-5)
    moving, fixed = (np.asarray(i)[5:-5, 5:-5, 2:-2] for i in image)
    assert np.corrcoef(moving.ravel(), fixed.ravel())[0, 1] > 0.95


def test_optional_parts(heart_files):
    data = LoadPair()(heart_files)
    pair = data["pair"]
    assert pair.moving_label.array.dtype == np.uint8
    assert pair.fixed_landmarks.shape == (24, 3)
    assert pair.working.shape == pair.fixed.geometry.shape
    np.testing.assert_array_equal(pair.transform, np.eye(4))
    batch = one_pair([data])
    assert batch["image"].shape == (1, 2, *pair.working.shape)
    assert float(batch["image"].min()) == 0
    assert float(batch["image"].max()) == 1
    torch.testing.assert_close(
        data["image"][1], apply_window(torch.from_numpy(pair.fixed.array), "mr")[0], atol=1e-4, rtol=0
    )


def test_labels_of_a_series(tmp_path, heart, heart_files):
    """Frame 0 counts as a frame, and a label map of that one frame is accepted like a series."""
    image, label = (np.asarray(nib.load(heart_files[k]).dataobj) for k in ("moving", "moving_label"))
    series = {
        "moving": save(tmp_path / "m.nii.gz", np.stack([image, image[::-1]], -1), heart.moving_affine),
        "moving_label": save(tmp_path / "l.nii.gz", np.stack([label, label[::-1]], -1), heart.moving_affine),
    }
    for frame, expected in ((0, label), (1, label[::-1])):
        pair = LoadPair()({**heart_files, **series, "moving_frame": frame})["pair"]
        np.testing.assert_array_equal(pair.moving_label.array[0], expected)
    single = {**heart_files, "moving": series["moving"], "moving_frame": 1}
    np.testing.assert_array_equal(LoadPair()(single)["pair"].moving_label.array[0], label)


def test_landmarks_outside_give_a_warning(tmp_path, heart_files):
    (tmp_path / "p.csv").write_text("x,y,z\n0,0,0\n5000,0,0\n")
    data = LoadPair()({**heart_files, "fixed_landmarks": str(tmp_path / "p.csv"), "moving_landmarks": None})
    assert "1 of 2 landmarks" in data["pair"].warnings[0] and "check --points_frame" in data["pair"].warnings[0]


@pytest.mark.parametrize("size", [0, -5, 1, 2.5, "abc", True])
def test_impossible_sizes(size):
    with pytest.raises(InputError, match="max_size must be a whole number"):
        LoadPair(max_size=size)
    with pytest.raises(InputError, match="fill_nan must be a number, got 'abc'"):
        LoadPair(fill_nan="abc")


def test_working_grid_coarsens_only_what_is_too_fine():
    assert working_grid(Geometry((128, 128, 10), np.diag([1.5, 1.5, 8, 1])), 256).shape == (128, 128, 10)
    assert working_grid(Geometry((512, 512, 100), np.diag([0.8, 0.8, 3.0, 1])), 256).shape == (256, 256, 100)
    grid = working_grid(Geometry((2912, 1456), np.diag([-1.0, -1, 1, 1])), 256)
    assert grid.shape == (256, 128)


def test_coarsen_keeps_the_box_and_the_mean():
    grid = oblique((64, 60, 9), (0.5, 0.5, 4.0))
    image = torch.rand(1, *grid.shape)
    small, coarse = coarsen(image, grid, 2.0)
    assert coarse.shape == (16, 15, 9)
    np.testing.assert_allclose(coarse.corners_ras(), grid.corners_ras(), atol=1e-9)
    assert float(small.mean()) == pytest.approx(float(image.mean()), rel=1e-4)


def test_colour_and_grey_pictures(tmp_path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(rng.integers(0, 255, (40, 50), dtype=np.uint8)).save(tmp_path / "b.png")
    image = LoadPair()({"moving": str(tmp_path / "a.png"), "fixed": str(tmp_path / "b.png")})["image"]
    assert image.shape == (6, 50, 40)
    torch.testing.assert_close(image[3], image[5])


def test_alignment_moves_the_moving_image(tmp_path, heart):
    far = heart.moving_affine.copy()
    far[:3, 3] += (400, 0, 0)
    paths = {
        "moving": save(tmp_path / "m.nii.gz", heart.moving, far),
        "fixed": save(tmp_path / "f.nii.gz", heart.moving, heart.moving_affine),
    }
    with pytest.raises(InputError, match=r"do not overlap in space.*mm RAS.*mm RAS.*--init moments"):
        LoadPair()(paths)
    data = LoadPair(init="moments")(paths)
    np.testing.assert_allclose(data["pair"].transform[:3, 3], (400, 0, 0), atol=0.1)
    torch.testing.assert_close(data["image"][0], data["image"][1], atol=0.02, rtol=0)


def test_an_affine_is_found_on_coarse_images(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    blobs = ndimage.gaussian_filter(rng.random((180, 150, 60)), 6)
    array = np.clip((blobs - blobs.min()) / np.ptp(blobs), 0.1, 1).astype(np.float32)
    truth = np.eye(4)
    truth[:3, :3] = rotation((0, 0, 1), 5) @ np.diag([1.04, 0.97, 1.0])
    truth[:3, 3] = (6, -5, 3)
    affine = np.diag([2.0, 2.0, 4.0, 1.0])
    paths = {
        "moving": save(tmp_path / "m.nii.gz", array, truth @ affine),
        "fixed": save(tmp_path / "f.nii.gz", array, affine),
    }
    shapes = []
    monkeypatch.setattr(pair, "align", lambda *a: shapes.extend([a[0].image.shape, a[1].image.shape]) or align(*a))
    found = LoadPair(init="affine")(paths)["pair"].transform
    assert all(max(shape) <= 101 and shape[2] == 60 for shape in shapes)  # 4 mm is fine enough
    corners = np.array([[x, y, z] for x in (60, 300) for y in (60, 240) for z in (40, 200)])
    errors = np.linalg.norm(apply_affine(found, corners) - apply_affine(truth, corners), axis=1)
    assert errors.max() < 0.5


def test_bad_pairs(tmp_path, heart, heart_files):
    flat = save(tmp_path / "flat.nii.gz", heart.moving[:, :, :1], heart.moving_affine)
    with pytest.raises(InputError, match=r"flat\.nii\.gz is 2-D and .*fixed\.nii\.gz is 3-D"):
        LoadPair()({"moving": flat, "fixed": heart_files["fixed"]})
    with pytest.raises(InputError, match="No fixed image"):
        LoadPair()({"moving": flat, "fixed": None})
    with pytest.raises(InputError, match="window must be one of"):
        LoadPair(window="bone")(heart_files)
    with pytest.raises(InputError, match="'rigid' is not a file"):
        LoadPair(init="rigid")(heart_files)
    wrong = save(tmp_path / "label.nii.gz", heart.moving_label[:-1], heart.moving_affine)
    with pytest.raises(InputError, match=r"label\.nii\.gz is on another grid \(63 x 64 x 6 voxels"):
        LoadPair()({**heart_files, "moving_label": wrong})
    shifted, turned = heart.moving_affine.copy(), heart.moving_affine.copy()
    shifted[0, 3] += 7
    turned[:3, 0] *= -1
    for name, affine, words in (
        ("shifted", shifted, r"first voxel at \[.*\] mm RAS\) .* \(first voxel at"),
        ("turned", turned, r"axes along \[\[1\.0.* \(axes along \[\[-1\.0"),
    ):
        wrong = save(tmp_path / f"{name}.nii.gz", heart.moving_label, affine)
        with pytest.raises(InputError, match=rf"{name}\.nii\.gz is on another grid \({words}"):
            LoadPair()({**heart_files, "moving_label": wrong})
    soft = save(tmp_path / "soft.nii.gz", heart.moving_label * 0.3, heart.moving_affine)
    with pytest.raises(InputError, match="not whole numbers"):
        LoadPair()({**heart_files, "moving_label": soft})
    with pytest.raises(InputError, match=r"nowhere\.csv does not exist"):
        LoadPair()({**heart_files, "moving_landmarks": str(tmp_path / "nowhere.csv")})


def test_windows():
    ct = apply_window(torch.tensor([[[-1000.0, -125.0, 75.0, 275.0, 900.0]]]), "ct")
    np.testing.assert_allclose(ct[0, 0], [0, 0, 0.5, 1, 1])
    ramp = torch.arange(1001.0).view(1, 1, 1001)
    mr = apply_window(ramp, "mr")
    assert float(mr[0, 0, 500]) == pytest.approx(0.5, abs=1e-3)
    assert float(mr[0, 0, 5]) == pytest.approx(0, abs=1e-3)
    assert float(apply_window(torch.full((1, 2, 2), 255.0), "none").max()) == 1
    torch.testing.assert_close(apply_window(ramp - 100, "auto"), apply_window(ramp - 100, "ct"))
    torch.testing.assert_close(apply_window(ramp, "auto"), mr)
    with pytest.raises(ValueError, match=r"got 0\.\.1000"):
        apply_window(ramp, "none")


def test_sample_pair_is_made_once(tmp_path):
    first = pair_list(str(tmp_path), sample_seed=1)[0]
    stamp = (tmp_path / "cardiac_1" / "moving.nii.gz").stat().st_mtime_ns
    assert pair_list(str(tmp_path), sample_seed=1)[0] == first
    assert (tmp_path / "cardiac_1" / "moving.nii.gz").stat().st_mtime_ns == stamp
    assert pair_list(str(tmp_path), moving="a", fixed="b") == [{"moving": "a", "fixed": "b"}]
    with pytest.raises(InputError, match="Only the moving image"):
        pair_list(str(tmp_path), moving="a", fixed=None)
    with pytest.raises(InputError, match="'brain'"):
        pair_list(str(tmp_path), sample="brain")


def test_phantom_files_hold_the_truth(heart, tmp_path):
    from scripts.spatial.fields import read_field
    from scripts.spatial.geometry import voxel_displacement

    paths = write_phantom(tmp_path, heart)
    u, grid = read_field(paths["true_ddf"])
    np.testing.assert_allclose(voxel_displacement(u, grid), heart.ddf, atol=1e-3)


def test_counts_of_landmarks_are_compared_before_the_alignment(heart_files, tmp_path, monkeypatch):
    monkeypatch.setattr(pair, "align", lambda *_: pytest.fail("the images were aligned first"))
    rows = Path(heart_files["moving_landmarks"]).read_text(encoding="utf-8").splitlines()
    (tmp_path / "few.csv").write_text("\n".join(rows[:-2]), encoding="utf-8")
    with pytest.raises(InputError, match=r"few\.csv has 22 landmarks and .*csv has 24; landmark k of one file"):
        LoadPair(init="affine")({**heart_files, "moving_landmarks": str(tmp_path / "few.csv")})


def test_warnings_about_all_inputs_travel_with_the_pair(heart_files, tmp_path):
    assert LoadPair()(heart_files)["pair"].warnings == ()
    changed = dict(heart_files)
    for role in ("moving", "moving_label"):
        image = nib.load(heart_files[role])
        image.set_qform(np.diag([2, 3, 4, 1]) @ image.affine, 1)
        image.header["pixdim"][1:4] = np.linalg.norm(image.affine[:3, :3], axis=0)
        changed[role] = str(tmp_path / f"{role}.nii.gz")
        nib.save(image, changed[role])
    rows = Path(heart_files["fixed_landmarks"]).read_text(encoding="utf-8").splitlines()
    (tmp_path / "far.csv").write_text("\n".join([*rows[:-1], "900,900,900"]), encoding="utf-8")
    said = LoadPair(header="affine")({**changed, "fixed_landmarks": str(tmp_path / "far.csv")})["pair"].warnings
    assert len(said) == 3
    assert "moving.nii.gz has two affines" in said[0] and "1 of 24 landmarks" in said[1]
    assert "moving_label.nii.gz has two affines" in said[2]
