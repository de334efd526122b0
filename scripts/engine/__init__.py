# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""What the engines of MONAI do not already do."""
