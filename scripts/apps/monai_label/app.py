# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The app: its tasks, and how a request becomes the images and options of one of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monai.bundle import ConfigParser
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore

from ...common.bundle import CONFIGS
from .errors import NotFoundError, answer_bad_requests, http_errors
from .images import find_images
from .kept import Kept
from .tasks import Correspond, Masks, Propagate, Register, Task

PARTNER_TAG = "partner"


class RegistrationApp(MONAILabelApp):
    """Registration for readers and annotators: regions and labels of one image, shown in another.

    Args:
        app_dir: folder of ``main.py``.
        studies: folder or DICOMweb address of the studies.
        conf: of the command line: "results_dir", where registrations are kept (default: a temporary folder), and
            "results_gb", at most how many 1e9 bytes (default 4).
    """

    def __init__(self, app_dir: str, studies: str, conf: Mapping[str, str]) -> None:
        self.kept = Kept(conf.get("results_dir"), float(conf.get("results_gb", 4)))
        metadata = ConfigParser.load_config_file(str(CONFIGS / "metadata.json"))
        super().__init__(
            app_dir, studies, dict(conf), metadata["name"], metadata["description"], version=metadata["version"]
        )
        answer_bad_requests()

    def init_infers(self) -> dict[str, Task]:
        kinds = {"propagate": Propagate, "correspond": Correspond, "register": Register, "masks": Masks}
        return {name: kind(self.datastore().list_images, self.kept) for name, kind in kinds.items()}

    def init_strategies(self) -> dict:
        return {}

    def infer(self, request: Mapping[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """Answers one request.

        Args:
            request: "model", "image", and the entries for ``find_images`` and the options of the task.
            datastore: the studies; None takes those of the app.

        Raises:
            HTTPException: 4xx with one sentence for a request that cannot be answered.
        """
        with http_errors():
            store = datastore or self.datastore()
            task = self._infers.get(str(request.get("model")))
            if task is None:
                raise NotFoundError(f"There is no task {request.get('model')!r}; choose {', '.join(self._infers)}.")
            images = find_images(request, store, self.sessions(), pair=task.pair)
            result = super().infer({**request, "images": images}, store)
            partner = (result["params"] or {}).pop("save_partner", None)
            if partner:
                if images.other_id is None:
                    raise NotFoundError("The other image is an upload, so its region cannot be stored in the studies.")
                store.save_label(images.other_id, partner, PARTNER_TAG, {"params": {"label_names": {"region": 1}}})
                result["params"]["partner_label"] = {"image": images.other_id, "tag": PARTNER_TAG}
            return result
