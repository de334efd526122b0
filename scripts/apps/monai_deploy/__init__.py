# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""A MONAI Deploy application: two DICOM series or a NIfTI pair in, the registration as DICOM objects and files out."""
