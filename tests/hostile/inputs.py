"""Sound inputs of every kind for every command, as small as they can be."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from PIL import Image

from scripts import register
from scripts.common.bundle import MODELS
from scripts.common.weights import export_weights
from scripts.data.phantoms.cardiac import cardiac_pair
from scripts.data.sample import write_phantom
from scripts.masks.net import build_net
from scripts.network.model import CrossFusionNet
from scripts.spatial.chain import Linear
from scripts.spatial.landmark_files import Landmarks, write_landmark_file
from scripts.spatial.transform_files import read_chain, write_chain
from scripts.verbs.masks import masks
from tests.apps.dicom_series import write_series

FIELDS = ("field.nii.gz", "field.nrrd", "field.mha", "field.h5", "field.tfm", "field.npz")
AFFINES = ("affine.mat", "affine.tfm", "affine.txt", "affine.h5", "matrix.txt")
IMAGES = ("moving.nii.gz", "moving.nii.gz", "moving.nii.gz", "moving.mha", "moving.nrrd", "series")
POINTS = ("points.csv", "points.fcsv", "points.mrk.json")
QUICK = {
    "device": "cpu",
    "overview": False,
    "progress": False,
    "everything": {"_target_": "tests.workflow.cohort.stand_in.Bands"},
    "dense_settings#steps": 4,
    "dense_settings#levels": 1,
}
NETWORK = {
    "device": "cpu",
    "overview": False,
    "progress": False,
    "masks": None,
    "network_def": {
        "_target_": "scripts.network.model.CrossFusionNet",
        "structures": 3,
        "channels": [4, 4, 4, 4],
        "strides": [2, 2, 1],
        "window": [4, 4, 2],
    },
}


def make_inputs(folder: Path) -> Path:
    """Writes one sound file of every kind, a result folder, the folder of a cohort, and one of the command masks."""
    pair = cardiac_pair(3, (24, 22, 5), (6.0, 6.0, 12.0))
    files = write_phantom(folder, pair)
    field = read_chain(files["true_ddf"])
    grid = field[0].grid
    shift = np.eye(4)
    shift[:3, 3], shift[0, 1] = (1, 2, 3), 0.02
    for name in FIELDS:
        write_chain(folder / name, field, grid, grid)
    for name in AFFINES[:-1]:
        write_chain(folder / name, [Linear(shift)], grid)
    np.savetxt(folder / "matrix.txt", shift)
    for name in POINTS:
        write_landmark_file(folder / name, Landmarks(pair.moving_landmarks, ["a"] * len(pair.moving_landmarks)))
    for name in ("moving.mha", "moving.nrrd"):
        sitk.WriteImage(sitk.ReadImage(files["moving"]), str(folder / name))
    image = nib.load(files["moving"])
    positive = np.clip(np.asarray(image.dataobj), 0, None)
    write_series(folder / "series", positive, image.affine, study="1.2.3", frame="1.2.4")
    nib.save(nib.Nifti1Image(np.stack([positive] * 3, axis=3), image.affine), folder / "frames.nii.gz")
    for name in ("moving.png", "fixed.png", "moving.tif"):
        picture = np.roll(np.kron(np.arange(16).reshape(4, 4), np.ones((8, 8))) * 15, name.startswith("moving"), axis=1)
        Image.fromarray(picture.astype(np.uint8)).save(folder / name)
    export_weights(CrossFusionNet(structures=3, channels=(4, 4, 4, 4), strides=(2, 2, 1), window=(4, 4, 2)),
                   folder / "network.pt")  # fmt: skip
    export_weights(build_net("cardiac"), folder / "cardiac.pt")
    (folder / "sam.pt").write_bytes((MODELS / "compact_sam.pt").read_bytes())
    _write_lists(folder, files)
    register(pairs=folder / "pairs.json", output_dir=folder / "cohort", **QUICK)
    register(files["moving"], files["fixed"], folder / "result", inverse=True, **QUICK)
    label = files["moving_label"]
    masks(files["moving"], "a,b", folder / "masked", f"files:{label}", values={"a": 1, "b": 2}, progress=False)
    return folder


def _write_lists(folder: Path, files: dict[str, str]) -> None:
    """Lists of pairs, cases, images and names."""
    roles = ("moving", "fixed", "moving_label", "fixed_label", "moving_landmarks", "fixed_landmarks")
    pairs = [{"name": name, **{role: Path(files[role]).name for role in roles}} for name in ("p", "q")]
    case = {"name": "a", "transforms": "field.nii.gz", **{role: Path(files[role]).name for role in roles[2:4]}}
    pictures = [{"name": name, **{role: f"{role}.png" for role in roles[:2]}} for name in ("p", "q")]
    (folder / "pictures.json").write_text(json.dumps(pictures), encoding="utf-8")
    for stem, rows in (("pairs", pairs), ("cases", [case])):
        (folder / f"{stem}.json").write_text(json.dumps(rows), encoding="utf-8")
        lines = [list(rows[0]), *(list(row.values()) for row in rows)]
        for ending, comma in (("csv", ","), ("tsv", "\t")):
            text = "".join(comma.join(line) + "\n" for line in lines)
            (folder / f"{stem}.{ending}").write_text(text, encoding="utf-8")
    (folder / "images.json").write_text(json.dumps(["moving.nii.gz", "fixed.nii.gz"]), encoding="utf-8")
    (folder / "images.txt").write_text("moving.nii.gz\nfixed.nii.gz\n", encoding="utf-8")
    (folder / "names.json").write_text(json.dumps({"1": "a"}), encoding="utf-8")
