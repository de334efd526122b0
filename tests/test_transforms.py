"""The dictionary transforms: the result of the verb, fields against scipy, round trips, and bad input."""

from __future__ import annotations

import pickle
import re

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Flipd, Invertd, LoadImaged
from scipy.ndimage import map_coordinates

from scripts import register
from scripts.common.errors import InputError
from scripts.data.phantoms.cardiac import cardiac_pair
from scripts.data.sample import write_phantom
from scripts.spatial.fields import read_field
from scripts.spatial.geometry import LPS, apply_affine, world_displacement
from scripts.transforms import RegionPairsd, RegisterPaird, WarpByFieldd
from tests.conftest import oblique, smooth_field

# A stand-in for the network of everything mode, so that a registration takes less than a second.
QUICK = {"everything": {"_target_": "tests.workflow.cohort.stand_in.Bands"}, "dense_settings#steps": 4, "device": "cpu"}
ALIGNED = {"init": "moments", "image_weight": 1.0, **QUICK}


@pytest.fixture(scope="module")
def tilted(tmp_path_factory) -> dict[str, str]:
    """Files of a 3-D pair on two oblique anisotropic grids of different size."""
    folder, pair = tmp_path_factory.mktemp("tilted"), cardiac_pair(3, (40, 44, 6), (3.6, 3.6, 9.0))
    paths = {}
    for name, array, degrees in (("moving", pair.moving, 17.0), ("fixed", pair.fixed[:38], 12.0)):
        grid = oblique(array.shape, (3.6, 3.4, 9.0), degrees)
        paths[name] = str(folder / f"{name}.nii.gz")
        nib.save(nib.Nifti1Image(array.astype(np.float32), grid.affine), paths[name])
    return paths


@pytest.fixture(scope="module")
def loaded(tilted) -> dict:
    return LoadImaged(["moving", "fixed"], ensure_channel_first=True)(tilted)


@pytest.fixture(scope="module")
def registered(loaded) -> dict:
    return RegisterPaird(regions=True, **ALIGNED)(loaded)


def one_sentence(error: pytest.ExceptionInfo) -> str:
    text = str(error.value)
    assert text.endswith((".", "?")) and "\n" not in text
    return text


def test_result_is_that_of_the_verb(tilted, registered, tmp_path):
    options = {"overview": False, "progress": False, **ALIGNED}
    record = register(tilted["moving"], tilted["fixed"], tmp_path / "out", **options)
    u, grid = read_field(tmp_path / "out" / "ddf.nii.gz")
    assert np.abs(u).max() > 1
    assert np.allclose(world_displacement(registered["ddf"].numpy(), grid), u, atol=1e-4)
    assert np.allclose(registered["ddf"].affine, grid.affine, atol=1e-5)
    moved = nib.load(tmp_path / "out" / "moved.nii.gz").get_fdata()
    assert np.allclose(registered["moved"][0], moved, atol=1e-3 * np.ptp(moved))
    assert np.allclose(registered["region_scores"], [p["score"] for p in record["pairs"]], atol=1e-3)
    views = [nib.load(tmp_path / "out" / f"{role}_rois.nii.gz").get_fdata() for role in ("moving", "fixed")]
    for role, view in zip(("moving", "fixed"), views):
        regions = registered[f"{role}_regions"]
        assert np.array_equal(regions.amax(dim=0).numpy() > 0, view > 0)
        assert np.allclose(regions.affine, registered[role].affine)


def test_excluded_voxels_change_nothing(loaded):
    hidden = torch.zeros_like(loaded["moving"])
    hidden[:, 14:24, 14:26, 1:5] = 1
    fields = []
    for value in (0.0, 900.0):
        data = {**loaded, "lesion": hidden, "moving": torch.where(hidden > 0, value, loaded["moving"])}
        fields.append(RegisterPaird(exclude_keys={"moving": "lesion"}, **ALIGNED)(data)["ddf"].as_tensor())
    assert torch.equal(*fields)


def test_region_pairs_need_no_field(loaded, registered):
    found = RegionPairsd(**ALIGNED)(loaded)
    assert "ddf" not in found and len(found["region_scores"]) > 0
    for key in ("moving_regions", "fixed_regions", "region_scores"):
        assert torch.equal(torch.as_tensor(found[key]), torch.as_tensor(registered[key]))


