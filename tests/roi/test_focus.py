"""The window of the second look lies where the images differ, and there is none where they differ everywhere."""

from __future__ import annotations

import torch

from scripts.roi.focus import focus_window


def blurred_noise(seed: int, shape=(3, 1, 96, 128)) -> torch.Tensor:
    noise = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.avg_pool2d(noise, 9, 1, 4)


def test_the_window_contains_what_changed():
    fixed = blurred_noise(0)
    moving = fixed.clone()
    moving[:, :, 20:50, 70:105] += 0.4
    moving += 0.02 * torch.rand(moving.shape, generator=torch.Generator().manual_seed(1))
    x0, y0, x1, y1 = focus_window(moving, fixed)
    assert x0 <= 70 and x1 >= 105 and y0 <= 20 and y1 >= 50
    assert x1 - x0 == y1 - y0 == 64


def test_no_window_for_equal_or_entirely_different_images():
    fixed = blurred_noise(0)
    assert focus_window(fixed, fixed) is None
    assert focus_window(blurred_noise(2), fixed) is None
