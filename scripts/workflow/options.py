# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Every option of the configs: what kind of value it takes, and one line of help.

The defaults stay in the configs. Importing this module loads neither torch nor MONAI, so that ``--help`` is quick and a
mistyped option is refused at once.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import json
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import yaml

from ..common.bundle import CONFIGS
from ..common.errors import InputError

# group -> option -> (kind, help). Kinds: file and text are taken as written; number, whole and switch are checked;
# value is any literal.
OPTIONS: dict[str, dict[str, tuple[str, str]]] = {
    "Images": {
        "moving": ("file", "image to move: NIfTI, NRRD, MetaImage, PNG, JPEG, TIFF, or a folder with a DICOM series"),
        "fixed": ("file", "image that stays in place"),
        "moving_label": ("file", "label map of the moving image; it is warped, and compared with fixed_label"),
        "fixed_label": ("file", "label map of the fixed image, for Dice and HD95"),
        "moving_exclude": ("file", "mask of moving voxels to ignore, such as a lesion or metal; 0 elsewhere"),
        "fixed_exclude": ("file", "the same for the fixed image"),
        "moving_landmarks": ("file", "points in the moving image, to measure the target registration error"),
        "fixed_landmarks": ("file", "the same points in the fixed image; they are mapped to the moving image"),
        "moving_frame": ("whole", "time frame of a 4-D moving image, from 0"),
        "fixed_frame": ("whole", "time frame of a 4-D fixed image, from 0"),
        "frame": ("whole", "time frame of a 4-D image, from 0"),
        "points_frame": ("text", "coordinate frame of points: ras or lps in mm, or voxel"),
        "header": ("text", "which to use when a NIfTI affine contradicts its voxel size: auto, affine or pixdim"),
        "fill_nan": ("number", "value that replaces NaN; by default an image with NaN is refused"),
        "max_image_gb": ("number", "largest image in memory, in 1e9 bytes; a larger one is refused before it is read"),
        "window": ("text", "intensity window: auto, mr, ct or none"),
        "init": ("file", "initial alignment: none, moments, affine, or a transform file"),
        "max_size": ("whole", "longest side of the working grid in voxels; larger images are resampled"),
        "images": ("file", 'an image, a pattern such as "data/*.nii.gz", or a list of paths (.txt or .json)'),
        "names": ("value", 'structures, e.g. "liver,spleen"; the i-th gets the value i'),
        "modality": ("text", "auto, ct, mr, us or pet"),
        "source": ("text", "where masks come from: cardiac, abdomen, sat, bundle:PATH or files:PATTERN"),
        "source_options": ("value", "options of the mask source, as a dictionary"),
        "redraw": ("switch", "redraw the masks with LiteMedSAM, slice by slice, each structure from its box"),
        "pairs": ("file", "CSV or JSON list of pairs, instead of two images; see docs/cohorts.md"),
    },
    "Prompt": {
        "prompt_image": ("text", "image that the prompt belongs to: moving or fixed"),
        "points": ("value", 'one or more points, e.g. "[[-12.0, 30.5, 8.0]]"'),
        "labels": ("value", "1 for each point inside the region, 0 for each outside"),
        "box": ("value", 'two opposite corners, e.g. "[[x,y,z],[x,y,z]]"'),
        "mask": ("file", "label map on the prompted image's grid; every voxel but 0 belongs to the region"),
        "search_mm": ("number", "standard deviation in mm of the prior that the partner is at the same place"),
        "search_slices": ("whole", "slices on either side that are searched, at least 7 mm apart"),
        "propagate": ("switch", "follow the region through neighbouring slices"),
    },
    "Segment Anything": {
        "sam": ("text", "model: compact, or vit_b, vit_l, vit_h and others that are downloads"),
        "checkpoint": ("file", "weights of the model, instead of the released ones"),
        "precision": ("text", "of the image encoder: float32, bfloat16 or float16"),
        "second_look": ("switch", "segment the window in which the images differ a second time, at a finer resolution"),
        "points_per_side": ("whole", "points per side of the prompt grid, for models that take points"),
        "pred_iou_thresh": ("number", "least predicted quality of a mask; defaults of each model: configs/sam"),
        "stability_score_thresh": ("number", "least stability of a mask; defaults of each model: configs/sam"),
        "stability_score_offset": ("number", "shift of the mask threshold that tests the stability, in logits"),
        "skip_air": ("switch", "leave out the points of the grid in the air around a patient"),
    },
    "Regions": {
        "min_area": ("number", "least area of a region, as a fraction of the slice"),
        "max_area": ("number", "largest area of a region, as a fraction of the slice"),
        "min_area_mm2": ("number", "least area of a region of a volume in mm2, instead of min_area"),
        "max_area_mm2": ("number", "largest area of a region of a volume in mm2, instead of max_area"),
        "max_overlap": ("number", "largest overlap of two regions; above it the worse one is dropped"),
        "overlap": ("text", "how overlap is measured: iou, or smaller (intersection over the smaller mask)"),
        "linking": ("text", "regions of neighbouring slices: auto, link or slice"),
        "slice_axis": ("value", "array axis across the slices: 0, 1, 2, or auto for the coarsest"),
        "slice_spacing_mm": ("number", "distance between segmented slices; 0 segments every slice"),
    },
    "Matching": {
        "epsilon": ("number", "least similarity of a pair of regions, 0 to 1"),
        "matching": ("text", "greedy, hungarian or mutual"),
        "max_pairs": ("whole", "largest number of pairs to keep"),
        "position_sigma_mm": ("number", "width of the position prior in mm; 0 turns it off"),
    },
    "Dense field": {
        "check": ("switch", "discard a field that makes the images agree clearly less, by two measures"),
        "dense": ("switch", "compute a displacement field; False writes only the paired regions"),
        "strictness": ("number", "how much to down-weight pairs that contradict their neighbours; 0 trusts all"),
        "smoothness": ("number", "weight of the smoothness of the field"),
        "discrete": ("switch", "start with a search over displacements, which finds large motions"),
        "region_weight": ("number", "weight of the region pairs in the objective; 1 is the paper's"),
        "image_term": ("text", "image similarity: mind (any contrast) or lncc (local correlation)"),
        "image_weight": ("number", "weight of the image similarity in the objective; 0 leaves it out"),
        "intensity_weight": ("number", "weight of intensities beside self-similarity, for images of one contrast"),
        "embedding_weight": ("number", "weight of the model's embeddings in the search; 0 leaves them out"),
        "diffeomorphic": ("switch", "integrate a velocity field, so that the field does not fold"),
        "confidence": ("switch", "also write the confidence of the field at every voxel, 0 to 1"),
        "inverse": ("switch", "also write the inverse field, with its error"),
    },
    "Network registration (--method network)": {
        "moving_mask": ("file", "label map of the structures in the moving image, instead of segmenting it"),
        "fixed_mask": ("file", "label map of the structures in the fixed image"),
        "structures": ("value", "names of the structures that the network uses, in the order of its labels"),
        "masks": ("text", "where masks come from, see --source of the command masks"),
        "mask_cache": ("file", "folder that caches masks for the next run"),
        "spatial_dims": ("whole", "2 or 3"),
        "strides": ("value", "strides of the network; must match the weights"),
        "attention_window": ("value", "attention window of the network; must match the weights"),
        "passes": ("whole", "passes of the network; each after the first registers what the passes before it left"),
        "instance_steps": ("whole", "optimisation steps that refine the field on this pair; 0 for none"),
        "instance_weights": ("value", "weights of the loss terms of that refinement, as a dictionary"),
    },
    "Run": {
        "output_dir": ("file", "folder of the results"),
        "device": ("text", "auto (the best available), cpu, cuda, cuda:1 or mps"),
        "seed": ("whole", "seed of everything random"),
        "shard": ("text", "part of the list for this process, e.g. 3/8; a Slurm or Kubernetes index by default"),
        "scheduler": ("text", "address of a Dask scheduler whose workers register the list, e.g. tcp://10.0.0.1:8786"),
        "cache_dir": ("file", "folder that caches segmentations and embeddings"),
        "cache_gb": ("number", "largest size of that folder in GB; 0 turns the cache off"),
        "overview": ("switch", "write overview.png and report.html"),
        "keep": ("value", "results to write, as a list, e.g. [ddf, moved]; all by default, see docs/cohorts.md"),
        "viewer_size": ("whole", "longest side of the volumes in the viewer of the report; 0 leaves the viewer out"),
        "progress": ("switch", "show progress bars"),
        "dataset_dir": ("file", "folder of the built-in example, used when no images are given"),
        "sample": ("text", "built-in example: cardiac or abdomen"),
    },
}
KINDS = {name: kind for group in OPTIONS.values() for name, (kind, _) in group.items()}
# Options that name files are text, never an expression of MONAI's config language or a Python literal.
PATHS = tuple(name for name, kind in KINDS.items() if kind == "file")
EXPRESSIONS = ("$", "@", "%")  # begin an expression or a reference of a config