def test_warped_images_and_points_follow_the_field(registered):
    """scipy reads the moving image at A_moving^-1 A_fixed (i + ddf)."""
    ddf, fixed, moving = registered["ddf"].numpy(), registered["fixed"].affine, registered["moving"].affine
    index = np.stack(np.meshgrid(*map(np.arange, ddf.shape[1:]), indexing="ij"), axis=-1)
    world = apply_affine(fixed.numpy(), index + np.moveaxis(ddf, 0, -1))
    places = np.moveaxis(apply_affine(np.linalg.inv(moving.numpy()), world), -1, 0)
    shape = np.reshape(registered["moving"].shape[1:], (3, 1, 1, 1))
    inside = ((places > 0) & (places < shape - 1)).all(axis=0)
    image = registered["moving"][0].numpy()
    label = (image > np.median(image)).astype(np.int16)[None]
    points = apply_affine(fixed.numpy(), index[5:30:6, 4:40:7, 1:5])
    data = registered | {"label": MetaTensor(label, affine=moving), "points": torch.from_numpy(points)}
    warped = WarpByFieldd(["moving", "label", "points"], ["linear", "nearest", "points"])(data)
    expected = map_coordinates(image, places, order=1)
    assert inside.mean() > 0.5
    assert np.abs(warped["moving"][0].numpy() - expected)[inside].max() < 2e-3 * np.ptp(image)
    assert np.allclose(warped["moving"].affine, fixed)
    off = np.abs(places - np.floor(places) - 0.5).min(axis=0) > 1e-3  # not half-way between two voxels
    nearest = label[0][tuple(np.rint(places[:, inside & off]).astype(int))]
    assert warped["label"].dtype == torch.int16
    assert np.array_equal(warped["label"][0].numpy()[inside & off], nearest)
    apart = (warped["points"].numpy() - world[5:30:6, 4:40:7, 1:5]) @ np.linalg.inv(fixed.numpy()[:3, :3]).T
    assert np.abs(apart).max() < 0.1 and warped["points"].shape == points.shape


@pytest.mark.parametrize("shape", [(48, 40), (40, 36, 12)])
def test_inverse_brings_everything_back(shape):
    n, spacing = len(shape), (1.5, 2.0, 4.0)
    fixed, moving = oblique(shape, spacing[:n]), oblique(tuple(s + 4 for s in shape), spacing[:n])
    ddf = MetaTensor(smooth_field(shape, 0.8)[0], affine=torch.from_numpy(fixed.affine))
    axes = np.meshgrid(*[np.linspace(-1, 1, s) for s in moving.shape], indexing="ij")
    image = MetaTensor(np.exp(-4 * sum(a**2 for a in axes))[None].astype(np.float32), affine=moving.affine)
    label = MetaTensor((image.numpy() > 0.5).astype(np.uint8), affine=moving.affine)
    points = apply_affine(fixed.affine, np.pad(np.argwhere(np.ones([4] * n)) * 2 + 3.0, ((0, 0), (0, 3 - n))))
    pipeline = Compose(
        [Flipd(["image"], 0), WarpByFieldd(["image", "label", "points"], ["linear", "nearest", "points"])]
    )
    data = pipeline({"image": image, "label": label, "points": points, "ddf": ddf})
    assert data["image"].shape[1:] == shape and np.allclose(data["image"].affine, fixed.affine)
    assert np.abs(data["points"] - points).max() > 0.5
    # A prediction on the fixed grid, brought back without the field in its dictionary.
    prediction = {"pred": MetaTensor(torch.as_tensor(data["image"]) > 0.5), "image": data["image"]}
    carried = Invertd("pred", pipeline, orig_keys="image", nearest_interp=True)(prediction)["pred"]
    assert carried.shape == image.shape and set(np.unique(carried.numpy())) <= {0, 1}
    back = pipeline.inverse(data)
    assert back["image"].shape == image.shape and np.allclose(back["image"].affine, image.affine)
    inner = (0, *[slice(6, -6) if s > 20 else slice(3, -3) for s in moving.shape])
    assert np.abs((back["image"] - image).numpy()[inner]).max() < 0.05
    both = (back["label"].numpy() & label.numpy()).sum()
    assert 2 * both / (back["label"].sum() + label.sum()) > 0.93 and back["label"].dtype == torch.uint8
    assert np.abs(back["points"] - points).max() < 0.02
    assert ((carried.numpy() > 0) == (label.numpy() > 0))[inner].mean() > 0.97


def test_arrays_affines_of_planes_and_lps(tmp_path):
    """A plane gives the same field as array, as slice of a volume, and with an affine in LPS."""
    pair = cardiac_pair(1, (40, 40), (3.6, 3.6))
    arrays = {"moving": pair.moving[None], "fixed": pair.fixed[None]}
    # Without an affine the voxels are 1 mm large.
    spaced = {k: MetaTensor(v, affine=np.diag([3.6, 3.6, 1.0])) for k, v in arrays.items()}
    lps = {"space": "LPS"}
    others = {k: MetaTensor(v[..., None], affine=LPS @ np.diag([3.6, 3.6, 1, 1]), meta=lps) for k, v in arrays.items()}
    transform = RegisterPaird(**QUICK)
    first, second, third = (transform(data)["ddf"] for data in (spaced, others, arrays))
    assert transform(others)["moved"].shape == (1, 40, 40, 1)
    assert first.shape == (2, 40, 40) == third.shape and first.abs().max() > 0.5
    assert torch.allclose(first.as_tensor(), second.as_tensor(), atol=1e-4)
    assert first.affine.shape == (3, 3) and second.meta["space"] == "LPS"
    assert torch.equal(third.affine, torch.eye(4, dtype=torch.float64))


