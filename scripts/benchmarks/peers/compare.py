# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Every method on the same pairs, one table: ``python -m scripts.benchmarks.peers.compare --data_dir DATA``.

Classical tools and this bundle's methods, with their shipped weights, on the ACDC validation patients. A row that was
measured with the same weights and settings is not measured again.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import fire
import numpy as np
import torch
from monai.bundle import ConfigParser
from torch import Tensor
from tqdm import tqdm

from ...common.bundle import BUNDLE
from ...common.errors import InputError
from ...common.files import whole_file
from ...common.fingerprint import fingerprint
from ...common.tables import write_csv
from ...masks.bundled import MODELS
from ...metrics.pair import pair_metrics
from ...metrics.tables import flat_metrics
from ...workflow.outcome import plain_errors
from ..common import hardware
from ..tables import FINAL, INITIAL, averages, markdown
from ..workflows import CONFIGS, kept, measured, stamp_of
from .classical import TOOLS, Tool, missing_package

NETWORK = ("inference.json", "evaluate.json")
CARDIAC = MODELS / "cardiac_net.pt"


class Method(NamedTuple):
    """A method of this bundle.

    Attributes:
        configs: file names in ``configs/``.
        options: values by key of the configs.
        weights: files that decide the result.
    """

    configs: tuple[str, ...]
    options: Mapping[str, Any]
    weights: tuple[Path, ...]


SAMREG, COMPACT = ("samreg.json", "evaluate.json"), MODELS / "compact_sam.pt"
OURS = {
    "ROI registration": Method(SAMREG, {}, (COMPACT,)),
    "regions only": Method(SAMREG, {"discrete": False, "image_weight": 0.0}, (COMPACT,)),
    "hybrid": Method(SAMREG, {"discrete": False, "image_term": "lncc", "image_weight": 40.0}, (COMPACT,)),
    "network, no masks": Method(NETWORK, {"masks": None}, (MODELS / "model.pt",)),
    "network": Method(NETWORK, {}, (MODELS / "model.pt", CARDIAC)),
    "network, instance optimisation": Method(NETWORK, {"instance_steps": 60}, (MODELS / "model.pt", CARDIAC)),
}
FIXED_MASKS = "masks of the fixed image itself"
TITLES = {
    "method": "method",
    "dice": "Dice",
    "carried": "Dice of carried masks",
    "hd95_mm": "HD95 (mm)",
    "sdlogj": "SDlogJ (det + 3)",
    "sdlogj_plain": "SDlogJ (plain)",
    "folds_percent": "folds (%)",
    "seconds": "seconds per pair",
}


def pairs_of(dataset: str, values: Mapping[str, Any]) -> tuple[list[dict], Any, list[str]]:
    """The pairs of a data set, the transform that loads one with its masks, and the names of its structures."""
    parser = ConfigParser()
    parser.read_config([str(CONFIGS / name) for name in (*NETWORK, dataset)])
    parser.update({"bundle_root": str(BUNDLE), "device": "$torch.device('cpu')", **values})
    return tuple(parser.get_parsed_content(key) for key in ("validation_list", "preprocessing", "structures"))


def registered(tool: Tool, image: Tensor, spacing: Sequence[float], kept_in: Path | None) -> tuple[Tensor, float]:
    """The field of a tool and its run time in seconds; cached under the hash of tool and images.

    Args:
        tool: with its settings.
        image: (2, *shape) moving and fixed in [0, 1].
        spacing: mm along each axis.
        kept_in: folder of the cached fields; None caches nothing.
    """
    path = None if kept_in is None else kept_in / f"{fingerprint(tool, image, spacing)}.npz"
    if path is not None and path.exists():
        with np.load(path, allow_pickle=False) as known:
            return torch.from_numpy(known["ddf"]), float(known["seconds"])
    began = time.perf_counter()
    ddf = tool(image[0], image[1], spacing)
    seconds = time.perf_counter() - began
    if path is not None:
        with whole_file(path) as part:
            np.savez_compressed(part, ddf=ddf.numpy(), seconds=seconds)
    return ddf, seconds


