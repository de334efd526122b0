# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Entry point of MONAI Label, which runs this file by its path and looks for a subclass of ``MONAILabelApp`` in it."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2]  # "scripts" in the bundle, "samreg" where it is installed
if str(PACKAGE.parent) not in sys.path:
    sys.path.insert(0, str(PACKAGE.parent))
# MONAI Label loads this file outside any package, so relative imports do not work.
RegistrationApp = import_module(f"{PACKAGE.name}.apps.monai_label.app").RegistrationApp
