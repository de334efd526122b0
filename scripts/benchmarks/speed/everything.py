# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Everything mode against SamAutomaticMaskGenerator, same weights: ``python -m scripts.benchmarks.speed.everything``.

Each generator runs in its own process, so that peak memory can be attributed. They take turns, so that other load on
the machine slows both; times are medians over the turns.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time

import fire
import numpy as np
import torch
from segment_anything import SamAutomaticMaskGenerator, sam_model_registry

from ...common.memory import peak_memory_mb
from ...data.phantoms.abdomen import abdomen_pair
from ...sam.build import build_sam
from ...sam.everything import EverythingMode
from ...sam.vit import save_memory
from ..common import hardware


def picture(size: int = 256) -> np.ndarray:
    """A phantom CT slice (size, size, 3) uint8."""
    image = abdomen_pair(21, (size, size), (1.5, 1.5)).moving.T.clip(-125, 275)
    return np.repeat(((image + 125) / 400 * 255).round().astype(np.uint8)[..., None], 3, axis=2)


def serve(which: str, model: str, settings: dict, precision: str) -> None:
    """Runs one generator for every line of the standard input and answers with one line of JSON.

    The line contains seconds, peak memory (MB beyond the model and the image) and the number of masks.
    """
    torch.manual_seed(0)
    # Released weights are not needed: time and memory do not depend on them, only the masks do.
    sam = build_sam("compact") if model == "compact" else sam_model_registry[model]().eval()
    if which == "ours":
        save_memory(sam).encoder_dtype = getattr(torch, precision)
    image = picture()
    rest = peak_memory_mb()
    if which == "ours":
        generator = EverythingMode(**settings, mask_nms_thresh=1.0)  # the package suppresses by boxes alone
        stack = torch.from_numpy(image).permute(2, 0, 1)[None].float()

        def run() -> int:
            return len(generator(sam, stack)[0].masks())

    else:
        generator = SamAutomaticMaskGenerator(sam, **settings)

        def run() -> int:
            return len(generator.generate(image))

    for _ in sys.stdin:
        began = time.perf_counter()
        found = run()
        answer = {"seconds": time.perf_counter() - began, "memory_mb": peak_memory_mb() - rest, "masks": found}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def main(
    model: str = "compact",
    points_per_side: int = 16,
    pred_iou_thresh: float = 0.5,
    stability_score_thresh: float = 0.7,
    stability_score_offset: float = 0.3,
    repeats: int = 5,
    precision: str = "float32",
    only: str | None = None,
) -> None:
    """Prints seconds, peak memory and their ratios for one 256 x 256 slice; the settings are those of samreg.json.

    Args:
        model: "compact" (bundled weights), or "vit_b", "vit_l", "vit_h" with random weights.
        points_per_side: side of the point grid.
        pred_iou_thresh: quality threshold of both.
        stability_score_thresh: stability threshold of both.
        stability_score_offset: shift of the mask threshold in both stabilities, in logits.
        repeats: turns of each; the median counts.
        precision: of our image encoder; the package's is always float32.
        only: "ours" or "theirs" serves one in this process; used by the command itself.
    """
    settings = {
        "points_per_side": points_per_side,
        "pred_iou_thresh": pred_iou_thresh,
        "stability_score_thresh": stability_score_thresh,
        "stability_score_offset": stability_score_offset,
    }
    if only:
        serve(only, model, settings, precision)
        return
    workers = {}
    for which in ("theirs", "ours"):
        command = [sys.executable, "-m", "scripts.benchmarks.speed.everything", "--only", which, "--model", model]
        command += [f"--{k}={v}" for k, v in settings.items()] + [f"--precision={precision}"]
        workers[which] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8")
    turns: dict[str, list[dict]] = {which: [] for which in workers}
    for _ in range(repeats):
        for which, worker in workers.items():
            worker.stdin.write("\n")
            worker.stdin.flush()
            answer = worker.stdout.readline()
            if not answer:
                raise RuntimeError(f"The measurement of {which!r} ended early; its own message stands above.")
            turns[which].append(json.loads(answer))
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()
    names = {"theirs": "SamAutomaticMaskGenerator", "ours": "EverythingMode"}
    seconds = {which: [t["seconds"] for t in found] for which, found in turns.items()}
    medians = {which: statistics.median(s) for which, s in seconds.items()}
    memory = {which: max(t["memory_mb"] for t in found) for which, found in turns.items()}
    sys.stdout.write(f"{model}, {points_per_side} x {points_per_side} points, 256 x 256 slice, {hardware()}\n")
    for which, found in turns.items():
        spread = f"{min(seconds[which]):.2f}..{max(seconds[which]):.2f}"
        sys.stdout.write(
            f"{names[which]}: {medians[which]:.2f} s ({spread}), {memory[which]:.0f} MB over the model, "
            f"{found[-1]['masks']} masks\n"
        )
    faster = medians["theirs"] / medians["ours"]
    share = memory["ours"] / max(memory["theirs"], 1e-9)
    sys.stdout.write(f"{faster:.1f} times faster, {share:.0%} of the memory\n")


if __name__ == "__main__":
    fire.Fire(main)