def test_a_pipeline_keeps_its_random_numbers_and_travels_to_workers(loaded, registered):
    transform = pickle.loads(pickle.dumps(RegisterPaird(**ALIGNED)))
    state, numbers = torch.get_rng_state(), np.random.get_state()[1].copy()
    assert torch.equal(transform(loaded)["ddf"].as_tensor(), registered["ddf"].as_tensor())
    assert torch.equal(torch.get_rng_state(), state) and np.array_equal(np.random.get_state()[1], numbers)


def test_bad_input_is_refused_in_one_sentence(loaded, registered):
    transform = RegisterPaird(**QUICK)
    far = MetaTensor(loaded["moving"].as_tensor(), affine=loaded["moving"].affine.clone())
    far.affine[:3, 3] += 5000
    constant = MetaTensor(torch.ones_like(loaded["moving"].as_tensor()), affine=loaded["moving"].affine)
    for change, word in (
        ({"moving": None}, '"moving"'),
        ({"moving": loaded["moving"][..., None]}, "(1, 40, 44, 6, 1)"),
        ({"moving": far}, "do not overlap"),
        ({"moving": constant}, "everywhere"),
        ({"moving": np.ones((2, 8, 8))}, "2 values per voxel"),
        ({"moving": "moving.nii.gz"}, "LoadImaged"),
        ({"moving": loaded["moving"][..., 3]}, "2-D"),
    ):
        with pytest.raises(InputError) as error:
            transform(loaded | change)
        assert word in one_sentence(error)
    with pytest.raises(InputError) as error:
        transform({"fixed": loaded["fixed"]})
    assert '"moving"' in one_sentence(error)
    for options, word in (
        ({"smothness": 3}, "smoothness"),
        ({"method": "auto"}, "auto"),
        ({"output_dir": "out"}, "output_dir"),
        ({"dense": False}, "dense"),
        ({"keys": ["moving"]}, "keys"),
        ({"mask_keys": ["a", "b"]}, "mask_keys"),
        ({"exclude_keys": {"both": "lesion"}}, "exclude_keys"),
    ):
        with pytest.raises(InputError) as error:
            RegisterPaird(**options)
        assert word in one_sentence(error)
    with pytest.raises(InputError) as error:
        WarpByFieldd("moving", "bilinear")
    assert "bilinear" in one_sentence(error)
    for keys, mode, change, word in (
        ("label", "nearest", {}, '"label"'),
        ("moving", "linear", {"ddf": None}, '"ddf"'),
        ("moving", "linear", {"ddf": registered["ddf"][:2]}, "one channel per dimension"),
        ("moving", "linear", {"moving": loaded["moving"][..., 3]}, "3-D"),
        ("moving", "points", {}, "points"),
    ):
        with pytest.raises(InputError) as error:
            WarpByFieldd(keys, mode)(registered | change)
        assert word in one_sentence(error).replace("Points", "points")


def test_example_of_the_page(bundle, tmp_path, monkeypatch, capsys):
    """It runs as printed, with the bundled model but fewer prompts."""
    write_phantom(tmp_path, cardiac_pair(3, (64, 64), (3.0, 3.0)))
    monkeypatch.chdir(tmp_path)
    [code] = re.findall(r"```python\n(.*?)```", (bundle / "docs" / "python.md").read_text(encoding="utf-8"), re.S)
    assert 10 <= len(code.splitlines()) <= 16
    code, count = re.subn(r"(RegisterPaird\(.*?)\)", r"\1, points_per_side=8)", code)
    assert count == 1
    names: dict = {}
    exec(code, names)
    data = names["data"]
    assert data["moved"].shape == data["fixed"].shape and len(data["region_scores"]) > 0
    assert np.allclose(data["moving_label"].affine, data["fixed"].affine)
    assert names["back"]["moving_label"].shape == data["moving"].shape
    assert capsys.readouterr().out.startswith("(2, 64, 64)")


def test_network_with_masks_is_that_of_the_verb(heart_files, tmp_path):
    masks = {f"{role}_mask": heart_files[f"{role}_label"] for role in ("moving", "fixed")}
    options = {
        "method": "network",
        "instance_steps": 2,
        "device": "cpu",
        "structures": ["right ventricle", "myocardium", "left ventricle"],
    }
    out = tmp_path / "out"
    files = {role: heart_files[role] for role in ("moving", "fixed")}
    record = register(**files, **masks, output_dir=out, overview=False, progress=False, **options)
    data = LoadImaged([*files, *masks], ensure_channel_first=True)(files | masks)
    found = RegisterPaird(mask_keys=["moving_mask", "fixed_mask"], **options)(data)
    u, grid = read_field(out / "ddf.nii.gz")
    assert np.abs(u).max() > 1 and np.allclose(world_displacement(found["ddf"].numpy(), grid), u, atol=1e-3)
    assert len(record["pairs"]) == 3
