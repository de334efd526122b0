# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The source "bundle:PATH": any MONAI segmentation bundle, run through its own ``inference.json``.

**This runs the code of the bundle**, with the rights of the user. The bundle runs in a separate process and folder,
because most bundles, like this one, contain a package called ``scripts``; this is no protection.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from ..common.errors import InputError
from ..common.fingerprint import file_sha256, fingerprint
from ..data.reader import Volume
from .files import read_labels
from .names import canonical
from .source import Masks, MaskSource, paint_labels

logger = logging.getLogger(__name__)

BACKGROUND = {"background", "unlabeled", "unlabelled"}


class BundleSource(MaskSource):
    """Masks by a MONAI bundle, which runs its own code.

    Args:
        bundle: folder of a bundle, or a name in the MONAI model zoo, which is then downloaded to ``download_dir``.
        values: channel (or value in a label map) of each structure; from the bundle's metadata if None.
        config: inference config in the bundle's ``configs/``.
        prompt_key: entry of the bundle's input for the requested channels (VISTA3D: "label_prompt"); None if it has
            none.
        overrides: further values of the bundle's config, by key.
        modality: of the training images of the bundle, "ct" or "mr"; from its metadata if None.
        download_dir: folder for bundles of the model zoo.
        timeout_s: longest run for one image.
        trust: also runs the code of a bundle that belongs to another user of this computer.

    Raises:
        InputError: no such bundle, no config, unnamed channels, or a bundle of another user that is not trusted.
    """

    def __init__(
        self,
        bundle: str,
        values: Mapping[str, int] | None = None,
        config: str | None = None,
        prompt_key: str | None = None,
        overrides: Mapping[str, Any] | None = None,
        modality: str | None = None,
        download_dir: str | Path = "bundles",
        timeout_s: float = 3600.0,
        trust: bool = False,
    ) -> None:
        super().__init__()
        self.root = find_bundle(bundle, Path(download_dir))
        if not trust:
            check_owner(self.root)
        self.name = f"bundle:{self.root.name}"
        self.config = find_config(self.root, config)
        metadata = read_metadata(self.root)
        output, image = named_format(metadata)
        channels = output.get("channel_def", {})
        if values is None:
            values = {v: int(k) for k, v in channels.items() if str(v).lower() not in BACKGROUND}
        if not values:
            raise InputError(
                f"The metadata of {self.root} do not name its channels; give --values \"{{'spleen': 1}}\"."
            )
        self.values = {canonical(name): int(value) for name, value in values.items()}
        self.offered = tuple(self.values)
        self.modality = modality or {"ct": "ct", "mr": "mr", "mri": "mr"}.get(str(image.get("modality", "")).lower())
        self.prompt_key, self.overrides, self.timeout_s = prompt_key, dict(overrides or {}), timeout_s
        parts = [p for part in ("models", "configs", "scripts") for p in sorted((self.root / part).rglob("*"))]
        files = {str(p.relative_to(self.root)): file_sha256(p) for p in parts if p.is_file() and p.suffix != ".pyc"}
        self._identity = fingerprint("bundle", self.config.name, files, self.values, self.overrides, prompt_key)

    def segment(self, volume: Volume, names: tuple[str, ...], modality: str, probabilities: bool) -> Masks:
        """See :class:`MaskSource`; bundles write label maps, so there are no probabilities."""
        with tempfile.TemporaryDirectory(prefix="bundle-") as folder:
            image = Path(folder) / "image.nii.gz"
            write_image(image, volume)
            item: dict[str, Any] = {"image": str(image)}
            if self.prompt_key is not None:
                item[self.prompt_key] = [self.values[name] for name in names]
            self._run(item, Path(folder) / "out")
            written = sorted((Path(folder) / "out").rglob("*.nii*"))
            if len(written) != 1:
                raise InputError(
                    f"The bundle {self.root} wrote {len(written)} images for one; its inference config must save one "
                    "segmentation to output_dir."
                )
            binary = self._read(written[0], volume, names)
        return Masks(paint_labels(volume.geometry.shape, binary), names, volume.geometry)

    def _run(self, item: Mapping[str, Any], output_dir: Path) -> None:
        """Runs the bundle on one image."""
        options = {"bundle_root": str(self.root), "output_dir": str(output_dir), **self.overrides}
        command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(self.config)]
        command += ["--dataset#data", repr([dict(item)])]
        for key, value in options.items():
            command += [f"--{key}", value if isinstance(value, str) else repr(value)]
        logger.info("running the bundle %s", self.root)
        try:
            run = subprocess.run(
                command, cwd=self.root, capture_output=True, encoding="utf-8", errors="replace",
                timeout=self.timeout_s, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise InputError(f"The bundle {self.root} did not finish in {self.timeout_s:g} s.") from error
        if run.returncode:
            lines = [line for line in run.stderr.strip().splitlines() if line.strip()]
            raise InputError(f"The bundle {self.root} failed: {lines[-1] if lines else 'no message'}")

    def _read(self, path: Path, volume: Volume, wanted: Sequence[str]) -> list[NDArray]:
        """Boolean masks (*shape) from the output of the bundle: a label map, or one channel for each structure."""
        stored = nib.load(path)
        if len(stored.shape) > 3 and stored.shape[3] > 1:
            masks = []
            for name in wanted:
                channel = self.values[name]
                if channel >= stored.shape[3]:
                    raise InputError(f"{name!r} is channel {channel}, and the bundle wrote {stored.shape[3]} channels.")
                single = path.parent / "channel.nii"
                nib.save(nib.Nifti1Image(np.asarray(stored.dataobj[..., channel], np.float32), stored.affine), single)
                masks.append(read_labels(single, volume) > 0.5)
            return masks
        labels = np.rint(read_labels(path, volume))
        return [labels == self.values[name] for name in wanted]


def check_owner(root: Path) -> None:
    """Refuses a bundle that belongs to another user; on Windows, which has no such owner, nothing is refused."""
    if hasattr(os, "getuid") and root.stat().st_uid != os.getuid():
        raise InputError(f"The bundle {root} of another user runs its own code; if you trust it, add --trust True.")


def find_bundle(bundle: str, download_dir: Path) -> Path:
    """The folder of a bundle; a name in the model zoo is downloaded."""
    for place in (Path(bundle), download_dir / bundle):
        if (place / "configs").is_dir():
            return place.resolve()
    if Path(bundle).exists() or Path(bundle).name != bundle:
        raise InputError(f"{bundle} is not a MONAI bundle: it has no folder configs; give the folder of a bundle.")
    from monai.bundle import download

    try:
        download(name=bundle, bundle_dir=str(download_dir))
    except Exception as error:  # the network, the hub and missing packages raise many types
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        text = f"The bundle {bundle!r} is not in {download_dir} and cannot be downloaded ({reason}); give its folder."
        raise InputError(text) from error
    return (download_dir / bundle).resolve()


def find_config(root: Path, config: str | None) -> Path:
    """The inference config of a bundle."""
    names = [config] if config else ["inference.json", "inference.yaml", "inference.yml"]
    for name in names:
        if (root / "configs" / name).is_file():
            return root / "configs" / name
    raise InputError(f"The bundle {root} has no configs/{names[0]}; name its inference config with --config.")


def read_metadata(root: Path) -> dict:
    """The metadata of a bundle; empty if it has none."""
    path = root / "configs" / "metadata.json"
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({error}); repair the bundle.") from error


def named_format(metadata: Mapping) -> tuple[dict, dict]:
    """The first output and the first input of a bundle's data format."""
    formats = metadata.get("network_data_format", {})
    outputs, inputs = formats.get("outputs", {}), formats.get("inputs", {})
    return next(iter(outputs.values()), {}), next(iter(inputs.values()), {})


def write_image(path: Path, volume: Volume) -> None:
    """Writes an image as NIfTI, which every bundle can read, with the corrected header."""
    array = volume.array[0] if len(volume.array) == 1 else np.moveaxis(volume.array, 0, -1)
    image = nib.Nifti1Image(array.astype(np.float32), volume.geometry.affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
