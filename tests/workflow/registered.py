"""A registration from perfect regions, ready to be written."""

from __future__ import annotations

import numpy as np
import torch

from scripts.data.pair import LoadPair, one_pair
from scripts.data.phantoms.cardiac import cardiac_pair
from scripts.data.sample import write_phantom
from scripts.roi.dense import DenseSettings
from scripts.roi.registration import ROIRegistration
from scripts.sam.everything import EverythingMode
from scripts.spatial.geometry import resample
from tests.conftest import rotation
from tests.roi.perfect import perfect_registration


def prepared(folder, *, transform=None, phantom=None):
    """A loaded pair on grids that differ, with a registration from perfect regions and its dense field."""
    phantom = phantom or cardiac_pair(
        5, (72, 66, 8), (2.2, 2.4, 10.0), orientation=rotation((1, 2, 3), 20),
        fixed_shape=(64, 60, 9), fixed_spacing=(2.5, 2.6, 9.0),
    )  # fmt: skip
    paths = write_phantom(folder / "in", phantom)
    data = one_pair([LoadPair(init=transform or "none")({**paths, "true_ddf": None})])
    pair = data["pair"]
    labels = [
        resample(torch.from_numpy(v.array.astype(np.float32)), v.geometry, pair.working, t, mode="nearest", fill=0)[0]
        for v, t in ((pair.moving_label, pair.transform), (pair.fixed_label, None))
    ]
    result = perfect_registration(*labels, [1, 2, 3], pair.working)
    register = ROIRegistration(EverythingMode(), None, DenseSettings(smoothness=6.0), progress=False)
    moving, fixed = data["image"][0].as_tensor().chunk(2)
    register.fill_dense(result, pair.working, moving, fixed)
    return {**data, "pred": result}
