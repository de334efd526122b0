"""The work on a list grows with its length, never with the square of it: steps are counted, so no clock decides."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import pytest

from scripts.data.images import image_items
from scripts.data.pair_rows import pair_rows
from scripts.verbs.evaluate import evaluate
from scripts.verbs.register import register
from scripts.verbs.summarise import summarise
from scripts.workflow.cohort import case
from scripts.workflow.cohort.pairs import Entry
from scripts.workflow.cohort.run import Cohort
from scripts.workflow.cohort.scheduler import run_on_scheduler
from scripts.workflow.masks import checked_items

SCRIPTS = str(Path(sys.modules["scripts"].__file__).parent)
SHORT, LONG = 100, 1600
MOST = 1.1  # times as many steps a row in the long list as in the short one; with a square it is 2 to 16


class Text(str):
    """A text that counts its comparisons, also those that a list or a tuple makes while it looks for it."""

    __slots__ = ()
    compared = 0

    def __eq__(self, other: object) -> bool:
        Text.compared += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__

    def casefold(self) -> Text:
        return Text(super().casefold())


def steps(work: Callable[[], Any]) -> int:
    """Lines of this package that a call executes, with iterations of comprehensions, and comparisons of texts."""
    lines = 0

    def count(frame: FrameType, event: str, argument: object) -> Callable | None:
        nonlocal lines
        if not frame.f_code.co_filename.startswith(SCRIPTS):
            return None
        lines += 1
        return count

    before, Text.compared = sys.gettrace(), 0
    sys.settrace(count)
    try:
        work()
    finally:
        sys.settrace(before)
    return lines + Text.compared


def check_linear(work: Callable[[int], Callable[[], Any]]) -> None:
    """``work`` prepares a list of some length and returns the call to count."""
    short, long = (steps(work(rows)) for rows in (SHORT, LONG))
    assert short > SHORT and long < MOST * LONG / SHORT * short, (short, long)


def counted_rows(*arguments: Any, **options: Any) -> list[dict[str, Any]]:
    return [{k: Text(v) for k, v in row.items()} for row in pair_rows(*arguments, **options)]


@pytest.fixture
def make_cohort(tmp_path, monkeypatch) -> Callable[..., Cohort]:
    """Makes a cohort whose pairs are registered by writing their records."""

    def make(rows: int, **options: Any) -> Cohort:
        entries = [Entry(Text(f"p{k}"), {"moving": Text(k), "fixed": Text(k // 2)}) for k in range(rows)]
        evaluator = SimpleNamespace(inferer=None, network=None, add_event_handler=lambda *_: None)
        cohort = Cohort(entries, tmp_path / str(rows), evaluator, None, None, {}, **options)

        def one(entry: Entry, key: str, worker: str) -> dict[str, Any]:
            record = {"name": entry.name, "status": case.REGISTERED, "metrics": {"dice": {"final": {"mean": 0.5}}}}
            (cohort.output_dir / entry.name).mkdir()
            (cohort.output_dir / entry.name / case.RECORD).write_text(json.dumps(record), encoding="utf-8")
            return record

        monkeypatch.setattr(cohort.runner, "one", one)
        return cohort

    return make


@pytest.mark.parametrize("shard", [None, "1/3"])
def test_pairs_are_planned_shared_and_summarised(make_cohort, shard):
    check_linear(lambda rows: make_cohort(rows, shard=shard).run)
    summary = make_cohort(LONG + 1).run()
    assert summary[case.REGISTERED] == LONG + 1


def test_pairs_are_given_to_a_scheduler(make_cohort, monkeypatch):
    """A stand-in for Dask runs each task at once."""

    class Client:
        loop = None

        def __init__(self, *_: object, **__: object) -> None: ...

        def __enter__(self) -> Client:
            return self

        def __exit__(self, *_: object) -> None: ...

        def submit(self, function: Callable, configs: list, options: dict, entry: Entry, key: str, pure: bool) -> Any:
            record = options["cohort"].runner.one(entry, key, "worker")
            return _Task(record)

    stand_in = SimpleNamespace(Client=Client, as_completed=lambda tasks, loop: iter(list(tasks)))
    monkeypatch.setitem(sys.modules, "distributed", stand_in)
    monkeypatch.setattr("scripts.workflow.cohort.scheduler.make_cohort", lambda configs, options: options["cohort"])

    def work(rows: int) -> Callable[[], Any]:
        cohort = make_cohort(rows)
        return lambda: run_on_scheduler([], {"scheduler": "tcp://x", "cohort": cohort})

    check_linear(work)


class _Task:
    def __init__(self, record: dict[str, Any]) -> None:
        self.record = record

    def exception(self) -> None:
        return None

    def result(self) -> dict[str, Any]:
        return self.record


@pytest.mark.parametrize("named", [True, False])
def test_a_list_is_read_and_its_plan_shown(tmp_path, monkeypatch, named):
    monkeypatch.setattr("scripts.workflow.cohort.pairs.pair_rows", counted_rows)
    monkeypatch.setattr("scripts.workflow.plan.READ", 1)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.nii").touch()

    def work(rows: int) -> Callable[[], Any]:
        path = tmp_path / f"{rows}.json"
        listed = [{"moving": f"{k}/t1.nii", "fixed": "out/a.nii"} for k in range(rows)]
        listed = [{**row, "name": f"s/{k}"} for k, row in enumerate(listed)] if named else listed
        path.write_text(json.dumps(listed), encoding="utf-8")
        return lambda: register(pairs=path, output_dir=tmp_path / "out", method="samreg", dry_run=True)

    check_linear(work)


def test_cases_are_listed_and_tabulated(tmp_path, monkeypatch):
    """The measuring of a case and the writing of its field are left out; a submission needs a name for each."""
    metrics = {"dice": {"initial": {"mean": 0.4}, "final": {"mean": 0.5}}}
    monkeypatch.setattr("scripts.verbs.cases.pair_rows", counted_rows)
    monkeypatch.setattr("scripts.verbs.evaluate.measure_case", lambda *_, **__: (metrics, [], None))
    monkeypatch.setattr("scripts.verbs.evaluate.whole_file", lambda path, inputs: nullcontext(path))
    monkeypatch.setattr("scripts.verbs.evaluate.write_learn2reg", lambda *_: None)
    monkeypatch.setattr("scripts.verbs.evaluate.read_volume", lambda *_, **__: SimpleNamespace(geometry=None))
    (tmp_path / "field.nii.gz").touch()
    images = [f"img_{k:04}.nii.gz" for k in range(41)]
    for name in images:
        (tmp_path / name).touch()

    def work(rows: int) -> Callable[[], Any]:
        path = tmp_path / f"{rows}.json"
        pairs = [(images[k // 40], images[k % 40]) for k in range(rows)]
        listed = [{"transforms": "field.nii.gz", "moving": moving, "fixed": fixed} for moving, fixed in pairs]
        path.write_text(json.dumps(listed), encoding="utf-8")
        return lambda: evaluate(path, tmp_path / str(rows), submission=str(tmp_path / "fields"), progress=False)

    check_linear(work)


def test_a_folder_is_summarised(tmp_path):
    def work(rows: int) -> Callable[[], Any]:
        folder = tmp_path / str(rows)
        for k in range(rows):
            (folder / str(k)).mkdir(parents=True)
            (folder / str(k) / case.RECORD).write_text(f'{{"name": "{k}", "status": "failed"}}', encoding="utf-8")
        return lambda: summarise(folder)

    check_linear(work)


@pytest.mark.parametrize("twice", [False, True])
def test_images_of_one_name(tmp_path, monkeypatch, twice):
    """As in a data set with a folder for each subject."""
    monkeypatch.setattr("scripts.data.images.stem_of", lambda path: Text("t1"))

    def work(rows: int) -> Callable[[], Any]:
        paths = [Text(tmp_path / str(k) / "t1.nii") for k in range(rows)]
        paths += [paths[-1]] if twice else []

        def items() -> None:
            if not twice:
                checked_items(image_items(paths), tmp_path)
                return
            with pytest.raises(ValueError, match=f"{rows - 1}/t1.nii appears twice"):
                image_items(paths)

        return items

    check_linear(work)
