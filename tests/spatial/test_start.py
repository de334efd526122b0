"""The affine start: many initialisations, implausible ones refused, doubts in words, the same result every time."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from scripts.benchmarks.peers.posed import CONTRASTS, posed_pair
from scripts.data.phantoms.cardiac import cardiac_pair
from scripts.spatial.affine import align
from scripts.spatial.geometry import Geometry
from scripts.spatial.likeness import Likeness, Matched, Scan, foreground, likeness, shared_information
from scripts.spatial.linear import about, as_itk, as_matrix, reflection, translation_peaks
from scripts.spatial.start import Found, choose, implausible
from tests.conftest import rotation

GOOD = Likeness(0.3, 0.9, 0.9)


def scans(pair, **more):
    """The fixed and the moving image of a posed pair."""
    p = pair.pair
    return [
        Scan(image / 255, Geometry(image.shape, affine), **more)
        for image, affine in ((p.fixed, p.fixed_affine), (p.moving, p.moving_affine))
    ]


def found(linear=None, score=0.5, kind="affine", fit=GOOD, mirrored=None):
    return Found(about(np.eye(3) if linear is None else linear, np.zeros(3), np.zeros(3)), kind, score, fit, mirrored)


STILL = [found(score=0.1, kind="as scanned"), found(score=0.2, kind="centres")]


def test_a_posed_pair_agrees_with_its_field_and_its_landmarks():
    posed = posed_pair(5, 9.0)
    p = posed.pair
    index = np.argwhere(p.fixed_tissue > 0)
    partner = index + p.ddf[:, p.fixed_tissue > 0].T
    world = partner @ p.fixed_affine[:3, :3].T + p.fixed_affine[:3, 3]
    places = np.rint((world - p.moving_affine[:3, 3]) @ np.linalg.inv(p.moving_affine[:3, :3]).T).astype(int)
    inside = ((places >= 0) & (places < p.moving.shape)).all(axis=1)
    same = p.moving_tissue[tuple(places[inside].T)] == p.fixed_tissue[p.fixed_tissue > 0][inside]
    assert same.mean() > 0.75  # many of the large voxels are on borders
    assert posed.error_mm(posed.best) == 0
    assert posed.error_mm(posed.pose) < 6 < posed.error_mm(np.eye(4))
    spread = np.linalg.norm(p.moving_landmarks - (np.c_[p.fixed_landmarks, np.ones(24)] @ posed.best.T)[:, :3], axis=1)
    assert spread.mean() < 8  # what the deformation adds to the best affine


def test_a_turned_and_moved_body_is_found_whatever_its_contrast():
    # Seed 5 is a chest that is turned by 25 degrees and moved by 54 mm.
    posed = posed_pair(5, 11.0)
    fixed, moving = scans(posed)
    inverted = np.where(fixed.image > 0.1, 1.0 - 0.9 * fixed.image, fixed.image)
    start = align(Scan(inverted, fixed.geometry), moving, "affine")
    assert start.doubts == ()
    assert posed.error_mm(start.matrix) < 5 < posed.error_mm(np.eye(4)) / 10


def test_a_mirrored_header_is_noticed():
    posed = posed_pair(2, 11.0)  # a chest, hardly turned
    fixed, moving = scans(posed)
    mirrored = Scan(moving.image[::-1].copy(), moving.geometry)
    start = align(fixed, mirrored, "affine")
    assert any("mirrored along array axis 0" in s for s in start.doubts)
    back = np.eye(4)  # from the mirrored world to the true one
    back[:3, :3], middle = np.diag([-1.0, 1, 1]), moving.geometry.corners_ras().mean(axis=0)
    back[:3, 3] = middle - back[:3, :3] @ middle
    assert posed.error_mm(back @ start.matrix) < 6


def blobs(points):
    """A body with bright blobs, intensities in [0, 1] at points (..., 3) in mm."""
    centres = np.random.default_rng(3).uniform(-60, 60, (12, 3))
    bright = sum(np.exp(-((points - c) ** 2).sum(axis=-1) / (2 * 12.0**2)) for c in centres)
    return 0.3 * ((points**2).sum(axis=-1) < 90**2) + 0.7 * np.clip(bright, 0, 1)


def test_translation_peaks_of_a_body_of_another_size():
    size, shift = 1.4, np.array([40.0, -25.0, 60.0])
    index = np.stack(np.meshgrid(*[np.arange(32)] * 3, indexing="ij"), axis=-1)
    fixed = Geometry((32, 32, 32), np.array([[7.0, 0, 0, -110], [0, 7, 0, -105], [0, 0, 7, -112], [0, 0, 0, 1]]))
    moving = Geometry((32, 32, 24), np.array([[9.0, 0, 0, -100], [0, 9, 0, -160], [0, 0, 9, -50], [0, 0, 0, 1]]))
    places = [
        index[: g.shape[0], : g.shape[1], : g.shape[2]] * np.diag(g.affine)[:3] + g.affine[:3, 3]
        for g in (fixed, moving)
    ]
    images = blobs(places[0]), blobs((places[1] - shift) / size)
    pair = [Matched.of(Scan(image, g), normalise=False) for image, g in zip(images, (fixed, moving))]
    lps = shift * [-1, -1, 1]
    miss = [np.linalg.norm(peak - lps) for peak in translation_peaks(*pair, size)]
    assert min(miss) < 9
    assert min(np.linalg.norm(peak - lps) for peak in translation_peaks(*pair)) > 9  # not found at the same size


def test_pairs_of_regions_decide_between_equal_images():
    # Two equal balls in one body; the labels say that they are exchanged.
    grid = np.stack(np.meshgrid(*[np.arange(40)] * 3, indexing="ij"), axis=-1)
    balls = [((grid - c) ** 2).sum(axis=-1) < 36 for c in ([12, 20, 20], [27, 20, 20])]
    body = ((grid - 20) ** 2 @ [1, 2, 2]) < 330
    image, geometry = 0.4 * body + 0.4 * np.maximum(*balls), Geometry((40, 40, 40), np.diag([4.0, 4, 4, 1]))
    labels = balls[0] + 2 * balls[1].astype(int)
    one = Matched.of(Scan(image, geometry, labels=labels), False)
    other = Matched.of(Scan(image, geometry, labels=np.where(labels > 0, 3 - labels, 0)), False)
    half_turn = about(rotation((0, 0, 1), 180), np.asarray(one.centre), np.zeros(3))
    scores = [likeness(one, other, as_itk(m), 1.0).score for m in (np.eye(4), half_turn)]
    assert scores[1] > 3 * scores[0]


def test_excluded_voxels_do_not_count():
    pair = cardiac_pair(2, (48, 48, 8), (4.0, 4.0, 10.0))
    geometry = Geometry(pair.moving.shape, pair.moving_affine)
    image = np.clip(pair.moving / 900, 0, 1)
    hidden = np.zeros(image.shape, bool)
    hidden[14:30, 14:30] = True
    plain = Matched.of(Scan(image, geometry, hidden), False)
    masked = likeness(plain, plain, as_itk(np.eye(4)), 1.0)
    joint = np.histogram2d(*[np.clip(image, 0, 1)[~hidden & foreground(image)]] * 2, 24)[0]
    assert masked.information == pytest.approx(shared_information(joint), abs=0.02)
    assert masked.outlines == 1


def test_shared_information_is_one_for_equal_images_and_zero_for_independent_ones():
    assert shared_information(np.diag([3.0, 2, 5])) == pytest.approx(1)
    assert shared_information(np.outer([1.0, 2, 3], [2.0, 1, 1])) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("linear", [np.diag([2.1, 1, 1]), np.diag([1, 1, 0.5])])
def test_implausible_sizes_are_refused(linear):
    assert "is plausible" in implausible(found(linear))
    chosen, said = choose([found(linear, 0.9), found(np.eye(3) * 1.1, 0.5, "similarity")], STILL)
    assert chosen.kind == "similarity"
    assert said[0].startswith("The best-fitting alignment was refused")
    assert "next best similarity" in said[1]


def test_little_overlap_is_refused():
    chosen, said = choose([found(fit=Likeness(0.3, 0.9, 0.1), score=0.9)], STILL)
    assert chosen.kind == "centres"
    assert "10 %" in said[0]
    assert "only the centres of the bodies are aligned" in said[1]


def test_what_fits_no_better_than_as_scanned_is_not_taken():
    still = [found(score=0.6, kind="as scanned"), found(score=0.2, kind="centres")]
    chosen, said = choose([found(np.eye(3) * 1.2, 0.5)], still)
    assert chosen is still[0]
    assert "stay as scanned" in said[0]


def test_a_mirror_must_fit_clearly_better():
    upright = found(score=0.5)
    assert choose([upright, found(score=0.55, mirrored=0)], STILL)[0] is upright
    chosen, said = choose([upright, found(score=0.6, mirrored=2)], STILL)
    assert chosen.mirrored == 2
    assert "mirrored along array axis 2" in said[0]


def test_a_body_of_another_outline_is_doubted():
    _, said = choose([found(fit=Likeness(0.3, 0.4, 0.8))], STILL)
    assert "agree poorly" in said[0]


def test_noise_in_air_is_no_body():
    rng = np.random.default_rng(0)
    image = np.zeros((40, 40, 20))
    image[10:30, 12:28, 4:16] = 0.5
    noisy = np.hypot(image + rng.normal(0, 0.025, image.shape), rng.normal(0, 0.025, image.shape))
    assert (foreground(noisy) & (image > 0)).sum() / (image > 0).sum() > 0.7
    assert not (foreground(noisy) & (ndimage.distance_transform_edt(image == 0) > 4)).any()


def test_a_reflection_returns_to_the_start():
    image = Matched.of(
        Scan(np.random.default_rng(0).random((9, 8, 7)), Geometry((9, 8, 7), np.diag([2.0, 3, 4, 1]))), False
    )
    mirror = reflection(image.image, 1)
    np.testing.assert_allclose(mirror @ mirror, np.eye(4), atol=1e-9)
    assert np.linalg.det(mirror[:3, :3]) == pytest.approx(-1)
    np.testing.assert_allclose(as_matrix(as_itk(mirror)), mirror, atol=1e-12)
    place = image.image.TransformIndexToPhysicalPoint((2, 1, 3))
    partner = (mirror @ [*place, 1])[:3].tolist()
    np.testing.assert_allclose(image.image.TransformPhysicalPointToContinuousIndex(partner), (2, 6, 3), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_random_poses(seed):
    posed = posed_pair(300 + seed)
    fixed, moving = scans(posed)
    assert posed.contrast in CONTRASTS
    assert posed.error_mm(align(fixed, moving, "affine").matrix) < 5
