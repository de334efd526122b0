"""The proposal head: its targets are right, a few steps learn where an object is, its config trains and resumes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow
from monai.data import PersistentDataset

from scripts.common.errors import InputError
from scripts.sam.proposals import ProposalHead, boxes_at, distinct, proposal_head, propose
from scripts.training.sam.proposals import (
    ProposalTraining,
    cached_part,
    item_hash,
    object_masks,
    recall,
    slice_items,
    targets,
)
from scripts.training.sam.slices import Slice
from tests.training.curves import check_plotted, seen_losses

TEACHER = {
    "_target_": "scripts.sam.compact.compact_sam", "img_size": 256, "tokens": 64, "embed_dim": 256, "mlp_dim": 32,
    "channels": [8, 8, 8, 16], "depths": [1, 1, 1, 1], "attention_depth": 1,
}  # fmt: skip


def test_each_cell_means_the_smallest_structure_of_its_range():
    masks = torch.zeros(1, 4, 32, 32, dtype=torch.bool)
    masks[0, 0, 4:12, 4:12] = True  # a structure of 64 pixels
    masks[0, 1, 6:12, 6:12] = True  # a smaller one inside, of the same range
    masks[0, 2, 4:12, 4:12] = True  # a region over both
    masks[0, 3, 20:22, 20:22] = True  # a small region elsewhere
    boxes = torch.tensor([[[32.0, 32, 96, 96], [48, 48, 96, 96], [32, 32, 96, 96], [160, 160, 176, 176]]])
    chosen, weight = targets(masks, boxes, torch.tensor([[1.0, 1.0, 0.15, 0.15]]))
    assert chosen[0, 2, 4, 4] == 0 and chosen[0, 2, 8, 8] == 1
    assert weight[0, 2].sum() == 64 and weight[0, 1].sum() == 0
    assert chosen[0, 0, 20, 20] == 3 and float(weight[0, 0].sum()) == pytest.approx(4 * 0.15)


def test_objects_are_structures_groups_and_regions():
    layers = np.zeros((2, 40, 40), np.int16)
    layers[0, 5:15, 5:15], layers[0, 8:12, 8:12] = 2, 3
    layers[1, :, :20] = 1  # half of the view
    item = Slice(np.zeros((40, 40), np.uint8), layers, ((2, 3),))
    masks, weights = object_masks(item, torch.from_numpy(layers), np.random.default_rng(0))
    assert weights.tolist() == pytest.approx([1, 1, 1, 0.15])
    assert masks.flatten(1).sum(dim=1).tolist() == [84, 16, 100, 800]


def test_the_order_holds_the_sources_in_their_shares():
    slices = {"acdc": [plain(k) for k in range(60)], "shapes": [plain(100 + k) for k in range(20)]}
    shares = {"acdc": 0.75, "shapes": 0.25}
    items = slice_items(slices, shares, seed=3)
    assert len(items) == 80 and len({(i["source"], i["number"]) for i in items}) == 80
    assert sum(i["source"] == "acdc" for i in items[:20]) == 15
    assert items == slice_items(slices, shares, seed=3)
    assert items != slice_items(slices, shares, seed=4)
    both = slice_items(slices, shares, seed=3, views=2)
    assert both[:80] == items and [i["digest"] for i in both[80:]] == [i["digest"] for i in items]
    assert len({item_hash(i) for i in both}) == 160


def test_a_cached_item_is_found_whatever_other_slices_there_are():
    few, many = {"acdc": [plain(7)]}, {"acdc": [plain(k) for k in range(9)]}
    (one,) = slice_items(few, {"acdc": 1.0})
    assert item_hash(one) in {item_hash(i) for i in slice_items(many, {"acdc": 1.0})}


def plain(value: int) -> Slice:
    return Slice(np.full((4, 4), value, np.uint8), np.zeros((1, 4, 4), np.int16))


def test_cached_items_need_no_time_budget(tmp_path):
    made = []

    def transform(item):
        made.append(item["n"])
        return torch.tensor(item["n"])

    data = PersistentDataset([{"n": n} for n in range(6)], transform, tmp_path)
    data[4]
    part = cached_part(data, budget_s=0.0, progress=False)
    assert part.indices == [0, 4] and made == [4, 0]
    assert cached_part(data, budget_s=60.0, progress=False).indices == list(range(6))


def test_recall_is_the_share_of_structures_met():
    boxes = torch.tensor([[[10.0, 10, 50, 50], [100, 100, 160, 150], [0, 0, 0, 0]]])
    answers = torch.zeros(1, 1, 2, 2, 4)
    answers[0, 0, 0, 0] = torch.tensor([11.0, 10, 50, 52])
    answers[0, 0, 1, 1] = torch.tensor([100.0, 100, 110, 110])
    scores = torch.full((1, 1, 2, 2), 0.5)
    assert float(recall(scores, answers, boxes, torch.tensor([[1.0, 1.0, 0.0]]))) == 0.5
    assert recall(scores, answers, boxes, torch.zeros(1, 3)).isnan()


def test_suppression_keeps_nested_boxes_and_drops_slivers():
    boxes = torch.tensor([[0.0, 0, 40, 40], [1, 0, 41, 40], [10, 10, 20, 20], [0, 0, 2, 40]])
    kept = distinct(boxes, torch.tensor([0.8, 0.9, 0.3, 1.0]), 10, 0.1)
    assert kept.boxes.tolist() == [[1, 0, 41, 40], [10, 10, 20, 20]]
    assert len(distinct(boxes, torch.tensor([0.8, 0.9, 0.3, 1.0]), 1, 0.1).boxes) == 1


def test_it_learns_where_an_object_is():
    """A few steps on one bright square in the embedding make it the first proposal and the answer to a click."""
    torch.manual_seed(0)
    head = ProposalHead(width=8, channels=16)
    network = ProposalTraining(head)
    embedding = torch.randn(1, 8, 64, 64) * 0.1
    embedding[:, :4, 16:32, 24:40] += 2
    masks = torch.zeros(1, 2, 32, 32, dtype=torch.bool)
    masks[0, 0, 8:16, 12:20] = True
    box = torch.tensor([96.0, 64, 160, 128])
    batch = {"embedding": embedding, "masks": masks, "boxes": torch.stack([box, box * 0])[None],
             "weights": torch.tensor([[1.0, 0.0]])}  # fmt: skip
    optimizer = torch.optim.Adam(head.parameters(), lr=0.01)
    losses = []
    for _ in range(60):
        terms = network(**batch)
        loss = terms["score"] + terms["box"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.4 * losses[0]
    head.eval()
    found = propose(head, embedding[0], (256, 256))
    torch.testing.assert_close(found.boxes[0], box, atol=12, rtol=0)
    clicked = boxes_at(head, embedding[0], torch.tensor([120.0, 90.0]), (256, 256))
    torch.testing.assert_close(clicked.boxes[0], box, atol=12, rtol=0)


def test_config_trains_exports_and_resumes(bundle, tmp_path):
    options = {
        "bundle_root": str(bundle), "device": "cpu", "amp": None, "progress": False, "sam_def": TEACHER,
        "dataset_dir": str(tmp_path / "slices"), "embedding_dir": str(tmp_path / "embeddings"),
        "output_dir": str(tmp_path / "run"), "weights": str(tmp_path / "proposals.pt"), "phantoms": 1, "shapes": 0,
        "batch_size": 4, "sources": {"phantom": 1.0},
    }  # fmt: skip
    seen = {}
    for epochs in (1, 2):
        workflow = ConfigWorkflow(
            str(bundle / "configs" / "train_proposals.json"),
            workflow_type="train",
            logging_file=False,
            max_epochs=epochs,
            **options,
        )
        workflow.initialize()
        found = seen_losses(workflow)
        workflow.run()
        workflow.finalize()
        seen |= found
        trainer = workflow.parser.get_parsed_content("train#trainer")
        steps = len(workflow.parser.get_parsed_content("train#dataloader"))
        assert trainer.state.iteration == epochs * steps
    recall = workflow.parser.get_parsed_content("validate#evaluator").state.metrics["recall"]
    assert 0 <= recall <= 1
    assert check_plotted(tmp_path / "run", seen) == {"recall": {2: pytest.approx(recall)}}
    trained = workflow.parser.get_parsed_content("network_def").state_dict()
    for name, value in proposal_head(tmp_path / "proposals.pt").state_dict().items():
        torch.testing.assert_close(value, trained[name], atol=1e-3, rtol=1e-2)


def test_missing_and_foreign_weights(tmp_path):
    with pytest.raises(InputError, match=r"gone\.pt"):
        proposal_head(tmp_path / "gone.pt")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(InputError, match="does not fit the proposal head"):
        proposal_head(tmp_path / "other.pt")
