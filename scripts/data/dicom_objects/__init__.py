# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Results as DICOM objects: moved series, segmentations of the paired regions, deformable spatial registration."""
