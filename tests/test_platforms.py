"""The whole package imports where Python has no POSIX modules, as on Windows."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import importlib, pathlib, sys

BLOCKED = {"fcntl", "resource", "pwd", "grp", "termios"}


class Windows:
    def find_spec(self, name, path=None, target=None):
        if name in BLOCKED and importer() == "scripts":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def importer():
    # Libraries may have code of their own for each platform; only what this package imports is blocked.
    frame = sys._getframe(2)
    while frame is not None and "importlib" in frame.f_code.co_filename:
        frame = frame.f_back
    return frame.f_globals.get("__name__", "").split(".")[0]


sys.meta_path.insert(0, Windows())
for name in BLOCKED:
    sys.modules.pop(name, None)
names = [".".join(p.with_suffix("").parts) for p in sorted(pathlib.Path("scripts").rglob("*.py"))]
failed = []
for name in names:
    if name.endswith("__main__"):
        continue
    for other in BLOCKED:
        sys.modules.pop(other, None)
    try:
        importlib.import_module(name.removesuffix(".__init__"))
    except ModuleNotFoundError as error:
        if error.name in BLOCKED:
            failed.append(f"{name}: {error}")
print(len(names), failed)
sys.exit(bool(failed) or len(names) < 100)
"""


def test_every_module_imports_without_posix(bundle):
    done = subprocess.run([sys.executable, "-c", CODE], cwd=bundle, capture_output=True, encoding="utf-8", check=False)
    assert not done.returncode, done.stdout + done.stderr[-2000:]
