"""The network from the command line: outputs, measures, and refusals in one sentence."""

from __future__ import annotations

import json
import sys

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from scripts import __main__ as cli
from scripts.network.model import CrossFusionNet

NET = ["--network_def#channels", "[4,8]"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    """A small untrained network that moves things by a few voxels."""
    torch.manual_seed(0)
    net = CrossFusionNet(channels=(4, 8), strides=(2, 2, 1), window=(4, 4, 2), diffeomorphic=True)
    for level in net.levels:
        torch.nn.init.normal_(level.head.weight, std=0.03)
    path = tmp_path_factory.mktemp("weights") / "net.pt"
    torch.save(net.state_dict(), path)
    return str(path)


def register(monkeypatch, files, out, weights, *more) -> int:
    words = ["scripts", "register", files["moving"], files["fixed"], "--output_dir", str(out), "--method", "network"]
    words += ["--checkpoint", weights, "--progress", "False", "--overview", "False", *NET]
    monkeypatch.setattr(sys, "argv", [*words, *more])
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_outputs_are_those_of_roi_registration(monkeypatch, heart_files, tmp_path, weights):
    masks = ["--moving_mask", heart_files["moving_label"], "--fixed_mask", heart_files["fixed_label"]]
    labels = ["--moving_label", heart_files["moving_label"], "--fixed_label", heart_files["fixed_label"]]
    few = ["--instance_steps", "2", "--check", "False"]  # so few that the check raises doubts
    assert register(monkeypatch, heart_files, tmp_path, weights, *masks, *labels, *few) == 0
    record = json.loads((tmp_path / "correspondence.json").read_text(encoding="utf-8"))
    assert len(record["pairs"]) == 3 and record["warnings"] == []
    assert record["details"]["instance"]["steps"] == 2
    assert {"dice", "hd95_mm", "field"} <= set(record["metrics"])
    fixed, rois = nib.load(heart_files["fixed_label"]), nib.load(tmp_path / "fixed_rois.nii.gz")
    np.testing.assert_array_equal(rois.get_fdata(), fixed.get_fdata())

    # With the written field, ITK moves the native image in the same way.
    field = sitk.ReadImage(str(tmp_path / "ddf.nii.gz"), sitk.sitkVectorFloat64)
    moving, target = (sitk.ReadImage(heart_files[k], sitk.sitkFloat64) for k in ("moving", "fixed"))
    moved = sitk.Resample(moving, target, sitk.DisplacementFieldTransform(field), sitk.sitkLinear, 0.0)
    ours = nib.load(tmp_path / "moved.nii.gz").get_fdata()
    inner = (slice(6, -6), slice(6, -6), slice(1, -1))
    np.testing.assert_allclose(sitk.GetArrayFromImage(moved).T[inner], ours[inner], atol=1.0)


def test_without_masks_it_registers_and_says_so(monkeypatch, heart_files, tmp_path, weights):
    assert register(monkeypatch, heart_files, tmp_path, weights, "--masks", "None") == 0
    record = json.loads((tmp_path / "correspondence.json").read_text(encoding="utf-8"))
    assert record["pairs"] == [] and "No masks of structures" in record["warnings"][0]
    assert (tmp_path / "ddf.nii.gz").exists()


def test_the_shipped_network_says_what_it_has_not_seen(monkeypatch, heart_files, tmp_path):
    """An inverted heart is unlike its training images; the fixed image and the user's weights raise no warning."""
    image = nib.load(heart_files["moving"])
    negative = np.asarray(image.dataobj).max() - np.asarray(image.dataobj)
    nib.save(nib.Nifti1Image(negative, image.affine), tmp_path / "negative.nii.gz")
    words = ["scripts", "register", str(tmp_path / "negative.nii.gz"), heart_files["fixed"], "--method", "network"]
    words += ["--moving_mask", heart_files["moving_label"], "--fixed_mask", heart_files["fixed_label"]]
    words += ["--check", "False"]  # which would discard the field of an inverted image
    monkeypatch.setattr(sys, "argv", [*words, "--output_dir", str(tmp_path / "out"), "--progress", "False"])
    cli.main()
    record = json.loads((tmp_path / "out" / "correspondence.json").read_text(encoding="utf-8"))
    (said,) = record["warnings"]
    assert said.startswith(f"{tmp_path}/negative.nii.gz differs from the training images of the registration network")
    assert said.replace("'", "&#x27;") in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--checkpoint", "gone.pt"], "The weights of the registration network are not at gone.pt"),
        (["--method", "best"], "Unknown method 'best'; choose one of samreg, network, auto."),
        (["--epsilon", "0.7"], "--epsilon is an option of --method samreg, not of network"),
        (["--instance_steps", "-2"], "must not be negative, got -2"),
        (
            ["--structures", "[heart]", "--network_def#structures", "3"],
            "contains the label 3, but there are 1 structures",
        ),
    ],
)
def test_refusals(monkeypatch, heart_files, tmp_path, weights, capsys, more, message):
    masks = ["--moving_mask", heart_files["moving_label"], "--fixed_mask", heart_files["fixed_label"]]
    assert register(monkeypatch, heart_files, tmp_path, weights, *masks, *more) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("codes", ["SLP", "RAS"])
def test_the_order_of_axes_in_the_files_changes_nothing(monkeypatch, heart_files, tmp_path, weights, codes):
    """The same pair stored with other axes: the network sees the patient in the same orientation."""
    turned = dict(heart_files)
    for key in ("moving", "fixed", "moving_label", "fixed_label"):
        image = nib.load(heart_files[key])
        turn = nib.orientations.ornt_transform(nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(codes))
        turned[key] = str(tmp_path / f"{key}.nii.gz")
        nib.save(image.as_reoriented(turn), turned[key])
    moved = {}
    for name, files in (("plain", heart_files), ("turned", turned)):
        masks = ["--moving_mask", files["moving_label"], "--fixed_mask", files["fixed_label"]]
        assert register(monkeypatch, files, tmp_path / name, weights, *masks, "--instance_steps", "2") == 0
        moved[name] = nib.load(tmp_path / name / "moved.nii.gz")
    assert nib.aff2axcodes(moved["turned"].affine) == tuple(codes)
    original = nib.load(heart_files["fixed"]).affine
    back = nib.orientations.ornt_transform(nib.io_orientation(moved["turned"].affine), nib.io_orientation(original))
    difference = moved["turned"].as_reoriented(back).get_fdata() - moved["plain"].get_fdata()
    assert np.abs(moved["plain"].get_fdata() - nib.load(heart_files["fixed"]).get_fdata()).mean() > 1
    assert np.abs(difference).mean() < 0.05 and np.abs(difference).max() < 5
