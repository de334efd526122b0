"""Images unlike the training images of a bundled model give a warning; others do not."""

from __future__ import annotations

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from scripts.benchmarks.models.intensities import measure
from scripts.data.pair import LoadPair
from scripts.data.reader import read_volume
from scripts.data.seen import SEEN, CompareIntensities, quartiles, unlike
from scripts.data.splits import split_of


@pytest.fixture
def heart_image(heart_files):
    return read_volume(heart_files["moving"])


def test_quartiles_are_those_of_the_windowed_image():
    array = np.random.default_rng(0).gamma(2.0, 100.0, (1, 40, 30, 20)).astype(np.float32)
    low, high = np.percentile(array, [0.5, 99.5])
    windowed = np.clip((array - low) / (high - low), 0, 1)
    np.testing.assert_allclose(quartiles(array, "mr"), np.quantile(windowed, [0.25, 0.5, 0.75]), atol=1e-4)


@pytest.mark.parametrize("model", SEEN)
def test_a_heart_is_familiar(heart_image, model):
    assert unlike(heart_image, model) is None


@pytest.mark.parametrize(
    ("change", "how"),
    [
        (lambda a: a.max() - a, "25% of its intensities, scaled to [0, 1], lie below 0.5"),  # black and white swapped
        (lambda a: np.where(np.arange(a.size).reshape(a.shape) % 50 == 0, a * 100.0, a), "lie below 0.0"),  # metal
        (lambda a: (a > np.median(a)) * 1.0, "25% of its intensities, scaled to [0, 1], lie below 0.00"),  # a mask
        (lambda a: a - 1000.0, "its intensities are those of CT"),
    ],
)
def test_other_intensities_are_not_familiar(heart_image, change, how):
    said = unlike(replace(heart_image, array=change(heart_image.array.astype(np.float32))), "network")
    assert how in said


def test_the_compact_sam_has_seen_no_photographs(heart_image, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    assert "photograph" in unlike(read_volume(tmp_path / "photo.png"), "compact")
    assert unlike(replace(heart_image, array=heart_image.array - 1000.0), "compact") is None  # CT it has seen


def test_both_images_of_a_pair_are_reported(heart_files, tmp_path):
    image = nib.load(heart_files["moving"])
    array = np.asarray(image.dataobj)
    nib.save(nib.Nifti1Image(array.max() - array, image.affine), tmp_path / "negative.nii.gz")
    load, compare = LoadPair(), CompareIntensities("network")
    usual = compare(load({"moving": heart_files["moving"], "fixed": heart_files["fixed"]}))
    assert usual["warnings"] == []
    odd = compare(load({"moving": str(tmp_path / "negative.nii.gz"), "fixed": heart_files["fixed"]}))
    assert len(odd["warnings"]) == 1
    assert odd["warnings"][0].startswith(
        f"{tmp_path}/negative.nii.gz differs from the training images of the registration network "
        "(short-axis cardiac MR): "
    )


def test_real_hearts_have_been_seen_and_abdomens_have_not(real_data):
    for patient in split_of(real_data / "splits", "acdc", "validation")[:3]:
        for path in sorted((real_data / "acdc" / patient).glob("*_frame??.nii.gz")):
            assert unlike(read_volume(path), "network") is None
    abdomen = read_volume(real_data / "abdomen_ct" / "img0001.nii.gz")
    assert unlike(abdomen, "network") == "its intensities are those of CT"
    assert "lie below" in unlike(abdomen, "network", "mr")


@pytest.mark.slow
def test_the_ranges_are_those_of_the_training_images(real_data):
    found = np.concatenate(list(measure(str(real_data), "training").values()))
    ranges = np.array(SEEN["network"].quartiles)
    assert np.all(ranges[:, 0] <= found.min(axis=0)) and np.all(found.max(axis=0) <= ranges[:, 1])
    np.testing.assert_allclose(ranges, np.stack([found.min(axis=0), found.max(axis=0)], axis=1), atol=0.002)
