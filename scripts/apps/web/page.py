# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The page: two images side by side, what to do with them, and the results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from html import escape
from typing import Any

import gradio as gr

from ...common.errors import InputError
from ...report.page import data_uri
from ...verbs.register import PRESETS
from ...workflow.method import AUTO, METHODS
from .jobs import ROLES
from .results import correspondence_text, download_link, registration_text, report_frame
from .sessions import Session, Sessions
from .slices import Shown
from .worker import Step, Worker

INITS = ("none", "moments", "affine")
# A picture reports where it is clicked, from 0 to 1.
CLICK = """element.addEventListener('click', event => {
    if (event.target.tagName !== 'IMG') return;
    const box = event.target.getBoundingClientRect();
    trigger('click', {x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height});
});"""
CSS = """
.slice img { width: 100%; max-height: 62vh; object-fit: contain; background: #000; cursor: crosshair; }
.state progress { width: 100%; } .state .error { color: #b00020; font-weight: 600; }
iframe.report { width: 100%; height: 92vh; border: 1px solid #ccc; }
"""
Update = list[Any]


class Page:
    """The page and its events.

    Args:
        sessions: of its users.
        worker: does the work.
        device: of all jobs.
    """

    def __init__(self, sessions: Sessions, worker: Worker, device: str = "auto") -> None:
        self.sessions, self.worker, self.device = sessions, worker, device

    def build(self) -> gr.Blocks:
        """Lays the page out."""
        quiet = {"show_progress": "hidden", "api_visibility": "private"}
        work = {**quiet, "concurrency_limit": None}  # the worker has its own queue and reports who is waiting
        quick = {**quiet, "queue": False}
        with gr.Blocks(title="SAM registration", analytics_enabled=False) as blocks:
            gr.Markdown("# SAM registration\nRegister two images, or click in one to see the same region in the other.")
            roles = {role: gr.State(role) for role in ROLES}
            files, frames, views, sliders = {}, {}, {}, {}
            with gr.Row():
                for role in ROLES:
                    with gr.Column():
                        label = f"{role.capitalize()} image, or a zip with DICOM series"
                        files[role] = gr.File(label=label, height=150, elem_id=f"file-{role}")
                        files[role].preprocess = _path_of
                        frames[role] = gr.Textbox(label="Time frame of a 4-D image, from 0", max_lines=1)
                with gr.Column():
                    phantom = gr.Button("Use the phantom pair", elem_id="phantom")
                    method = gr.Radio([*METHODS, AUTO], value="samreg", label="Method", elem_id="method")
                    preset = gr.Dropdown(["default", *PRESETS], value="default", label="Preset")
                    init = gr.Dropdown(list(INITS), value="none", label="Initial alignment")
            with gr.Row():
                start = gr.Button("Register", variant="primary", elem_id="register")
                cancel = gr.Button("Cancel", variant="stop", elem_id="cancel")
            state = gr.HTML(elem_id="state", elem_classes="state")
            with gr.Row():
                for role in ROLES:
                    with gr.Column():
                        views[role] = gr.HTML(js_on_load=CLICK, elem_id=f"view-{role}", elem_classes="slice")
                        sliders[role] = gr.Slider(0, 1, 0, step=1, label=f"Slice, {role}", elem_id=f"slice-{role}")
            note, report = gr.HTML(elem_id="note"), gr.HTML(elem_id="report")
            outputs = [state, *views.values(), *sliders.values(), note, report]
            jobs = [
                phantom.click(self.phantom, None, outputs, **work),
                start.click(self.register, [method, preset, init], outputs, **work),
            ]
            for role in ROLES:
                inputs = [roles[role], files[role], frames[role]]
                jobs.append(files[role].upload(self.load, inputs, [*outputs, files[role]], **work))
                jobs.append(views[role].click(self.click, [roles[role], sliders[role], init], outputs, **work))
                sliders[role].input(self.turn, [roles[role], sliders[role]], views[role], **quick)
            cancel.click(lambda: "Cancelled.", None, state, cancels=jobs, **quick)
            blocks.unload(self.leave)
        return blocks

    def phantom(self, request: gr.Request) -> Iterator[Update]:
        """Loads the built-in pair."""
        yield from self._loaded(self._session(request), "phantom")

    def load(self, role: str, upload: str | None, frame: str, request: gr.Request) -> Iterator[Update]:
        """Loads an uploaded image."""
        session = self._session(request)
        if upload is None:
            return
        try:
            path = session.receive(upload)
        except InputError as error:
            yield [*self._update(session, error), None]
        else:
            yield from ([*update, None] for update in self._loaded(session, "load", role, path, frame.strip()))

    def register(self, method: str, preset: str, init: str, request: gr.Request) -> Iterator[Update]:
        """Registers the pair."""
        session = self._session(request)
        options = {"method": method, "preset": preset, "init": init, "device": self.device}
        for step in self._steps(session, "run_register", lambda: (session.images, options, session.shown)):
            if isinstance(step, Step) and step.done:
                session.note, session.reported = registration_text(step.value), True
            yield self._update(session, step)

    def click(self, role: str, position: int, init: str, event: gr.EventData, request: gr.Request) -> Iterator[Update]:
        """Finds the region under a click in both images: in one slice of each, then through the others."""
        session = self._session(request)
        if role not in session.shown:
            return
        images, shown = session.images, session.shown
        point = shown[role].place(int(position), event.x, event.y)
        for whole in (False, True):
            options = {"init": init, "device": self.device, "propagate": whole}
            given = images, options, shown, role, point
            for step in self._steps(session, "run_correspond", lambda given=given: given):
                if session.images is not images:  # the user has loaded others
                    return
                if isinstance(step, Step) and step.done:
                    session.note = correspondence_text(step.value)
                if isinstance(step, Step) and step.done != whole:
                    step = replace(step, text="Found; following it through the slices")
                yield self._update(session, step, {role: int(position)})
                if isinstance(step, InputError):
                    return

    def turn(self, role: str, position: int, request: gr.Request) -> str:
        """Shows another slice of an image."""
        session = self._session(request)
        return _view(session, role, int(position)) if role in session.shown else ""

    def leave(self, request: gr.Request) -> None:
        """Removes the session of a user who has closed the page."""
        self.sessions.remove(request.session_hash, self.worker.stop)

    def _session(self, request: gr.Request) -> Session:
        try:
            return self.sessions.get(request.session_hash)
        except InputError as error:
            raise gr.Error(str(error), print_exception=False) from error

    def _loaded(self, session: Session, job: str, *arguments: Any) -> Iterator[Update]:
        for step in self._steps(session, job, lambda: arguments):
            if isinstance(step, Step) and step.done:
                session.update(*step.value)
            yield self._update(session, step)

    def _steps(self, session: Session, job: str, given: Callable[[], Sequence[Any]]) -> Iterator[Step | InputError]:
        """What a job reports; an error is its last report. A user who has left gets nothing more."""
        try:
            for step in self.worker.run(job, session.folder, given):
                if session.folder.exists():
                    yield step
        except InputError as error:
            if session.folder.exists():
                yield error

    def _update(self, session: Session, step: Step | InputError, stay: Mapping[str, int] | None = None) -> Update:
        """New values of the outputs: the state while a job runs, everything once it is done.

        Images show their middle slice, or the one in ``stay``.
        """
        if isinstance(step, InputError):
            return [f"<p class='error'>{escape(str(step))}</p>", *[gr.skip()] * 6]
        if not step.done:
            part = "" if step.part is None else f" value='{step.part:.3f}'"
            return [f"<p>{escape(step.text)}</p><progress{part}></progress>", *[gr.skip()] * 6]
        pictures, sliders = [], []
        for role in ROLES:
            image = session.shown.get(role)
            position = None if image is None else (stay or {}).get(role, image.middle)
            pictures.append("" if image is None else _view(session, role, position))
            sliders.append(gr.skip() if image is None else _slider(image, position))
        note = session.note + download_link(session) if session.note else ""
        return [f"<p>{step.text}</p>", *pictures, *sliders, note, report_frame(session) if session.reported else ""]


def _path_of(upload: Any) -> str | None:
    """The path of an upload; Gradio's own preprocessing leaves an empty file behind each time."""
    return None if upload is None else upload.path


def _slider(image: Shown, position: int) -> gr.Slider:
    last = image.plan.count - 1
    return gr.Slider(maximum=last, value=position, visible=last > 0)


def _view(session: Session, role: str, position: int) -> str:
    image = session.shown[role]
    position = min(max(position, 0), image.plan.count - 1)
    return f"<img src='{data_uri(image.picture(position))}' alt='{role} image' title='{escape(image.name)}'>"