def measure_pair(
    tool: Tool | None, data: Mapping[str, Any], structures: Sequence[str], kept_in: Path | None = None
) -> dict[str, Any]:
    """The numbers of a pair for a classical tool.

    Beside the usual ones, "masks/mean/final" is the Dice of the masks of the moving image, carried along by the field,
    with the label map of the fixed image, and "seconds" the time of the registration.

    Args:
        tool: None compares the masks of the fixed image itself with its label map.
        data: a loaded pair with masks.
        structures: name of each label.
        kept_in: folder of the fields, see :func:`registered`.
    """
    pair, ddf, seconds = data["pair"], None, {}
    if tool is not None:
        grey = torch.stack([half.mean(dim=0) for half in torch.as_tensor(data["image"]).chunk(2)])
        found, seconds["seconds"] = registered(tool, grey, pair.working.spacing, kept_in)
        ddf = pair.on_fixed_grid(found)
    names = {str(value): name for value, name in enumerate(structures, start=1)}
    row = flat_metrics(pair_metrics(pair, ddf), names) | seconds
    if pair.moving_mask is not None:
        carried = pair_metrics(replace(pair, moving_label=pair.moving_mask), ddf)["dice"]
        row |= {f"masks/mean/{stage}": scores["mean"] for stage, scores in carried.items()}
    if tool is None:
        itself = pair_metrics(replace(pair, moving=pair.fixed, moving_label=pair.fixed_mask), None)
        row |= {key.replace("initial", "final"): v for key, v in flat_metrics(itself, names).items()}
    return row


def measure_tool(name: str, tool: Tool | None, folder: Path, dataset: str, values: Mapping[str, Any]) -> None:
    """Writes ``metrics.csv`` of a classical tool over the pairs of a data set."""
    pairs, load, structures = pairs_of(dataset, values)
    rows = []
    for item in tqdm(pairs, desc=name, unit="pair", file=sys.stderr):
        rows.append({"name": item["name"], **measure_pair(tool, load(item), structures, folder / "fields")})
    write_csv(folder / "metrics.csv", rows)


def main(
    data_dir: str,
    output_dir: str = "runs/compare",
    rows: Sequence[str] | str | None = None,
    dataset: str = "datasets/acdc.json",
    pairs: str | None = None,
) -> None:
    """Measures the missing rows, prints the table and writes ``compare.csv``.

    Args:
        data_dir: folder with the data set and its split.
        output_dir: one folder per method with its numbers and logs, and the shared pairs and masks.
        rows: only these methods.
        dataset: overlay of the data set in ``configs/``.
        pairs: expression of the list of pairs instead of the validation pairs, as in the overlay.

    Raises:
        InputError: an unknown method, or one that failed.
    """
    plain_errors()
    folder = Path(output_dir).absolute()
    known = {**dict.fromkeys([FIXED_MASKS], None), **TOOLS, **OURS}
    chosen = [rows] if isinstance(rows, str) else list(rows or known)
    for name in list(chosen):
        if name not in known:
            raise InputError(f"Unknown method {name!r}; choose one of {', '.join(known)}.")
        package = missing_package(known[name])
        if package and rows:
            raise InputError(f"The method {name} needs a package that is not installed; try: pip install {package}")
        if package:
            chosen.remove(name)
            sys.stdout.write(f"{name} is left out: it needs {package}\n")
    shared = {"data_dir": str(Path(data_dir).absolute()), "dataset_dir": str(folder / "pairs")}
    shared |= {"validation_list": pairs} if pairs else {}
    cache = {"mask_cache": str(folder / "masks")}
    lines = []
    for name in chosen:
        out, method = folder / name.replace(", ", "_").replace(" ", "_"), known[name]
        if isinstance(method, Method):
            values = {**shared, **method.options, **(cache if method.configs == NETWORK else {})}
            numbers = measured(out, [*method.configs, dataset], values, method.weights)
        else:
            values = {**shared, **cache}
            stamp = stamp_of([*NETWORK, dataset], [values, name, method], [CARDIAC])
            numbers = kept(
                out,
                stamp,
                lambda: measure_tool(name, method, out, dataset, values),  # noqa: B023, called within the loop
            )
        if not lines:
            lines.append({"method": "before"} | averages(numbers, INITIAL | {"carried": "masks/mean/initial"}))
        lines.append(
            {"method": name} | averages(numbers, FINAL | {"carried": "masks/mean/final", "seconds": "seconds"})
        )
    write_csv(folder / "compare.csv", lines)
    sys.stdout.write(f"{hardware()}\n\n{markdown(lines, TITLES)}")


if __name__ == "__main__":
    fire.Fire(main)
