# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Where the bundle's files are, and the name under which its code is imported."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

_PACKAGE = Path(__file__).resolve().parents[1]
# An installed package carries configs and weights inside it; in the bundle they are its neighbours.
BUNDLE = _PACKAGE / "bundle" if (_PACKAGE / "bundle").is_dir() else _PACKAGE.parent
CONFIGS, MODELS = BUNDLE / "configs", BUNDLE / "models"
NAME = __name__.partition(".")[0]  # "scripts" in the bundle, "samreg" when installed


def own_names(config: Any) -> Any:
    """The same config with ``scripts.`` replaced by the name under which this package is imported.

    Another package called ``scripts`` may be loaded in the same process, so an installed package never imports it.
    """
    if isinstance(config, dict):
        return {key: own_names(value) for key, value in config.items()}
    if isinstance(config, list):
        return [own_names(value) for value in config]
    if isinstance(config, str) and NAME != "scripts":
        return re.sub(r"(?<![\w./\\-])scripts\.(?=[a-z_])", f"{NAME}.", config)
    return config
