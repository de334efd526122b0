"""Training pieces: targets and prompts are right, a few steps learn, the config trains, stops and resumes."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from torch.utils.data import default_collate

from scripts.training.sam.inferer import (
    SamTraining,
    WeightedSum,
    dense_contrast,
    inside_points,
    jittered_boxes,
    prototype_contrast,
)
from scripts.training.sam.slices import Slice, acdc_subject, load_slices, sam_slices, save_slices, shape_subject
from scripts.training.sam.views import SamViews, touching
from tests.training.curves import check_plotted, seen_losses


@pytest.fixture(scope="module")
def views() -> SamViews:
    data = SamViews(
        {"shapes": shape_subject(1, 6)}, {"shapes": 1.0}, 8, img_size=64, mask_size=32, max_masks=6, points=12
    )
    data.set_random_state(0)
    return data


def test_views_show_the_same_places(views):
    """Where a point is visible in both views, the masks around it agree."""
    agree, total = 0, 0
    for i in range(8):
        sample = views[i]
        cells = (sample["points"] / 2).long().clamp(0, 31)
        for m in (sample["classes"] >= 0).nonzero()[:, 0]:
            inside = [sample["masks"][v, m][cells[v, :, 1], cells[v, :, 0]] > 127 for v in (0, 1)]
            agree += int((inside[0] == inside[1])[sample["visible"]].sum())
            total += int(sample["visible"].sum())
    assert total > 100
    assert agree / total > 0.93


def test_prompts_lie_where_they_should():
    masks = torch.zeros(3, 16, 16)
    masks[0, 2:5, 3:9], masks[1, 10:, 1:4], masks[2, 7, 7] = 1, 1, 1
    points, cell = inside_points(masks)
    assert torch.equal(masks.flatten(1).gather(1, cell[:, None])[:, 0], torch.ones(3))
    assert torch.equal(points.floor().long(), torch.stack([cell % 16, cell // 16], dim=1))
    assert torch.equal(jittered_boxes(masks, 0.0), torch.tensor([[3.0, 2, 9, 5], [1, 10, 4, 16], [7, 7, 8, 8]]))


def test_contrast_rewards_features_that_match():
    torch.manual_seed(0)
    masks = torch.zeros(4, 2, 8, 8)
    masks[:, 0, :4], masks[:, 1, 4:] = 1, 1
    valid, classes = torch.ones(4, 2, dtype=torch.bool), torch.zeros(2, 2, dtype=torch.int64)
    match, clash = torch.zeros(4, 4, 2, 2), torch.zeros(4, 4, 2, 2)
    for view in range(4):  # one direction for each region of each source; the clash swaps them in every second view
        for row in range(2):
            match[view, 2 * (view // 2) + row, row] = 1
            clash[view, 2 * (view // 2) + (row + view) % 2, row] = 1
    assert prototype_contrast(match, masks, valid, classes) < 0.01
    assert prototype_contrast(clash, masks, valid, classes) > 5
    points = torch.tensor([[2.0, 2.0], [6.0, 6.0]]).expand(2, 2, 2, 2)
    visible = torch.ones(2, 2, dtype=torch.bool)
    assert dense_contrast(match, points, visible, 8) < dense_contrast(clash, points, visible, 8) - 1


def test_a_few_steps_learn(tiny, views):
    torch.manual_seed(0)
    network = SamTraining(tiny, prompts=4, round_probability=1.0)
    loss = WeightedSum({"mask": 1.0, "refine": 0.5, "quality": 1.0, "prototype": 0.1, "dense": 0.1})
    optimiser = torch.optim.AdamW(network.parameters(), 2e-3)
    batch = default_collate([views[i] for i in range(4)])
    values, reached = [], set()
    for _ in range(24):
        value = loss(network(**batch))
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        values.append(value.item())
        reached |= {name for name, p in tiny.named_parameters() if p.grad is not None}
    assert sum(values[-5:]) < 0.85 * sum(values[:5])
    assert reached == {name for name, _ in tiny.named_parameters()}
    assert set(loss.terms) == {"mask", "refine", "quality", "prototype", "dense", "best_iou"}


def test_corrections_see_the_mask_before_them(tiny, views, monkeypatch):
    """Every click lies where the mask before it is wrong, and only the last decoding carries gradients."""
    network = SamTraining(tiny, prompts=2, round_probability=1.0, corrections=3)
    decoded = []
    plain = network._decode

    def watched(embedding, points, boxes, previous, outputs):
        answer = plain(embedding, points, boxes, previous, outputs)
        decoded.append((points, previous, answer[0]))
        return answer

    draws = iter((2, 2))  # the kind of round, then the number of corrections minus one
    monkeypatch.setattr(network, "_decode", watched)
    monkeypatch.setattr(torch, "randint", lambda *args, **kwargs: torch.tensor(next(draws)))
    network(**default_collate([views[i] for i in range(2)]))["refine"].backward()
    assert len(decoded) == 4  # the first answer and three corrections
    for (_, _, before), (_, previous, _) in pairwise(decoded[1:]):
        assert torch.equal(previous, before.detach())
    assert [points[0].shape[1] for points, _, _ in decoded] == [1, 2, 3, 4]
    assert [answer.requires_grad for _, _, answer in decoded] == [True, False, False, True]
    with pytest.raises(ValueError, match="corrections must be at least 1, got 0"):
        SamTraining(tiny, corrections=0)


def test_compiled_encoder_keeps_names_and_answers(tiny, views):
    """The compiler may change the speed, but neither the names of the weights nor the results."""
    batch = default_collate([views[i] for i in range(2)])
    names, losses = set(SamTraining(tiny).state_dict()), []
    for compiler in (None, "eager"):
        network = SamTraining(tiny, prompts=2, compiler=compiler)
        torch.manual_seed(0)
        losses.append(network(**batch))
        assert set(network.state_dict()) == names
    assert tiny.image_encoder._compiled_call_impl is not None
    for name, value in losses[0].items():
        assert float(value.detach()) == pytest.approx(float(losses[1][name].detach()), rel=1e-5)


def test_unions_are_of_structures_that_touch():
    label = torch.zeros(40, 40, dtype=torch.int32)
    label[5:20, 5:20], label[20:35, 5:20], label[5:20, 24:36] = 1, 2, 3
    assert touching(label) == [(1, 2)]
    assert touching(label, label.masked_fill(label == 2, 0)) == []
    item = Slice((label.numpy() * 60).astype("uint8"), label.numpy().astype("int16")[None])
    for unions, expected in ((0, 3), (2, 4)):
        data = SamViews({"shapes": [item]}, {"shapes": 1.0}, 1, 64, 32, max_masks=8, points=4, unions=unions)
        data.set_random_state(3)
        whole = torch.nn.functional.affine_grid(torch.eye(2, 3)[None], (1, 1, 64, 64), False)
        data._grids = lambda names, whole=whole: whole.expand(2, -1, -1, -1)
        sample = data.views(item)
        assert int((sample["classes"] >= 0).sum()) == expected
        areas = sorted((sample["masks"][0, :expected].float() / 255).mean(dim=(1, 2)).tolist())
        if unions:  # the union is as large as its two parts together
            assert areas[-1] == pytest.approx(areas[-2] + areas[-3], rel=1e-3)


def test_overlays_name_what_they_change(bundle):
    configs = bundle / "configs"
    base = ConfigParser.load_config_files(str(configs / "train_sam.json"))
    names = ["datasets/acdc_sam.json", "datasets/abdomen_ct_sam.json", "train_sam_no_contrast.json"]
    parser = ConfigParser()
    parser.read_config([str(configs / name) for name in ("train_sam.json", *names)])
    parser.update({"bundle_root": "B", "data_dir": "DATA"})
    paths = {key: parser.get_parsed_content(key) for key in ("acdc_dir", "abdomen_dir", "split_dir", "weights")}
    assert paths == {"acdc_dir": "DATA/acdc", "abdomen_dir": "DATA/abdomen_ct", "split_dir": "DATA/splits",
                     "weights": "B/runs/sam_no_contrast/compact_sam.pt"}  # fmt: skip
    weights = {**base["loss_weights"], "prototype": 0.0, "dense": 0.0}
    assert parser.get_parsed_content("loss_function").weights == weights
    for name in names:  # an overlay with a key that the config does not know would do nothing
        changed = {key.split("#")[0] for key in json.loads((configs / name).read_text(encoding="utf-8"))}
        assert changed - {"data_dir"} <= set(base)
    several = json.loads((configs / "multi_gpu_train_sam.json").read_text(encoding="utf-8"))
    assert several["network"]["module"] == base["network"]


def test_missing_data_is_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="has no label maps"):
        acdc_subject(tmp_path / "patient001")
    (tmp_path / "abdomen_ct.json").write_text('{"training": ["0001"]}')
    with pytest.raises(ValueError, match=r"img0001.nii.gz does not exist; give the folder"):
        sam_slices(str(tmp_path / "cache"), abdomen_dir=str(tmp_path), split_dir=str(tmp_path), phantoms=0, shapes=0)
    assert not (tmp_path / "cache").exists()  # no partial file is kept
    with pytest.raises(ValueError, match="No training slices: the sources are shapes"):
        SamViews({"shapes": shape_subject(1, 1)}, {"shapes": 0.0}, 1)


def test_slices_are_cached(tmp_path):
    made = shape_subject(2, 2)
    save_slices(tmp_path / "a.npz", made)
    read = load_slices(tmp_path / "a.npz")
    assert [s.groups for s in read] == [s.groups for s in made]
    assert all((a.image == b.image).all() and (a.layers == b.layers).all() for a, b in zip(made, read))
    found = sam_slices(str(tmp_path / "cache"), phantoms=2, shapes=1)
    assert {k: len(v) for k, v in found.items()} == {"phantom": 16, "shapes": 40}
    with pytest.raises(ValueError, match="'brain'"):
        SamViews(found, {"brain": 1.0}, 4)


def test_config_trains_stops_and_resumes(bundle, tmp_path):
    options = {
        "bundle_root": str(bundle),
        "output_dir": str(tmp_path / "run"),
        "dataset_dir": str(tmp_path / "slices"),
        "weights": str(tmp_path / "weights.pt"),
        "train#slices#phantoms": 2,
        "train#slices#shapes": 1,
        "validate#slices#phantoms": 2,
        "validate#dataset#length": 4,
        "samples_per_epoch": 4,
        "batch_size": 2,
        "num_workers": 0,
        "validate#dataloader#num_workers": 0,
        "network_def": {
            "_target_": "scripts.sam.compact.compact_sam",
            "tokens": 16,
            "embed_dim": 32,
            "mlp_dim": 64,
            "channels": [8, 16, 16, 32],
            "depths": [1, 1, 1, 1],
            "attention_depth": 1,
        },
        "tokens": 16,
        "amp": None,
    }
    seen = {}
    for epochs in (1, 2):
        workflow = ConfigWorkflow(
            str(bundle / "configs" / "train_sam.json"), workflow_type="train", max_epochs=epochs, **options
        )
        workflow.initialize()
        assert not workflow.check_properties()
        found = seen_losses(workflow)
        workflow.run()
        workflow.finalize()
        seen |= found
        trainer = workflow.parser.get_parsed_content("train#trainer")
        assert trainer.state.epoch == epochs
        assert trainer.state.iteration == 2 * epochs  # the second run resumes where the first one stopped
    assert set(check_plotted(tmp_path / "run", seen)["best_iou"]) == {2}
    state = torch.load(tmp_path / "weights.pt", weights_only=True)
    assert all(v.dtype == torch.float16 for v in state.values() if v.is_floating_point())
    workflow = ConfigWorkflow(
        str(bundle / "configs" / "train_sam.json"), workflow_type="train", max_epochs=3,
        **{**options, "network_def#embed_dim": 64},
    )  # fmt: skip
    workflow.initialize()
    with pytest.raises(RuntimeError) as caught:  # MONAI wraps what a config's expression raises
        workflow.run()
    assert "last.pt does not fit this network" in str(caught.value.__cause__)
