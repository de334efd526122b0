# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The verb ``summarise``: one table of all results in the folder of a cohort."""

from __future__ import annotations

from typing import Any

from ..workflow.cohort.summary import summarise_folder


def summarise(output_dir: str, table: str | None = None) -> dict[str, Any]:
    """Summarises all results in the folder of a cohort, e.g. after the tasks of a Slurm array.

    Args:
        output_dir: folder of the cohort.
        table: the table to write, .csv or .parquet; summary.csv in the folder by default.

    Returns:
        "registered", "nothing_found", "failed", "pairs": numbers of pairs; "metrics": mean, sd and n by name;
        "table": the file.

    Raises:
        InputError: no results, a table of another kind, or one that cannot be written.
    """
    return summarise_folder(output_dir, table)
