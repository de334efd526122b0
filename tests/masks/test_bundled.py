from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from scripts.common.errors import InputError
from scripts.data.reader import Volume
from scripts.masks.build import build_source
from scripts.masks.bundled import BundledNet
from scripts.masks.net import NETS, build_net, net_spec
from scripts.masks.source import MaskSource
from scripts.spatial.geometry import Geometry
from tests.masks.conftest import volume_of


@pytest.fixture(scope="module")
def heart(untrained) -> BundledNet:
    return build_source("cardiac", {"checkpoint": untrained["cardiac"]})


def test_network_shapes():
    for name, spec in NETS.items():
        side = 32 if name == "abdomen" else 16
        out = build_net(name)(torch.zeros(1, 1, side, side, side if name == "abdomen" else 4))
        assert out.shape[1] == 1 + len(spec.names) and out.shape[2] == side


def test_masks_on_the_native_grid(heart):
    volume = volume_of()
    masks = heart(volume, "LV, RV", "mr", probabilities=True)
    assert isinstance(heart, MaskSource)
    assert masks.labels.shape == volume.geometry.shape and masks.labels.dtype == np.uint8
    assert masks.names == ("left ventricle cavity", "right ventricle cavity")
    assert set(np.unique(masks.labels)) <= {0, 1, 2}
    assert masks.probabilities.shape == (2, *volume.geometry.shape)
    # Where a name is the label, its probability is the largest of all classes, so at least 1 / 4.
    for i in (1, 2):
        where = masks.labels == i
        assert where.any()
        assert masks.probabilities[i - 1].numpy()[where].min() >= 0.2


def test_order_of_names_only_changes_the_numbers(heart):
    volume = volume_of()
    one = heart(volume, "LV, RV", "mr").labels
    two = heart(volume, "RV, LV", "mr").labels
    assert np.array_equal(one, np.asarray([0, 2, 1], np.uint8)[two])


def test_array_order_does_not_matter(heart):
    """The same image with its axes stored in another order has the same masks."""
    volume = volume_of()
    turned = Geometry((6, 40, 36), volume.geometry.affine[:, [2, 0, 1, 3]])
    other = heart(Volume(volume.array.transpose(0, 3, 1, 2).copy(), turned, "turned.nii"), "LV", "mr").labels
    assert np.array_equal(other.transpose(1, 2, 0), heart(volume, "LV", "mr").labels)


def test_one_slice(heart):
    volume = volume_of((40, 36), (4.0, 4.0))
    assert heart(volume, "LV", "mr").labels.shape == (40, 36)


class Bright(torch.nn.Module):
    """A stand-in for a network: marks voxels brighter than the mean of its window."""

    def forward(self, x):
        bright = x - x.mean() - 0.1
        return torch.cat([-bright, bright, torch.full_like(x, -9.0), torch.full_like(x, -9.0)], dim=1) * 50


def test_a_second_pass_looks_around_the_organ(untrained):
    source = build_source("cardiac", {"checkpoint": untrained["cardiac"]})
    source.net = Bright()
    image = torch.zeros(1, 320, 200, 8)
    image[:, 40:80, 50:90] = 1.0
    image[:, 280:310, 160:190] = 1.0  # something else, smaller and too far away for the same window
    found = source._scores(image).argmax(dim=0)
    assert (found[40:80, 50:90] == 1).all() and found.sum() == 40 * 40 * 8  # not a window between the two
    assert source._look(image).argmax(dim=0).sum() > found.sum()
    assert (source._scores(torch.zeros(1, 160, 160, 8)).argmax(dim=0) == 0).all()


def test_of_two_candidates_the_one_near_the_middle_counts(untrained):
    source = build_source("cardiac", {"checkpoint": untrained["cardiac"]})
    source.net = Bright()
    image = torch.zeros(1, 320, 320, 8)
    image[:, 140:180, 130:170] = 1.0
    image[:, 272:316, 4:48] = 1.0  # a fifth larger, in the corner
    found = source._scores(image).argmax(dim=0)
    assert (found[140:180, 130:170] == 1).all() and found.sum() == 40 * 40 * 8


