# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Is a region clicked in one image found in the other? Hearts and abdomens, both directions.

``python -m scripts.benchmarks.models.prompted --data_dir DATA``
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import fire
import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor
from tqdm import tqdm

from ...common.errors import InputError
from ...correspondence.result import working_image
from ...correspondence.slicing import SlicePlan, plan_slices
from ...data.batches import image_batch
from ...data.pair import Pair, one_pair
from ...data.prompt import WorkingPrompt
from ...roi.prompted import PromptedCorrespondence
from ...sam.prompts import EncodedSlices
from ...spatial.geometry import resample
from ...workflow.outcome import plain_errors
from ..abdomens.rois import abdomen_pairs
from ..common import Registrar, hardware, mean_sd
from ..hearts.acdc import acdc_items

HEART = {"left ventricle": (3,), "right ventricle": (1,)}
ABDOMEN = {"liver": (6,), "spleen": (1,), "kidneys": (2, 3), "aorta": (8,)}


class Answer(NamedTuple):
    """Dice of the region of the prompt and of its partner, each on its own slice, and the seconds it took."""

    region: float
    partner: float
    seconds: float


def on_slices(pair: Pair, role: str, value: int, plan: SlicePlan) -> Tensor:
    """Masks (N, H, W) bool of a structure on the slices of the working grid."""
    label = getattr(pair, f"{role}_label")
    one = torch.from_numpy((np.rint(label.array[:1]) == value).astype(np.float32))
    transform = pair.transform if role == "moving" else None
    return plan.cut(resample(one, label.geometry, pair.working, transform, fill=0.0))[:, 0] > 127


def ask(stack: Tensor, source: str, kind: str, plan: SlicePlan) -> WorkingPrompt | None:
    """The prompt for a structure (N, H, W): its deepest point, or its box, on the slice that halves its volume.

    Returns:
        None where the structure is absent.
    """
    area = stack.flatten(1).sum(dim=1)
    if not area.any():
        return None
    position = int(torch.searchsorted(area.cumsum(0).float(), float(area.sum()) / 2))
    mask = stack[position].numpy()
    if kind == "point":
        row, column = np.unravel_index(distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1].argmax(), mask.shape)
        places = torch.tensor([[column + 0.5, row + 0.5]])
    else:
        found = np.argwhere(mask)
        places = torch.tensor(np.stack([found.min(axis=0)[::-1], found.max(axis=0)[::-1] + 1]), dtype=torch.float32)
    places = plan.to_index(places.float(), torch.full((len(places),), position), tuple(mask.shape))
    none = torch.zeros(0, places.shape[1])
    point = kind == "point"
    return WorkingPrompt(source, places if point else none, torch.ones(int(point)), None if point else places, None)


def dice(found: Tensor, truth: Tensor) -> float:
    """Dice of two masks (H, W)."""
    return float(2 * (found & truth).sum() / (found.sum() + truth.sum()).clamp_min(1))


def answers(
    registrar: Registrar, item: dict, structures: dict[str, tuple[int, ...]], kind: str, search: PromptedCorrespondence
) -> Iterator[tuple[str, Answer]]:
    """(name, answer) for every structure of a pair, prompted in either image."""
    batch = one_pair([registrar.load(item)])
    pair = batch["pair"]
    image, working = working_image(image_batch(batch, registrar.device)[0])
    plan = plan_slices(working)
    encoded = {
        role: EncodedSlices(registrar.network, plan.cut(half))
        for role, half in zip(("moving", "fixed"), image.chunk(2))
    }
    for name, value in ((name, v) for name, values in structures.items() for v in values):
        truths = {role: on_slices(pair, role, value, plan) for role in encoded}
        for source, other in (("moving", "fixed"), ("fixed", "moving")):
            prompt = ask(truths[source], source, kind, plan)
            if prompt is None or not truths[other].any():
                continue
            began, scores = time.perf_counter(), [0.0, 0.0]
            try:
                begin = search.region(encoded[source], prompt, plan)
                scores[0] = dice(begin.masks.masks()[0].cpu(), truths[source][begin.position])
                end = search.partner(encoded[other], begin, plan, working)
                scores[1] = dice(end.masks.masks()[0].cpu(), truths[other][end.position])
            except InputError:  # an empty region or no partner: Dice 0
                pass
            yield name, Answer(*scores, time.perf_counter() - began)


def main(
    data_dir: str,
    kinds: str = "hearts,abdomens",
    prompt: str = "point",
    subset: str = "validation",
    limit: int | None = None,
    first: int = 0,
    sam: str = "lite_medsam",
    search_mm: float = 30.0,
    search_slices: int = 3,
    tried_slices: int = 2,
    **options: Any,
) -> None:
    """Prints the table.

    Args:
        data_dir: folder with ``acdc/``, ``abdomen_ct/`` and ``splits/``.
        kinds: hearts (end-diastole and end-systole), abdomens (disjoint pairs of subjects), or both.
        prompt: "point", the deepest point of the structure, or "box".
        subset: "validation", "training" or a part of it.
        limit: largest number of pairs of each kind.
        first: number of pairs of each kind to skip.
        sam: the model.
        search_mm: see :class:`scripts.roi.prompted.PromptedCorrespondence`.
        search_slices: likewise.
        tried_slices: likewise.
        options: any key of configs/samreg.json.
    """
    search = PromptedCorrespondence(search_mm, search_slices, tried_slices)
    stop = None if limit is None else first + limit
    write = sys.stdout.write
    with tempfile.TemporaryDirectory() as folder:
        sets = {
            "hearts": (acdc_items(data_dir, subset, folder, 0), {"window": "mr"}, HEART),
            "abdomens": (disjoint(abdomen_pairs(data_dir, subset)), {"window": "ct", "init": "affine"}, ABDOMEN),
        }
        for kind in kinds.split(","):
            if kind not in sets:
                raise InputError(f"There is no kind {kind!r} to measure; choose from {', '.join(sets)}.")
            items, settings, structures = sets[kind]
            registrar = Registrar({"sam": sam, **settings, **options})
            found: dict[str, list[Answer]] = {}
            chosen = items[first:stop]
            for pair, item in tqdm(chosen, desc=kind, unit="pair"):
                for name, answer in answers(registrar, item, structures, prompt, search):
                    found.setdefault(name, []).append(answer)
                    tqdm.write(f"{pair} {name}: {answer.region:.3f} -> {answer.partner:.3f}", file=sys.stdout)
            write(f"\n| {kind}, {len(chosen)} pairs of {subset} subjects, {prompt} | prompts ")
            write("| Dice of its region | Dice of the partner |\n|---|---|---|---|\n")
            for name, some in found.items():
                cells = (mean_sd(getattr(a, key) for a in some) for key in ("region", "partner"))
                write(f"| {name} | {len(some)} | {' | '.join(cells)} |\n")
            means = [np.mean([np.mean([getattr(a, k) for a in s]) for s in found.values()]) for k in Answer._fields]
            write(f"| **mean of structures** | | {means[0]:.3f} | {means[1]:.3f} |\n{means[2]:.1f} s per prompt\n")
            sys.stdout.flush()
    write(f"{hardware()}\n")


def disjoint(pairs: list[tuple[str, dict]]) -> list[tuple[str, dict]]:
    """Ordered pairs in which every subject occurs once."""
    seen: set[str] = set()
    chosen = []
    for name, item in pairs:
        images = {item["moving"], item["fixed"]}
        if not images & seen:
            seen |= images
            chosen.append((name, item))
    return chosen


if __name__ == "__main__":
    plain_errors()
    fire.Fire(main)
