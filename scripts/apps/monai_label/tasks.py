# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The four tasks of the app: propagate, correspond, register, masks."""

from __future__ import annotations

import json
import shutil
import tempfile
from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import nibabel as nib
import numpy as np
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType

from ...common.errors import InputError
from ...common.fingerprint import fingerprint
from ...masks.net import NETS
from ...verbs.correspond import correspond
from ...verbs.masks import masks
from ...verbs.register import PRESETS, preset_files, register
from ...verbs.warp import warp
from ...workflow.method import AUTO, METHODS
from .errors import NothingFoundError
from .images import Images
from .kept import Kept, content_hash
from .options import CORRESPOND, chosen, offered, points

RESULTS = {
    "moved": "moved.nii.gz", "field": "ddf.nii.gz", "inverse_field": "inverse_ddf.nii.gz",
    "report": "report.html", "record": "correspondence.json", "all": "*",
}  # fmt: skip


class Task(InferTask):
    """What the tasks share. ``names`` gives the images of the studies; ``kept`` has the results of earlier requests."""

    kind = InferType.SEGMENTATION  # where clients list the task
    structures: Sequence[str] = ()  # names of the structures it returns
    about: str  # description for the user
    configs: Sequence[str]  # whose options the task offers,
    only: Collection[str] | None = None  # and which of them; None offers all
    first: ClassVar[Mapping[str, Any]]  # entries of the task itself, shown before the options
    pair = True  # whether the task needs a second image

    def __init__(self, names: Callable[[], list[str]], kept: Kept) -> None:
        super().__init__(self.kind, list(self.structures), 3, self.about)
        self.options, self.names, self.kept = offered(self.configs, self.only), names, kept

    def is_valid(self) -> bool:
        return True

    def config(self) -> dict[str, Any]:
        """Entries of the client's panel; images are listed anew, because studies grow while the server runs."""
        images = {"other_image": [AUTO, *sorted(self.names())]}
        return {**(images if self.pair else {}), **self.first, "device": [AUTO, "cpu", "cuda"], **self.options}

    def __call__(self, request: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
        """Runs the task.

        Args:
            request: with "images" (:class:`Images`) and the options of the client.

        Returns:
            a file for the client, which MONAI Label removes once it is sent, and facts.
        """
        images: Images = request["images"]
        file, facts = self.work(images, request)
        if self.pair:
            facts["other_image"] = images.other_id or "upload"
        return file, facts

    @abstractmethod
    def work(self, images: Images, request: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """The result file of one request, and facts about it."""

    def choice(self, request: Mapping[str, Any], key: str) -> Any:
        """The value of an entry of the task itself."""
        entry = self.first[key]
        return chosen({key: entry}, request).get(key, entry[0] if isinstance(entry, list) else entry)

    def device(self, request: Mapping[str, Any]) -> str:
        given = request.get("device", AUTO)
        return str(given[0] if isinstance(given, list) else given or AUTO)


class Registers(Task):
    """A task that needs the registration of the second image to this one."""

    configs = tuple(METHODS.values())
    common: ClassVar = {"method": [*METHODS, AUTO], "preset": ["default", *PRESETS]}

    def registration(self, images: Images, request: Mapping[str, Any], inverse: bool = False) -> tuple[Path, dict]:
        """Folder and record of the registration, computed once for each pair and each set of options.

        Raises:
            NothingFoundError: there is no field, because no regions were matched.
        """
        method, preset = self.choice(request, "method"), self.choice(request, "preset")
        options = {**chosen(self.options, request), "device": self.device(request)}
        if inverse:
            options["inverse"] = True
        preset_files(preset, "samreg" if method == AUTO else method)

        def make(folder: Path) -> None:
            record = register(
                images.other, images.image, str(folder), method=method, preset=preset, progress=False, **options
            )
            if not (folder / RESULTS["field"]).exists():
                raise NothingFoundError(
                    f"No region of {images.other_id or 'the upload'} was matched with one of "
                    f"{images.image_id or 'the image'}; try method network, or a lower epsilon."
                )
            (folder / "record.json").write_text(json.dumps(record), encoding="utf-8")

        contents = [content_hash(images.other), content_hash(images.image)]
        folder = self.kept.get(fingerprint("register", contents, method, preset, options), make)
        return folder, json.loads((folder / "record.json").read_text(encoding="utf-8"))


class Propagate(Registers):
    """Carries the label of another image to this one."""

    about = "Carries the label of another image to this one"
    first: ClassVar = {"other_label_tag": ["final", "original"], **Registers.common}

    def work(self, images: Images, request: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        if images.label is None:
            raise InputError(
                f"There is no label to carry over from {images.other_id or 'the upload'}; upload one as label, or "
                "store one first (PUT /datastore/label) and give its tag as other_label_tag."
            )
        folder, record = self.registration(images, request)
        file = temporary("propagate.nii.gz")
        facts = warp(images.label, file, str(folder), reference=images.image, label=True, progress=False)
        names = named(file, images.names)
        return file, {"label_names": names, "inside_percent": facts["inside_percent"], **summary(record)}


class Register(Registers):
    """The registration itself: the moved image, the field, the report, or everything in one archive."""

    kind = InferType.OTHERS
    about = "Registers another image to this one: moved image, field, report"
    first: ClassVar = {"result": list(RESULTS), **Registers.common}

    def work(self, images: Images, request: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        if request.get("save_label") in (True, "true"):
            raise InputError("register gives an image, not a label; call it without save_label.")
        wanted = self.choice(request, "result")
        folder, record = self.registration(images, request, inverse=wanted == "inverse_field")
        if wanted == "all":
            archive = Path(temporary("registration.zip"))
            shutil.make_archive(str(archive.with_suffix("")), "zip", folder)
            return str(archive), summary(record)
        path = folder / RESULTS[wanted]
        if not path.exists():
            raise InputError(f"This method does not write the result {wanted!r}; choose another one.")
        return shutil.copyfile(path, temporary(path.name)), summary(record)


class Correspond(Task):
    """The region under a click in this image, and its partner in the other image."""

    kind, structures = InferType.DEEPGROW, ("region",)
    about = "Finds the region under a click in this image, and its partner in another image"
    configs, only = ("correspond.json", "samreg.json"), CORRESPOND
    first: ClassVar = {"show": ["this image", "other image"], "save_partner": False}

    def work(self, images: Images, request: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        inside, outside = (points(request.get(name), name) for name in ("foreground", "background"))
        if not inside:
            raise InputError("Give at least one point inside the region, e.g. foreground=[[64,64,5]] in voxels.")
        labels = [1] * len(inside) + [0] * len(outside)
        options = {**chosen(self.options, request), "device": self.device(request)}

        def make(folder: Path) -> None:
            prompt = {"prompt_image": "fixed", "points_frame": "voxel", "points": [*inside, *outside], "labels": labels}
            correspond(images.other, images.image, folder, **prompt, overview=False, progress=False, **options)

        contents = [content_hash(images.other), content_hash(images.image)]
        folder = self.kept.get(fingerprint("correspond", contents, inside, outside, options), make)
        record = json.loads((folder / "correspondence.json").read_text(encoding="utf-8"))
        show = "fixed_rois.nii.gz" if self.choice(request, "show") == "this image" else "moving_rois.nii.gz"
        facts = {**summary(record), "label_names": {"region": 1}, "regions": record["pairs"]}
        if self.choice(request, "save_partner"):
            facts["save_partner"] = str(folder / "moving_rois.nii.gz")  # the app stores it and removes the path
        return shutil.copyfile(folder / show, temporary("region.nii.gz")), facts


class Masks(Task):
    """Structures by name, found by a bundled network."""

    structures = tuple(dict.fromkeys(name for net in NETS.values() for name in net.names))
    about = "Segments structures of this image by name"
    configs = ("masks.json",)
    first: ClassVar = {"source": list(NETS), "names": ""}
    pair = False

    def work(self, images: Images, request: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        source = self.choice(request, "source")
        names = self.choice(request, "names") or NETS[source].names
        names = [n.strip() for n in (names.split(",") if isinstance(names, str) else names)]
        options = {**chosen(self.options, request), "device": self.device(request)}

        def make(folder: Path) -> None:
            (record,) = masks(images.image, names, folder, source, progress=False, cache_dir=None, **options)
            (folder / record["file"]).rename(folder / "masks.nii.gz")
            (folder / "record.json").write_text(json.dumps(record), encoding="utf-8")

        folder = self.kept.get(fingerprint("masks", content_hash(images.image), source, names, options), make)
        record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
        file = shutil.copyfile(folder / "masks.nii.gz", temporary("masks.nii.gz"))
        return file, {"label_names": record["labels"], "ml": record["ml"]}


def temporary(name: str) -> str:
    """Path of a new temporary file whose name ends with ``name``."""
    with tempfile.NamedTemporaryFile(suffix=f"_{name}", delete=False) as file:
        return file.name


def named(path: str, names: Mapping[str, int]) -> dict[str, int]:
    """Value by name of the structures that a label map contains; those without a name are numbered."""
    by_value = {value: name for name, value in names.items()}
    values = np.unique(np.asarray(nib.load(path).dataobj)).astype(int)
    return {by_value.get(v, f"label {v}"): v for v in values.tolist() if v}


def summary(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a client shows of a registration."""
    pairs = len(record["pairs"])
    return {"method": record["method"], "pairs": pairs, "metrics": record["metrics"], "warnings": record["warnings"]}
