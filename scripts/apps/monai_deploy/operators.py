# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The operators of the application: select the pair, register it, write the results."""

from __future__ import annotations

import shutil
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai.deploy.core import Fragment, Operator, OperatorSpec
from monai.deploy.operators.dicom_series_selector_operator import DICOMSeriesSelectorOperator

from ...verbs.register import register
from .selection import ROLES, nifti_pair, one_of_each


class PairSelector(DICOMSeriesSelectorOperator):
    """Selects one moving and one fixed series by the rules of the settings.

    Input: "dicom_study_list" of the DICOM loader. Output: "pair", the files of each series by role.
    """

    def __init__(self, fragment: Fragment, *args: Any, settings: Mapping[str, Any], **kwargs: Any) -> None:
        self.settings = settings
        super().__init__(fragment, *args, all_matched=True, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        spec.input(self.input_name_study_list)
        spec.output("pair")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        studies = op_input.receive(self.input_name_study_list)
        chosen: dict[str, list] = defaultdict(list)
        for study in self.filter(self.settings, studies, all_matched=True):
            for selected in study.selected_series:
                chosen[selected.selection_name].append(selected.series)
        pair = one_of_each(chosen, [series for study in studies for series in study.get_all_series()])
        op_output.emit({role: series_files(series) for role, series in pair.items()}, "pair")


class NiftiPair(Operator):
    """Finds the NIfTI pair of a folder. Output: "pair", the file of each image by role."""

    def __init__(self, fragment: Fragment, *args: Any, folder: Path, **kwargs: Any) -> None:
        self.folder = folder
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        spec.output("pair")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        op_output.emit({role: [path] for role, path in nifti_pair(self.folder).items()}, "pair")


class RegisterPair(Operator):
    """Registers the pair with the command ``register`` and writes everything into the output folder.

    Input: "pair". For two DICOM series the folder also receives the DICOM objects, see
    :func:`scripts.workflow.dicom.write_dicom`.
    """

    def __init__(
        self, fragment: Fragment, *args: Any, output_dir: Path, options: Mapping[str, Any], **kwargs: Any
    ) -> None:
        self.output_dir, self.options = output_dir, dict(options)
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        spec.input("pair")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        pair = op_input.receive("pair")
        if not pair["moving"][0].endswith((".nii", ".nii.gz")):
            with tempfile.TemporaryDirectory() as folder:
                series = (copied(pair[role], Path(folder) / role) for role in ROLES)
                register(*series, self.output_dir, dicom=True, progress=False, **self.options)
        else:
            register(pair["moving"][0], pair["fixed"][0], self.output_dir, progress=False, **self.options)


def series_files(series: Any) -> list[str]:
    """The files of a series of MONAI Deploy."""
    return [str(i.get_native_sop_instance().filename) for i in series.get_sop_instances()]


def copied(files: list[str], folder: Path) -> str:
    """A folder with these files only; the input may mix several series in one folder."""
    folder.mkdir(parents=True)
    for number, file in enumerate(files):
        shutil.copyfile(file, folder / f"{number:05d}.dcm")
    return str(folder)
