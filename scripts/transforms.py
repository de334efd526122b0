# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""MONAI dictionary transforms: registration inside other people's pipelines, on images that are already in memory.

Images are channel-first, (C, X, Y[, Z]), as arrays or MetaTensors; an array has the identity as affine. Fields follow
the convention of the project: voxels of the fixed grid, ``moved(x) = moving(x + ddf(x))``, where the initial alignment
and the affines of both images are part of the field.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.networks.utils import eval_mode
from monai.transforms import InvertibleTransform, MapTransform
from monai.utils import TraceKeys, ensure_tuple, ensure_tuple_rep

from .common.errors import InputError
from .correspondence.region_pairs import native_masks
from .correspondence.result import Registration
from .data.in_memory import NAME, affine_of, image_of, meta_of, on_grid, points_like, points_of
from .data.pair import Pair, one_pair
from .data.reader import checked_volume
from .spatial.chain import Field, map_points
from .spatial.geometry import Geometry, voxel_displacement, world_displacement
from .spatial.inversion import invert_chain, invert_points
from .spatial.resampling import resample_image
from .verbs.register import METHODS, resolve
from .workflow.correspondence_record import check_finite
from .workflow.outcome import unwrapped
from .workflow.run import make_workflow

logger = logging.getLogger(__name__)

MODES = ("linear", "cubic", "nearest", "points")
DOUBTFUL_VOX = 0.5  # an inverse with a larger error is worth a warning
# Options about files, which a pipeline reads and writes itself, and dense, which follows from the transform.
OF_COMMAND = (
    "dense", "moving", "fixed", "output_dir", "pairs", "dry_run", "dicom", "header", "max_image_gb", "moving_frame",
    "fixed_frame", "moving_label", "fixed_label", "moving_landmarks", "fixed_landmarks", "points_frame",
    "moving_mask", "fixed_mask", "moving_exclude", "fixed_exclude", "dataset_dir", "sample", "overview",
    "viewer_size", "keep", "inverse", "confidence", "shard", "scheduler", "seed",
)  # fmt: skip