def test_half_turn_is_averaged(untrained):
    source = BundledNet("cardiac", untrained["cardiac"], flips=True)
    volume = volume_of()
    turned = Volume(volume.array[:, ::-1, ::-1].copy(), volume.geometry, "turned.nii")
    a = source(volume, "LV", "mr", probabilities=True).probabilities
    b = source(turned, "LV", "mr", probabilities=True).probabilities
    torch.testing.assert_close(a.float(), b.flip(1, 2).float(), atol=2e-2, rtol=0)


def test_other_modality_warns(heart, caplog):
    ct = volume_of()
    ct.array[:] -= 500
    with caplog.at_level(logging.WARNING):
        heart(ct, "LV")
        assert "looks like CT, but the source cardiac was trained on MR only" in caplog.text
        caplog.clear()
        heart(ct, "LV", "mr")
        assert "trained on" not in caplog.text


@pytest.mark.parametrize(
    ("shape", "spacing", "message"),
    [
        ((8, 40, 4), (2.0, 2.0, 9.0), "8 x 40 x 4 voxels .* is too small for cardiac"),
        ((5, 5), (2.0, 2.0), "is too small for cardiac"),
    ],
)
def test_too_small(heart, shape, spacing, message):
    with pytest.raises(InputError, match=message):
        heart(volume_of(shape, spacing), "LV", "mr")


def test_wrong_dimension_and_colour(untrained, heart):
    abdomen = BundledNet("abdomen", untrained["abdomen"])
    with pytest.raises(InputError, match="is 2-D; the source abdomen needs a 3-D image"):
        abdomen(volume_of((40, 40), (4.0, 4.0)), "liver", "ct")
    colour = Volume(np.zeros((3, 40, 36, 6), np.float32), volume_of().geometry, "photo.png")
    with pytest.raises(InputError, match=r"photo.png is a colour picture"):
        heart(colour, "LV", "mr")
    with pytest.raises(InputError, match="modality must be one of auto, ct, mr, us, pet, got 'xray'"):
        heart(volume_of(), "LV", "xray")


def test_wrong_weights(tmp_path, untrained):
    with pytest.raises(InputError, match=r"gone\.pt is missing; train with"):
        BundledNet("cardiac", str(tmp_path / "gone.pt"))
    whole = Path(untrained["cardiac"]).read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"cut.pt is not a readable weights file"):
        BundledNet("cardiac", str(tmp_path / "cut.pt"))
    state = torch.load(untrained["cardiac"], weights_only=True)
    first = sorted(state)[0]
    del state[first]
    torch.save(state, tmp_path / "less.pt")
    with pytest.raises(InputError, match=f"does not fit the network 'cardiac': 1 entries differ, first {first}"):
        BundledNet("cardiac", str(tmp_path / "less.pt"))
    with pytest.raises(InputError, match="does not fit the network 'cardiac'"):
        BundledNet("cardiac", untrained["abdomen"])


@pytest.mark.parametrize("source", ["cardia", "bundle", "bundle:", "files:", "sat:nano", "cardiac:x", ""])
def test_unknown_source(source):
    with pytest.raises(InputError, match=r"Unknown source of masks .*; choose one of cardiac, abdomen, sat, bundle"):
        build_source(source)


def test_unknown_option(untrained):
    with pytest.raises(InputError, match="The source cardiac has no option 'window'"):
        build_source("cardiac", {"checkpoint": untrained["cardiac"], "window": 3})
    with pytest.raises(InputError, match="There is no bundled network 'brain'; choose one of cardiac, abdomen"):
        net_spec("brain")
    with pytest.raises(InputError, match=r"overlap must be in \[0, 1\), got 1"):
        BundledNet("cardiac", untrained["cardiac"], overlap=1)
