# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Distilling the image encoder of a larger Segment Anything model into the compact one, on any pictures, without masks.

Decoupled distillation (Zhang et al. 2023, "Faster Segment Anything", section 3.2): the student's encoder learns the
features of the teacher's encoder, and the teacher's prompt encoder and mask decoder then work on them as they are.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.transforms import Transform
from PIL import Image
from segment_anything.modeling import Sam
from segment_anything.utils.transforms import ResizeLongestSide
from torch import Tensor, nn
from torch.nn import functional as F

from ...common.errors import InputError
from ...sam.compact import compact_sam, to_grid
from ...sam.everything import encode


def feature_width(sam: Sam) -> int:
    """Channels of the embedding."""
    return sam.prompt_encoder.embed_dim


def student_of(teacher: Sam, tokens: int = 24, width: int | None = None, **compact: Any) -> Sam:
    """A compact SAM that learns from a teacher.

    Args:
        teacher: any Segment Anything model.
        tokens: side of the student's embedding.
        width: channels of its embedding; None takes those of the teacher, and with them the weights of its prompt
            encoder and mask decoder. With another width these are random, and must be trained afterwards.
        compact: further arguments of :func:`scripts.sam.compact.compact_sam`.
    """
    width = feature_width(teacher) if width is None else width
    if width < 16 or width % 16:
        raise InputError(f"width must be a multiple of 16, got {width}; leave it out to take the teacher's.")
    if width != feature_width(teacher):
        return compact_sam(tokens=tokens, embed_dim=width, **compact)
    hidden = teacher.mask_decoder.transformer.layers[0].mlp.lin1.out_features
    student = compact_sam(tokens=tokens, embed_dim=width, mlp_dim=hidden, **compact)
    student.prompt_encoder.load_state_dict(teacher.prompt_encoder.state_dict())
    student.mask_decoder.load_state_dict(teacher.mask_decoder.state_dict())
    return student


class TeacherFeatures(Transform):
    """Embeds a picture with the teacher; deterministic and slow, so a dataset caches the result.

    Args:
        teacher: the model, on its device.
        student: gives the sizes of input and embedding.

    Input: a dict with "picture", a file.

    Output: "image" (3, S, S) uint8, the picture as the student sees it, padded with zeros; "scaled" (2,) rows and
    columns that it fills; "features" (C, T, T) float16, the teacher's embedding at the student's tokens.
    """

    def __init__(self, teacher: Sam, student: Sam) -> None:
        self.teacher = teacher.eval()
        self.side, self.tokens = student.image_encoder.img_size, student.image_encoder.tokens

    @torch.no_grad()
    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        with Image.open(data["picture"]) as picture:
            stack = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)[None].float()
        features, _ = encode(self.teacher, stack)
        scaled = ResizeLongestSide.get_preprocess_shape(*stack.shape[2:], self.side)
        small = F.interpolate(stack, scaled, mode="bilinear", align_corners=False, antialias=True)
        image = F.pad(small.round().to(torch.uint8)[0], (0, self.side - scaled[1], 0, self.side - scaled[0]))
        return {
            "image": image,
            "scaled": torch.tensor(scaled),
            "features": to_grid(features, self.tokens)[0].half().cpu(),
        }


class Distillation(nn.Module):
    """Compares the student's features with the teacher's, through a linear map of channels where the widths differ.

    Args:
        student: the model to train; only its image encoder takes part.
        width: channels of the teacher's features.
        amp: dtype of autocast, e.g. "bfloat16", or None.
    """

    def __init__(self, student: Sam, width: int, amp: str | None = None) -> None:
        super().__init__()
        self.student = student
        own = feature_width(student)
        self.projection = nn.Identity() if own == width else nn.Conv2d(own, width, 1)
        self.amp = getattr(torch, amp) if amp else None

    def learning(self) -> list[nn.Parameter]:
        """The parameters that the features depend on."""
        return [*self.student.image_encoder.parameters(), *self.projection.parameters()]

    def forward(self, image: Tensor, scaled: Tensor, features: Tensor) -> dict[str, Tensor]:
        """Computes the loss of a batch.

        Args:
            image: (B, 3, S, S) in 0..255.
            scaled: (B, 2) rows and columns that a picture fills.
            features: (B, C, T, T) of the teacher.

        Returns:
            "features", the squared error over the variance of the teacher's features: 1 for a student that predicts
            their mean, 0 for one that equals the teacher; and "similarity", detached, the mean cosine of the two after
            subtracting the teacher's mean.
        """
        side, tokens = image.shape[-1], features.shape[-1]
        inside = inside_picture(scaled, side)
        # Outside the picture, the package pads normalised images with zeros.
        with torch.autocast(image.device.type, dtype=self.amp or torch.bfloat16, enabled=self.amp is not None):
            seen = self.student.preprocess(image.float()) * inside
            answer = self.projection(self.student.image_encoder(seen))
        answer, target, weight = answer.float(), features.float(), to_grid(inside, tokens)
        total = weight.sum().clamp_min(1e-6)
        mean = (target * weight).sum(dim=(0, 2, 3), keepdim=True) / total
        error = ((answer - target) ** 2 * weight).sum()
        variance = ((target - mean) ** 2 * weight).sum().clamp_min(1e-6)
        cosine = F.cosine_similarity(answer.detach() - mean, target - mean, dim=1)
        return {"features": error / variance, "similarity": (cosine * weight[:, 0]).sum() / total}


def inside_picture(scaled: Tensor, side: int) -> Tensor:
    """(B, 1, side, side) with 1 where a picture is, 0 in its padding; ``scaled`` (B, 2) rows and columns."""
    line = torch.arange(side, device=scaled.device)
    rows, columns = (line[None] < scaled[:, i, None] for i in range(2))
    return (rows[:, None, :, None] & columns[:, None, None, :]).float()


def hold_out(images: list[list[str]], share: float) -> tuple[list[dict], list[dict]]:
    """Splits pictures into a training and a validation part, by image where there are several.

    Args:
        images: pictures of each image.
        share: of the images held out for validation, at least one.

    Returns:
        two lists of items for :class:`TeacherFeatures`.
    """
    if not 0 < share < 1:
        raise InputError(f"validation_share must lie between 0 and 1, got {share}.")
    groups = images if len(images) > 1 else [[picture] for picture in images[0]]
    if len(groups) < 2:
        raise InputError("There is only one picture; give at least two, one for training and one for validation.")
    step = max(2, round(1 / share))
    last = len(groups) - 1
    held = {number for number in range(len(groups)) if number % step == step - 1} or {last}
    parts = [[], []]
    for number, group in enumerate(groups):
        parts[number in held] += [{"picture": picture} for picture in group]
    return tuple(parts)
