# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""What a person looks at: pages with a viewer, and pictures."""
