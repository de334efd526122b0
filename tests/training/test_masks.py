"""The training config on two phantom patients: it trains, stops, resumes, and ships what the sources can load."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow
from monai.losses import DiceCELoss

from scripts.common.errors import InputError
from scripts.common.weights import export_weights, load_weights, read_checkpoint
from scripts.data.pair_lists import mask_file
from scripts.data.phantoms.cardiac import cardiac_pair
from scripts.data.reader import read_volume
from scripts.masks.net import build_net
from scripts.training.masks import (
    DeepSupervision,
    PrepareLabelled,
    export_net,
    inner_part,
    labelled_items,
    training_net,
)
from scripts.verbs.masks import masks
from tests.training.curves import check_plotted, seen_losses


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two phantom hearts in the folders of ACDC."""
    root = tmp_path_factory.mktemp("data")
    (root / "splits").mkdir()
    (root / "splits" / "acdc.json").write_text(json.dumps({"training": ["p1", "p2"], "validation": []}))
    for seed, patient in enumerate(("p1", "p2")):
        pair = cardiac_pair(seed, (64, 60, 7), (3.0, 3.0, 10.0))
        (root / "acdc" / patient).mkdir(parents=True)
        for frame, image, label in ((1, pair.moving, pair.moving_label), (9, pair.fixed, pair.fixed_label)):
            stem = root / "acdc" / patient / f"{patient}_frame{frame:02d}"
            nib.save(nib.Nifti1Image(np.rint(image).astype(np.int16), pair.fixed_affine), f"{stem}.nii.gz")
            nib.save(nib.Nifti1Image(np.minimum(label, 3).astype(np.uint8), pair.fixed_affine), f"{stem}_gt.nii.gz")
    return root


def test_items_and_inner_split(data):
    items = labelled_items(data, "acdc")
    assert len(items) == 4 and items[0]["label"].endswith("p1_frame01_gt.nii.gz")
    assert items[0]["image"].endswith("p1_frame01.nii.gz")
    train, held = inner_part(items, 2)
    assert {i["subject"] for i in held} == {"p1"} and {i["subject"] for i in train} == {"p2"}
    assert inner_part(items, 0) == (items, [])
    with pytest.raises(InputError, match=r"abdomen_ct\.json has no list of training subjects; give the folder"):
        labelled_items(data, "abdomen_ct")
    with pytest.raises(InputError, match="give their folder with --dataset_dir"):
        labelled_items(None, "acdc")
    with pytest.raises(InputError, match="has no labelled images of the split"):
        labelled_items(data, "acdc", "validation")


def test_prepared_labels_lie_on_the_prepared_image(data):
    item = labelled_items(data, "acdc")[0]
    ready = PrepareLabelled("cardiac")(item)
    assert ready["image"].shape == ready["label"].shape == (1, 128, 120, 7)
    image, label = read_volume(item["image"]), read_volume(item["label"])
    own = np.corrcoef(image.array.ravel(), label.array.ravel() == 3)[0, 1]
    new = np.corrcoef(ready["image"].float().numpy().ravel(), ready["label"].numpy().ravel() == 3)[0, 1]
    assert new == pytest.approx(own, abs=0.05)


def test_deep_supervision_is_the_weighted_loss_of_every_level():
    torch.manual_seed(0)
    net = training_net("cardiac", 2)
    image, labels = torch.rand(2, 1, 32, 32, 4), torch.randint(0, 4, (2, 1, 32, 32, 4)).float()
    predictions = net(image)
    assert predictions.shape == (2, 3, 4, 32, 32, 4)
    loss = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False, batch=True)
    levels = [loss(predictions[:, k], labels) for k in range(3)]
    found = DeepSupervision(loss)(predictions, labels)
    assert found.item() == pytest.approx((levels[0] + 0.5 * levels[1] + 0.25 * levels[2]).item(), rel=1e-5)
    assert DeepSupervision(loss)(predictions[:, 0], labels).item() == pytest.approx(levels[0].item(), rel=1e-6)
    found.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.deep_supervision_heads.parameters())
    # In evaluation it is the network without heads.
    net.eval()
    assert torch.equal(net(image), predictions[:, 0]) and net(image).shape == (2, 4, 32, 32, 4)
    with pytest.raises(InputError, match="Deep supervision of 4 levels is not possible; cardiac has 0 to 3"):
        training_net("cardiac", 4)


