"""The tests mirror ``scripts``."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # processes share the cores; read by torch when it is imported
    os.environ.setdefault("OMP_NUM_THREADS", "1")