def defaults(*names: str) -> dict[str, Any]:
    """Top-level keys of config files with their values, later files over earlier ones.

    Args:
        names: files in ``configs/``, JSON.
    """
    found: dict[str, Any] = {}
    for name in names:
        content = json.loads((CONFIGS / name).read_text(encoding="utf-8"))
        found |= {key: value for key, value in content.items() if "#" not in key and not key.startswith("+")}
    return found


def sam_overlay(name: Any) -> str | None:
    """The overlay in ``configs/`` with the settings of a SAM, or None if there is none."""
    overlay = f"sam/{name}.json"
    return overlay if (CONFIGS / overlay).is_file() else None


def check_options(files: Sequence[str], options: Mapping[str, Any]) -> None:
    """Refuses options that the configs do not have, and values of another kind.

    MONAI silently adds an unknown key to a config, so a mistyped option would do nothing. Keys may point into the
    config, as in "evaluator#amp".
    """
    from monai.bundle import ConfigParser  # loads torch, which --help does not need

    known = ConfigParser.load_config_files(list(files))
    for key, value in options.items():
        top = key.replace("::", "#").split("#")[0]
        if top not in known:
            raise no_option(key, known)
        if top == key:
            check_value(key, value, known[key])


def no_option(key: str, known: Iterable[str]) -> InputError:
    """The error for an option that does not exist, with the nearest ones that do."""
    near = difflib.get_close_matches(key.replace("::", "#").split("#")[0], known, n=3)
    hint = f"; did you mean {' or '.join('--' + n for n in near)}?" if near else "."
    return InputError(f"There is no option --{key}{hint}")