def test_weights_of_deep_supervision_fit_the_network_without_it(tmp_path):
    torch.manual_seed(1)
    deep = training_net("cardiac", 3)
    export_net(deep, "cardiac", tmp_path / "w.pt")
    plain = build_net("cardiac").eval()
    load_weights(plain, read_checkpoint(tmp_path / "w.pt"), "w.pt", "cardiac")
    image = torch.rand(1, 1, 32, 32, 4)
    assert torch.allclose(plain(image), deep.eval()(image), atol=0.02)  # stored in half precision
    # They are initial weights for a training with or without heads, and plain weights are stored as before.
    again = training_net("cardiac", 1, str(tmp_path / "w.pt")).eval()
    assert torch.equal(again(image), plain(image))
    assert torch.equal(training_net("cardiac", 0, str(tmp_path / "w.pt")).eval()(image), plain(image))
    export_net(plain, "cardiac", tmp_path / "a.pt")
    export_weights(plain, tmp_path / "b.pt")
    one, two = (torch.load(tmp_path / name, weights_only=True) for name in ("a.pt", "b.pt"))
    assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


@pytest.mark.parametrize("heads", [0, 2])
def test_training_resumes_and_its_weights_are_a_source(heads, bundle, data, tmp_path):
    files = [str(bundle / "configs" / "train_masks.json"), str(bundle / "configs" / "datasets" / "acdc_masks.json")]

    def train(epochs: int) -> ConfigWorkflow:
        workflow = ConfigWorkflow(
            files,
            workflow_type="train",
            meta_file=str(bundle / "configs" / "metadata.json"),
            bundle_root=str(bundle),
            dataset_dir=str(data),
            output_dir=str(tmp_path / "run"),
            weights=str(tmp_path / "cardiac_net.pt"),
            max_epochs=epochs,
            samples_per_epoch=2,
            held_out=2,
            fold=1,
            deep_supervision=heads,
        )
        workflow.initialize()
        assert workflow.check_properties() == []
        found = seen_losses(workflow)
        workflow.run()
        workflow.finalize()
        seen.update(found)
        return workflow

    seen = {}
    train(1)
    first = torch.load(tmp_path / "cardiac_net.pt", weights_only=True)
    assert all(v.dtype == torch.float16 for v in first.values())
    assert (tmp_path / "cardiac_net.pt").stat().st_size < 6e6
    again = train(2)
    assert again.trainer.state.iteration == 4  # two of the first run, two more
    assert set(seen) == {1, 2, 3, 4} and check_plotted(tmp_path / "run", seen) == {}
    second = torch.load(tmp_path / "cardiac_net.pt", weights_only=True)
    assert any(not torch.equal(first[k], second[k]) for k in first)
    # The weights make masks of the patients that they have not seen, and a training finds these masks.
    shown = {item["subject"] for item in again.parser.get_parsed_content("train#dataset").data}
    listed = (tmp_path / "run" / "held_out.txt").read_text(encoding="utf-8").split()
    assert shown == {"p1"} and [Path(path).parent.name for path in listed] == ["p2", "p2"]
    names = "right ventricle,myocardium,left ventricle"
    checkpoint = str(tmp_path / "cardiac_net.pt")
    masks(tmp_path / "run" / "held_out.txt", names, tmp_path / "crossfitted", checkpoint=checkpoint, progress=False)
    for path in listed:
        made = read_volume(mask_file(str(tmp_path / "crossfitted"), Path(path).name.removesuffix(".nii.gz")))
        assert made.geometry.shape == read_volume(path).geometry.shape
