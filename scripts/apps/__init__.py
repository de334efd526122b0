# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The bundle inside other programs: MONAI Label, MONAI Deploy, DICOM archives, the model zoo."""