def check_value(name: str, value: Any, default: Any = None, kind: str | None = None) -> None:
    """Refuses a value that is not of the option's kind; an expression of a config passes.

    Args:
        name: of the option.
        value: as given.
        default: of the option. A number may be None only where its default is None or an expression.
        kind: by default that of :data:`OPTIONS`, and of other options that of their default.
    """
    by_default = {bool: "switch", int: "number", float: "number"}.get(type(default), "value")
    kind = kind or KINDS.get(name, by_default)
    if kind in ("file", "text", "value") or is_expression(value):
        return
    if value is None and (default is None or is_expression(default)):
        return
    if kind == "switch" and not isinstance(value, bool):
        raise InputError(f"--{name} must be True or False, got {value!r}.")
    number = isinstance(value, Integral if kind == "whole" else Real) and not isinstance(value, bool)
    if kind != "switch" and not number:
        raise InputError(f"--{name} must be a {'whole ' if kind == 'whole' else ''}number, got {value!r}.")


def is_expression(value: Any) -> bool:
    """Whether a value is text of the config language, which MONAI evaluates."""
    return isinstance(value, str) and value.startswith(EXPRESSIONS)


def read_value(text: str, kind: str = "value") -> Any:
    """A word of a command line as a value.

    Paths and words are taken as written, and "None" is None. Other kinds are Python literals; words in a list or
    dictionary need no quotes, as in MONAI's command: ``[liver, left kidney]``.
    """
    if text == "None":
        return None
    if kind in ("file", "text"):
        return text
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        pass
    try:
        return yaml.safe_load(text) if text.startswith(("[", "{")) else text
    except yaml.YAMLError:
        return text


def check_command_line(words: Sequence[str]) -> None:
    """Refuses what :func:`check_options` refuses among the words after ``run`` of MONAI's command."""
    from monai.bundle import run

    options: dict[str, Any] = {}
    for word, following in zip(words, [*words[1:], "--"]):
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            if not equals:
                value = "True" if following.startswith("--") else following
            options[name] = read_value(value, KINDS.get(name, "value"))
    files = options.pop("config_file", None)
    if files is None or "args_file" in options:  # the command line does not show every option
        return
    own = {*inspect.signature(run).parameters, "workflow_name", "workflow_type"}
    files = [files] if isinstance(files, str) else files
    check_options(files, {k: v for k, v in options.items() if k not in own})
    overlay, named = sam_overlay(options.get("sam")), {Path(file).name for file in files}
    if overlay is not None and "samreg.json" in named and Path(overlay).name not in named:
        raise InputError(
            f"--sam {options['sam']} needs its own settings: add 'configs/{overlay}' to --config_file after "
            "'configs/samreg.json'."
        )
