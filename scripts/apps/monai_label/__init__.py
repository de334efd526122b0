# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""A MONAI Label app that carries regions and labels from one image of a study list to another."""
