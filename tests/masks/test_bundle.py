"""A real MONAI bundle, built and trained for a few steps here, as a source of masks."""

from __future__ import annotations

import json
import logging

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.networks.nets import UNet

from scripts.common.errors import InputError
from scripts.data.reader import read_volume
from scripts.masks import bundle as bundle_module
from scripts.masks.build import build_source
from tests.conftest import oblique

INFERENCE = {
    "imports": ["$import torch"],
    "bundle_root": ".",
    "output_dir": "$@bundle_root + '/eval'",
    "dataset_dir": "/nowhere",
    "device": "cpu",
    "activation": True,
    "network_def": {"_target_": "UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 3, "channels": [4, 8],
                    "strides": [2]},
    "network": "$@network_def.to(@device)",
    "preprocessing": {"_target_": "Compose", "transforms": [
        {"_target_": "LoadImaged", "keys": "image"},
        {"_target_": "EnsureChannelFirstd", "keys": "image"},
        {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
        {"_target_": "ScaleIntensityd", "keys": "image"},
    ]},
    "dataset": {"_target_": "Dataset", "data": "$[{'image': i} for i in sorted(glob.glob(@dataset_dir))]",
                "transform": "@preprocessing"},
    "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "num_workers": 0},
    "inferer": {"_target_": "SimpleInferer"},
    "postprocessing": {"_target_": "Compose", "transforms": [
        {"_target_": "Invertd", "keys": "pred", "transform": "@preprocessing", "orig_keys": "image"},
        {"_target_": "AsDiscreted", "keys": "pred", "argmax": "@activation"},
        {"_target_": "SaveImaged", "keys": "pred", "output_dir": "@output_dir", "print_log": False, "resample": False},
    ]},
    "checkpointloader": {"_target_": "CheckpointLoader", "load_path": "$@bundle_root + '/models/model.pt'",
                         "load_dict": {"model": "@network"}},
    "evaluator": {"_target_": "SupervisedEvaluator", "device": "@device", "val_data_loader": "@dataloader",
                  "network": "@network", "inferer": "@inferer", "postprocessing": "@postprocessing"},
    "initialize": ["$@checkpointloader(@evaluator)"],
    "run": ["$@evaluator.run()"],
}  # fmt: skip
METADATA = {
    "network_data_format": {
        "inputs": {"image": {"modality": "CT"}},
        "outputs": {"pred": {"channel_def": {"0": "background", "1": "dark organ", "2": "Spleen"}}},
    }
}


def scene(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two boxes of their own brightness in noise: values 1 and 2 of the label map."""
    rng = np.random.default_rng(seed)
    label = np.zeros((24, 20, 16), np.int64)
    x, y = rng.integers(2, 6, 2)
    label[x : x + 6, y : y + 9, 3:12] = 1
    label[x + 9 : x + 16, y : y + 9, 4:12] = 2
    return rng.normal(0, 5, label.shape) + np.asarray([0.0, -200.0, 250.0])[label], label


@pytest.fixture(scope="module")
def organs(tmp_path_factory):
    """The folder of the bundle; its network was trained on eight scenes forty times."""
    root = tmp_path_factory.mktemp("zoo") / "two_organs"
    (root / "configs").mkdir(parents=True)
    (root / "models").mkdir()
    (root / "scripts").mkdir()  # most bundles have a package of this name
    (root / "scripts" / "__init__.py").write_text("")
    (root / "configs" / "inference.json").write_text(json.dumps(INFERENCE))
    (root / "configs" / "metadata.json").write_text(json.dumps(METADATA))
    torch.manual_seed(0)
    net = UNet(**{k: v for k, v in INFERENCE["network_def"].items() if k != "_target_"})
    images, labels = (torch.from_numpy(np.stack(x)) for x in zip(*[scene(s) for s in range(8)]))
    images = (images - images.amin((1, 2, 3), True)) / (images.amax((1, 2, 3), True) - images.amin((1, 2, 3), True))
    optimizer = torch.optim.Adam(net.parameters(), 0.03)
    for _ in range(40):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(images[:, None].float()), labels).backward()
        optimizer.step()
    torch.save(net.state_dict(), root / "models" / "model.pt")
    return root


@pytest.fixture
def scan(tmp_path):
    image, label = scene(50)
    geometry = oblique(image.shape, (2.0, 2.0, 2.5), 8)
    nib.save(nib.Nifti1Image(image.astype(np.float32), geometry.affine), tmp_path / "scan.nii.gz")
    return read_volume(tmp_path / "scan.nii.gz"), label


def overlap_of(a, b) -> float:
    return 2 * np.sum(a & b) / (np.sum(a) + np.sum(b))


def test_a_bundle_segments_by_name(organs, scan, caplog):
    volume, label = scan
    source = build_source(f"bundle:{organs}")
    assert source.offered == ("dark organ", "spleen") and source.name == "bundle:two_organs"
    with caplog.at_level(logging.WARNING):
        masks = source(volume, "Spleen, dark organ", "mr")
    assert "trained on CT only" in caplog.text
    assert masks.labels.shape == volume.geometry.shape
    assert overlap_of(masks.labels == 1, label == 2) > 0.9
    assert overlap_of(masks.labels == 2, label == 1) > 0.9


@pytest.mark.slow  # a process of MONAI's takes long to start
def test_channels_of_a_bundle_that_saves_them_all(organs, scan):
    volume, label = scan
    options = {"values": {"dark organ": 1, "spleen": 2}, "overrides": {"activation": False}}
    masks = build_source(f"bundle:{organs}", options)(volume, "spleen")
    # Logits above one half, so a smaller mask than the argmax, in the same place.
    assert overlap_of(masks.labels == 1, label == 2) > 0.8


def test_prompts_reach_the_bundle(organs, scan, monkeypatch):
    volume, _ = scan
    asked = []
    source = build_source(f"bundle:{organs}", {"prompt_key": "label_prompt"})
    monkeypatch.setattr(source, "_run", lambda item, folder: asked.append(item))
    with pytest.raises(InputError, match="wrote 0 images for one"):
        source(volume, "spleen", "ct")
    assert asked[0]["label_prompt"] == [2]


def test_bundles_that_cannot_be_used(organs, scan, tmp_path, monkeypatch):
    volume, _ = scan
    with pytest.raises(InputError, match="is not a MONAI bundle: it has no folder configs"):
        build_source(f"bundle:{tmp_path}")
    with pytest.raises(InputError, match=r"has no configs/infer\.yaml"):
        build_source(f"bundle:{organs}", {"config": "infer.yaml"})
    with pytest.raises(InputError, match="has no structure 'liver'; it has dark organ, spleen"):
        build_source(f"bundle:{organs}")(volume, "liver", "ct")
    with pytest.raises(InputError, match=r"two_organs failed: .*Error"):
        build_source(f"bundle:{organs}", {"overrides": {"inferer#_target_": "NoInferer"}})(volume, "spleen", "ct")

    def offline(**_):
        raise OSError("no route to host")

    monkeypatch.setattr("monai.bundle.download", offline)
    with pytest.raises(InputError, match=r"'spleen_ct' is not in .* cannot be downloaded \(no route to host\)"):
        build_source("bundle:spleen_ct", {"download_dir": str(tmp_path)})
    (tmp_path / "mute" / "configs").mkdir(parents=True)
    (tmp_path / "mute" / "configs" / "inference.json").write_text("{}")
    with pytest.raises(InputError, match="do not name its channels"):
        build_source(f"bundle:{tmp_path / 'mute'}")
    (tmp_path / "mute" / "configs" / "metadata.json").write_text("{")
    with pytest.raises(InputError, match="is not valid JSON"):
        bundle_module.read_metadata(tmp_path / "mute")


def test_the_code_of_another_user_runs_only_if_trusted(organs, monkeypatch):
    if not hasattr(bundle_module.os, "getuid"):
        pytest.skip("folders have no owner here")
    monkeypatch.setattr(bundle_module.os, "getuid", lambda: organs.stat().st_uid + 1)
    with pytest.raises(InputError, match=r"of another user runs its own code; .* add --trust True"):
        build_source(f"bundle:{organs}")
    assert build_source(f"bundle:{organs}", {"trust": True}).offered == ("dark organ", "spleen")


def test_new_weights_of_a_bundle_are_another_identity(organs, scan):
    volume, _ = scan
    before = build_source(f"bundle:{organs}").identity(volume)
    assert build_source(f"bundle:{organs}").identity(volume) == before
    path = organs / "models" / "model.pt"
    content, stamp = path.read_bytes(), path.stat()
    try:
        path.write_bytes(content[:-1] + b"x")
        bundle_module.os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # the same size and time
        assert build_source(f"bundle:{organs}").identity(volume) != before
    finally:
        path.write_bytes(content)
