# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The application: loader, selection by rules, registration."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from monai.deploy.conditions import CountCondition
from monai.deploy.core import Application
from monai.deploy.operators.dicom_data_loader_operator import DICOMDataLoaderOperator

from ...common.errors import InputError
from ...workflow.outcome import input_error
from .operators import NiftiPair, PairSelector, RegisterPair
from .selection import nifti_pair, read_settings

SETTINGS = "SAM_REGISTRATION_SETTINGS"  # environment variable with the path of another settings file


class RegistrationApp(Application):
    """Registers the moving series of the input to the fixed one.

    The input is a folder with DICOM files of one or several series, of which the rules in ``settings.json`` select two,
    or with moving.nii.gz and fixed.nii.gz.
    """

    def compose(self) -> None:
        context = Application.init_app_context(self.argv)
        source, output_dir = Path(context.input_path), Path(context.output_path)
        settings = read_settings(os.environ.get(SETTINGS) or Path(__file__).with_name("settings.json"))
        once = CountCondition(self, 1)  # without it the source runs again and again
        options = settings.get("options", {})
        worker = RegisterPair(self, output_dir=output_dir, options=options, name="register")
        if nifti_pair(source):
            self.add_flow(NiftiPair(self, once, folder=source, name="pair"), worker, {("pair", "pair")})
            return
        loader = DICOMDataLoaderOperator(self, once, input_folder=source, name="load")
        selector = PairSelector(self, settings=settings, name="select")
        self.add_flow(loader, selector, {("dicom_study_list", "dicom_study_list")})
        self.add_flow(selector, worker, {("pair", "pair")})


def main() -> int:
    """Runs the application; bad input ends it with one sentence and exit code 1."""
    try:
        RegistrationApp().run()
    except Exception as error:
        plain = input_error(error)
        if plain is None:
            raise
        sys.stderr.write(f"error: {InputError(plain)}\n")
        return 1
    return 0
