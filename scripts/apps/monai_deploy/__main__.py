# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Entry point: ``python scripts/apps/monai_deploy -i INPUT -o OUTPUT [-m BUNDLE]``.

With ``-m`` the code and the weights of that bundle run; otherwise those of the bundle that contains this file.
"""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser
from importlib import import_module
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2]  # "scripts" in the bundle, "samreg" where it is installed

if __name__ == "__main__":
    parser = ArgumentParser(add_help=False)
    parser.add_argument("-m", "--model", default=os.environ.get("HOLOSCAN_MODEL_PATH"))
    bundle = parser.parse_known_args()[0].model
    package = Path(bundle).resolve() / "scripts" if bundle else PACKAGE
    if not (package / "apps" / "monai_deploy" / "app.py").is_file():
        sys.exit(
            f"error: {bundle} is not the folder of this bundle; give its root, which contains configs and scripts."
        )
    sys.path.insert(0, str(package.parent))
    sys.path = [p for p in sys.path if Path(p or ".").resolve() != Path(__file__).resolve().parent]
    # Python runs this folder as a script, outside any package, so relative imports do not work.
    sys.exit(import_module(f"{package.name}.apps.monai_deploy.app").main())
