# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Numbers about a result: overlap, surface distance, landmark error, regularity of the field."""