class _PairTransform(MapTransform):
    """Registers the images under two keys with the parts of the configs, which are built on first use."""

    dense = True  # whether to make a field

    def __init__(
        self,
        keys: KeysCollection = ("moving", "fixed"),
        method: str = "samreg",
        preset: str = "default",
        mask_keys: KeysCollection | None = None,
        exclude_keys: Mapping[str, Hashable] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(keys)
        self.mask_keys = ensure_tuple(mask_keys) if mask_keys is not None else ()
        self.exclude_keys = dict(exclude_keys or {})
        if len(self.keys) != 2 or len(self.mask_keys) not in (0, 2):
            raise InputError(f"keys must name the moving and the fixed image, got {self.keys}, {self.mask_keys}.")
        if not {*self.exclude_keys} <= {"moving", "fixed"}:
            raise InputError(f'exclude_keys is a dictionary with "moving", "fixed" or both, got {self.exclude_keys}.')
        if method not in METHODS:
            raise InputError(f"method must be one of {', '.join(METHODS)}, got {method!r}.")
        if self.mask_keys and method != "network":
            raise InputError(f"mask_keys are for the method network; {method} takes no masks.")
        unusable = sorted({*options} & {*OF_COMMAND})
        if unusable:
            raise InputError(f"{unusable[0]} is an option of the command only; leave it out of {type(self).__name__}.")
        options = {"progress": False, **options} | ({} if self.dense or method == "network" else {"dense": False})
        self.configs, self.values = resolve("", "", "", method=method, preset=preset, **options)
        self._workflow = make_workflow(self.configs, self.values)  # refuses unknown options now, loads nothing yet

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_workflow": None}  # workers of a data loader build their own

    def _register(self, data: Mapping[Hashable, Any]) -> tuple[Pair, Registration]:
        named = dict(zip(("moving", "fixed", "moving_mask", "fixed_mask"), (*self.keys, *self.mask_keys)))
        named |= {f"{role}_exclude": key for role, key in self.exclude_keys.items()}
        item = {role: checked_volume(*image_of(data, key), f'"{key}"') for role, key in named.items()}
        self._workflow = self._workflow or make_workflow(self.configs, self.values)
        part = self._workflow.parser.get_parsed_content
        with unwrapped(), torch.random.fork_rng(devices=[]):  # new networks draw weights before they load theirs
            network = part("network")
            batch = one_pair([part("preprocessing")(item)])
            with eval_mode(network):
                inputs, _, _, more = part("evaluator#prepare_batch")(batch, part("device"))
                result = part("inferer")(inputs, network, **more)
        check_finite(result)
        for sentence in [*batch.get("warnings", ()), *result.warnings]:
            logger.warning(sentence)
        return batch["pair"], result

    def _regions(self, data: Mapping[Hashable, Any], pair: Pair, result: Registration) -> dict[Hashable, Any]:
        found: dict[Hashable, Any] = {"region_scores": result.matches.score.cpu()}
        for key, role, transform in zip(self.keys, ("moving", "fixed"), (np.linalg.inv(pair.transform), np.eye(4))):
            masks = getattr(result, f"{role}_masks")
            native = [*native_masks(masks, pair.working, getattr(pair, role).geometry, transform)]
            array = np.array(native, np.uint8).reshape(len(native), *data[key].shape[1:])
            found[f"{key}_regions"] = on_grid(array, meta_of(data[key]))
        return found


class RegisterPaird(_PairTransform):
    """Registers two images, as the command ``register`` does.

    Args:
        keys: of the moving and of the fixed image.
        method: "samreg" or "network".
        preset: see :func:`scripts.verbs.register.register`.
        mask_keys: of label maps of the structures in both images, for the method "network".
        exclude_keys: by "moving" and "fixed", of masks whose voxels other than 0 are excluded from that image.
        options: of the configs that concern the registration, e.g. init="affine", sam="vit_b", image_weight=1.
        ddf_key: of the field, a MetaTensor (n, *fixed.shape) with the affine of the fixed image.
        moved_key: of the moving image on the fixed grid, a float32 MetaTensor (C, *fixed.shape).
        regions: also adds what :class:`RegionPairsd` adds, without a second registration.

    For a single slice (C, X, Y, 1) the field is (2, X, Y); everything else keeps the last axis.

    Raises:
        InputError: on construction, for options that do not exist; on a call, for images that cannot be used, do not
            overlap, or have no regions in common.
    """

    def __init__(
        self, *args: Any, ddf_key: str = "ddf", moved_key: str = "moved", regions: bool = False, **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self.ddf_key, self.moved_key, self.regions = ddf_key, moved_key, regions

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        pair, result = self._register(data)
        ddf = pair.on_fixed_grid(result.ddf)
        if ddf is None:
            raise InputError(" ".join(result.warnings) or "No displacement field was found.")
        moving, fixed = pair.moving, pair.fixed.geometry
        u = world_displacement(ddf[0].numpy(), fixed, pair.transform)
        field, fill = Field(u.astype(np.float32), fixed), float(moving.array.min())
        moved, _ = resample_image(moving.array, moving.geometry, fixed, [field], fill=fill)
        meta, name = meta_of(data[self.keys[1]]), meta_of(data[self.keys[0]]).get(NAME)
        return {
            **data,
            self.ddf_key: on_grid(voxel_displacement(u, fixed).astype(np.float32), meta),
            self.moved_key: on_grid(moved.reshape(len(moved), *data[self.keys[1]].shape[1:]), meta, name),
            **(self._regions(data, pair, result) if self.regions else {}),
        }


class RegionPairsd(_PairTransform):
    """Adds the K matched regions of two images, best pair first.

    With the default keys: "moving_regions" and "fixed_regions", uint8 MetaTensors (K, *shape) with the affine of their
    image, where mask k of one corresponds to mask k of the other; and "region_scores", (K,) in [0, 1]. Regions may
    overlap, and K may be 0.

    Its arguments are the first six of :class:`RegisterPaird`, whose errors it raises. No field is made.
    """

    dense = False

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        return {**data, **self._regions(data, *self._register(data))}


class WarpByFieldd(MapTransform, InvertibleTransform):
    """Warps images and label maps to the fixed grid, or maps points, by a field in the dictionary.

    Args:
        keys: what to warp: images and label maps on the moving grid, or points (..., 3) in RAS mm.
        mode: for each key "linear", "cubic", "nearest" (label maps; keeps the type) or "points". Points follow the
            field, so points of the fixed image become their partners in the moving image; ``inverse`` maps points of
            the moving image to the fixed image.
        ddf_key: of the field, (n, *fixed.shape) voxels with the affine of the fixed image.
        fill: value outside the image.
        allow_missing_keys: skips keys that are missing.

    ``inverse`` brings images back to the grid that they came from, through the inverse of the field
    (:func:`scripts.spatial.inversion.invert_chain`). The field is kept with the image, so ``Invertd`` works, too.

    Raises:
        InputError: an unknown mode; a missing key; a field or image of another shape.
    """

    def __init__(
        self,
        keys: KeysCollection,
        mode: str | Sequence[str] = "linear",
        ddf_key: str = "ddf",
        fill: float = 0.0,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        self.modes, self.ddf_key, self.fill = ensure_tuple_rep(mode, len(self.keys)), ddf_key, fill
        if not {*self.modes} <= {*MODES}:
            raise InputError(f"mode must be one of {', '.join(MODES)} for each key, got {mode!r}.")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        found = dict(data)
        ddf, affine = image_of(data, self.ddf_key)
        fixed = Geometry(ddf.shape[1:], affine)
        if len(ddf) != fixed.ndim:
            raise InputError(f'"{self.ddf_key}" has the shape {ddf.shape}; a field has one channel per dimension.')
        u = world_displacement(ddf, fixed).astype(np.float32)
        trace = {"u_lps": torch.from_numpy(u), "affine": torch.from_numpy(affine)}
        for key, mode in self._present(data):
            if mode == "points":
                found[key] = points_like(map_points([Field(u, fixed)], points_of(data, key)), data[key])
            else:
                found[key] = self._warp(data, key, mode, Field(u, fixed), fixed, meta_of(data[self.ddf_key]))
            extra = {"mode": mode, "meta": meta_of(data[key]), "shape": tuple(data[key].shape[1:])}
            self.push_transform(found, key, extra_info=trace | extra)
        return found

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        found, inverses = dict(data), {}
        for key, _ in self._present(data):
            extra = self.pop_transform(found, key)[TraceKeys.EXTRA_INFO]
            u = extra["u_lps"].numpy()
            field = Field(u, Geometry(u.shape[:-1], extra["affine"].numpy()))
            if extra["mode"] == "points":
                found[key] = points_like(invert_points([field], points_of(data, key)), found[key])
                continue
            moving = Geometry(extra["shape"][: field.grid.ndim], affine_of(extra["meta"]))
            same = (u.ctypes.data, moving.shape, moving.affine.tobytes())
            if same not in inverses:
                inverses[same], error, _ = invert_chain([field], field.grid, moving)
                if error["p95_mm"] > DOUBTFUL_VOX * min(moving.spacing):
                    logger.warning(
                        "The inverse of the field is off by %.2g mm (95th percentile); it folds.", error["p95_mm"]
                    )
            found[key] = self._warp(found, key, extra["mode"], inverses[same], moving, extra["meta"])
        return found

    def _present(self, data: Mapping[Hashable, Any]) -> list[tuple[Hashable, str]]:
        return [pair for pair in zip(self.keys, self.modes) if pair[0] in data or not self.allow_missing_keys]

    def _warp(
        self, data: Mapping[Hashable, Any], key: Hashable, mode: str, field: Field, target: Geometry, meta: dict
    ) -> MetaTensor:
        array, affine = image_of(data, key)
        single = array.ndim == target.ndim + 2 and array.shape[-1] == 1  # a slice as a volume of one
        array = array[..., 0] if single else array
        if array.ndim != target.ndim + 1:
            raise InputError(f'"{key}" has the shape {array.shape}, and the field is {target.ndim}-D.')
        own, done = Geometry(array.shape[1:], affine), getattr(data[key], "applied_operations", [])
        warped, _ = resample_image(array, own, target, [field], interpolation=mode, fill=self.fill)
        return on_grid(warped[..., None] if single else warped, meta, meta_of(data[key]).get(NAME), done)
