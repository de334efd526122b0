# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Times of the registration network: ``python -m scripts.benchmarks.speed.network``."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence

import fire
import numpy as np
import torch
from monai.losses import LocalNormalizedCrossCorrelationLoss

from ...common.memory import peak_memory_mb
from ...losses.prototype import PrototypeAlignment, PrototypeContrast
from ...losses.registration import RegistrationLoss
from ...losses.similarity import lncc
from ...network.model import CrossFusionNet
from ...network.refine import RefineSettings
from ...training.network.pairs import PairTraining
from ..common import hardware


def timed(call: Callable[[], object], repeats: int) -> str:
    """Median and range of some runs, and the median processor time, as text, after one warm-up run."""
    call()
    seconds, used = [], []
    for _ in range(repeats):
        began, before = time.perf_counter(), time.process_time()
        call()
        seconds.append(time.perf_counter() - began)
        used.append(time.process_time() - before)
    return f"{np.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f}), processor {np.median(used):.2f} s"


def main(
    shape: Sequence[int] = (128, 128, 10),
    crop: Sequence[int] = (80, 80, 6),
    lncc_side: int = 128,
    repeats: int = 3,
    monai_lncc: bool = False,
    channels: Sequence[int] = (8, 16, 32, 64),
) -> None:
    """Prints the time of a prediction, a training step, and LNCC forward and backward.

    Args:
        shape: of the predicted pair.
        crop: of a training pair.
        lncc_side: side of the volume for LNCC, window 9.
        repeats: of each measurement.
        monai_lncc: also time MONAI's LNCC, which is slow.
        channels: of the network, fine to coarse.
    """
    write = sys.stdout.write
    write(f"{hardware()}\n")
    torch.manual_seed(0)
    net = CrossFusionNet(channels=channels, strides=(2, 2, 1), window=(4, 4, 2), diffeomorphic=True)
    write(f"parameters: {sum(p.numel() for p in net.parameters())}\n")
    pair = torch.rand(1, 4, *shape)
    pair[:, 2:] = (pair[:, 2:] * 4).floor()

    def predict() -> None:
        with torch.inference_mode():
            net(pair)

    write(f"prediction of {tuple(shape)}: {timed(predict, repeats)}\n")
    masks = (torch.rand(1, 2, *crop) * 4).floor()
    batch = {"image": torch.rand(1, 2, *crop), "masks": masks, "targets": masks, "spacing": torch.ones(1, 3)}
    loss = RegistrationLoss(
        RefineSettings().terms | {"contrast": PrototypeContrast(), "alignment": PrototypeAlignment()}
    )
    for amp in (None, "bfloat16"):
        training = PairTraining(net, amp=amp)
        step = timed(lambda training=training: loss(training(**batch)).backward(), repeats)
        write(f"training step of {tuple(crop)}, {amp or 'float32'}: {step}\n")
    a, b = torch.rand(2, 1, 1, *[lncc_side] * 3)
    a.requires_grad_()
    write(f"LNCC of {lncc_side}^3, forward and backward: {timed(lambda: lncc(a, b, 9).backward(), repeats)}\n")
    if monai_lncc:
        loss = LocalNormalizedCrossCorrelationLoss(3, 9)
        write(f"MONAI's LNCC: {timed(lambda: loss(a, b).backward(), repeats)}\n")
    write(f"peak memory: {peak_memory_mb():.0f} MB\n")


if __name__ == "__main__":
    fire.Fire(main)
