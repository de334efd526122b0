"""What is attacked: a sound call of every command, and one of its inputs, options, names or outputs made bad."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts.verbs.command_line import Command
from scripts.workflow.options import KINDS

from .damage import damaged
from .inputs import AFFINES, FIELDS, IMAGES, NETWORK, POINTS, QUICK

RESULTS = ("out.nii.gz", "out.h5", "out.nrrd", "out.tfm", "out.mat", "out.npz", "out.mha", "out.txt")
# Options of a run that other tests cover, or whose bad value would only mean a long computation.
UNTOUCHED = {
    "scheduler",
    "progress",
    "help",
    "seed",
    "everything",
    "network_def",
    "output_dir",
    "output",
    "bundle_root",
}
VALUES: tuple[Any, ...] = (
    *("abc", "", "-1", "0", "1", "0.5", "nan", "inf", "-inf", "1e308", "1e-300", "None", "True", "[]", "{}", "[1,2]"),
    *("[[]]", "[nan]", "{'a': 1}", "$1/0", "$(", "@nothing", "%x", "/dev/zero", "/proc/self/mem", "..", "~", "ü" * 40),
    *("x" * 5000, "a\nb", "1,2", "cuda:7", "(", "\\"),
)
NAMES = (
    *("a b", "a$b", "a@b", "$(id)", "a%d", "a#b", "ä", "a'b", 'a"b', "a,b", "a;b", "a{b}", "a\nb", "-x", "~", "a*b"),
    *("[a]", "x" * 180, "None", "1"),
)
LISTED = (
    *(f"{role}{end}" for role in ("moving", "fixed") for end in (".nii.gz", "_label.nii.gz", "_landmarks.csv")),
    "field.nii.gz",
)
# Names of results that an input may already have, by the option that names the input.
OWN = {
    "moving": "moved.nii.gz", "fixed": "ddf.nii.gz", "mask": "moving_rois.nii.gz", "cases": "cases.csv",
    "names": "metrics.json", "input": "o.nii.gz", "moving_label": "moved_label.nii.gz", "init": "ddf.nii.gz",
}  # fmt: skip


@dataclass
class Attack:
    """One call of a command.

    Attributes:
        what: what was done, for messages.
        command: the verb.
        options: by name.
        inputs: folder of this call's own inputs, which must stay as they are.
        out: folder in which everything is written.
        kept: files elsewhere that must stay as they are.
    """

    what: str
    command: str
    options: dict[str, Any]
    inputs: Path
    out: Path
    kept: list[Path] = field(default_factory=list)

    def words(self) -> list[str]:
        """The command line."""
        return [self.command, *(f"--{name}={value}" for name, value in self.options.items())]


@dataclass(frozen=True)
class Target:
    """A sound call, and which of its options is damaged.

    Attributes:
        command: the verb.
        slot: the option whose file is damaged.
        sources: sound files for it, names in the folder of inputs.
        options: all options; ``{good}`` is the folder of sound inputs, ``{out}`` that of the results.
        before: a folder of results that an earlier run left in ``{out}``; ``slot`` "before" damages a file in it.
    """

    command: str
    slot: str
    sources: tuple[str, ...]
    options: dict[str, Any]
    before: str | None = None


def targets() -> list[Target]:
    """Every command with every kind of file that it reads."""
    pair = {"moving": "{good}/moving.nii.gz", "fixed": "{good}/fixed.nii.gz"}
    labels = {f"{role}_label": f"{{good}}/{role}_label.nii.gz" for role in pair}
    marks = {f"{role}_landmarks": f"{{good}}/{role}_landmarks.csv" for role in pair}
    to, quiet, field = {"output_dir": "{out}/o"}, {"progress": False}, {"transforms": "{good}/field.nii.gz"}
    samreg = {**pair, **to, **QUICK}
    network = {**pair, **to, **NETWORK, "method": "network", "checkpoint": "{good}/network.pt"}
    click = {**samreg, "points": [[0, 0, 0]], "labels": [1]}
    files = {"images": pair["moving"], "names": "a,b", "source": "files:" + labels["moving_label"], **to, **quiet}
    files |= {"values": {"a": 1, "b": 2}}
    net = {"images": pair["moving"], "names": "myocardium", "source": "cardiac", **to, **quiet, "device": "cpu"}
    label, chain = ("moving_label.nii.gz",), (*FIELDS, *AFFINES)
    masks = {f"{role}_mask": labels[f"{role}_label"] for role in pair}
    return [
        Target("register", "moving", (*IMAGES, "frames.nii.gz"), samreg | labels | marks),
        Target("register", "fixed", IMAGES, samreg | labels),
        Target("register", "moving", ("moving.png", "moving.tif"), samreg | {"fixed": "{good}/fixed.png"}),
        Target("register", "moving_label", label, samreg | labels),
        Target("register", "fixed_landmarks", POINTS, samreg | marks),
        Target("register", "init", AFFINES, samreg),
        Target("register", "checkpoint", ("sam.pt",), samreg),
        Target("register", "before", (), samreg, "result"),
        Target("register", "moving", IMAGES, network | labels),
        Target("register", "moving_mask", label, network | masks),
        Target("register", "checkpoint", ("network.pt",), network),
        Target("register", "pairs", ("pairs.json", "pairs.csv", "pairs.tsv"), to | QUICK),
        Target("register", "before", (), {"pairs": "{good}/pairs.json"} | to | QUICK, "cohort"),
        Target("correspond", "fixed", IMAGES, click),
        Target("correspond", "mask", label, {**samreg, "mask": ""}),
        Target("masks", "images", (*IMAGES, "images.json", "images.txt", "moving.png"), files),
        Target("masks", "source", label, files),
        Target("masks", "checkpoint", ("cardiac.pt",), net),
        Target("masks", "before", (), files, "masked"),
        Target("warp", "input", (*IMAGES, "moving.png", "frames.nii.gz"), {"output": "{out}/o.nii.gz"} | field | quiet),
        Target("warp", "input", label, {"output": "{out}/o.nrrd", "label": True} | field | quiet),
        Target("warp", "input", POINTS, {"output": "{out}/o.csv"} | field | quiet),
        Target("warp", "input", ("result/moving_rois.seg.nrrd",), {"output": "{out}/o.seg.nrrd"} | field | quiet),
        Target("warp", "reference", IMAGES, {"input": pair["moving"], "output": "{out}/o.nii.gz"} | field | quiet),
        Target("warp", "transforms", (*chain, "result"),
               {"input": pair["moving"], "output": "{out}/o.mha", "reference": pair["fixed"]} | quiet),
        Target("invert", "transforms", (*chain, "result"), {"output": "{out}/RESULT", **pair} | quiet),
        Target("invert", "moving", IMAGES, {"output": "{out}/RESULT"} | field | quiet),
        Target("compose", "transforms", (*chain, "result"), {"output": "{out}/RESULT", "reference": pair["fixed"]}),
        Target("compose", "reference", IMAGES, {"output": "{out}/RESULT"} | field),
        Target("evaluate", "transforms", (*chain, "result"), to | labels | quiet),
        Target("evaluate", "moving_label", label, to | field | labels | quiet),
        Target("evaluate", "moving_landmarks", POINTS, to | field | marks | quiet),
        Target("evaluate", "cases", ("cases.csv", "cases.json"), to | quiet),
        Target("evaluate", "names", ("names.json",), to | field | labels | quiet),
        Target("summarise", "before", (), to, "cohort"),
    ]  # fmt: skip


def attack(target: Target, good: Path, folder: Path, chance: random.Random) -> Attack:
    """Prepares a call: a damaged file in most cases, otherwise a bad value, file name, or output.

    Args:
        target: what to call.
        good: folder of sound inputs.
        folder: empty; gets the damaged files and the results.
        chance: decides.
    """
    inputs, out = folder / "in", folder / "out"
    inputs.mkdir()
    out.mkdir()
    options = {name: _filled(value, good, out, chance) for name, value in target.options.items()}
    call = Attack("", target.command, _without_reference(target, options), inputs, out)
    if target.before:
        shutil.copytree(good / target.before, out / "o")
    ways: list[Callable] = [_bad_file] * 13 + [_bad_value] * 4 + [_bad_name] * 2 + [_bad_output]
    way = chance.choice(ways)
    call.what = way(call, target, good, chance)
    return call


def _filled(value: Any, good: Path, out: Path, chance: random.Random) -> Any:
    if not isinstance(value, str):
        return value
    value = value.replace("{good}", str(good)).replace("{out}", str(out))
    return value.replace("RESULT", chance.choice(RESULTS))


def _without_reference(target: Target, options: dict[str, Any]) -> dict[str, Any]:
    """``invert`` calls the fixed image reference, as the other commands do."""
    if target.command == "invert" and "fixed" in options:
        options["reference"] = options.pop("fixed")
    return options


def _bad_file(call: Attack, target: Target, good: Path, chance: random.Random) -> str:
    if target.slot == "before":
        files = [p for p in sorted((call.out / "o").rglob("*")) if p.is_file()]
        victim = chance.choice(files)
        content = call.inputs.parent / "sound"
        content.mkdir()
        shutil.copy2(victim, content / victim.name)
        return f"left over {damaged(content / victim.name, victim, chance)}"
    source = good / chance.choice(target.sources)
    done = damaged(source, call.inputs / source.name, chance)
    _use(call, target, good, call.inputs / source.name)
    return done


def _use(call: Attack, target: Target, good: Path, path: Path) -> None:
    """Puts a file into the slot; the files that a list names are copied beside the list."""
    if target.slot in ("pairs", "cases", "images") and path.suffix in (".json", ".csv", ".tsv", ".txt"):
        for name in LISTED:
            shutil.copy2(good / name, call.inputs)
    call.options[target.slot] = f"files:{path}" if target.slot == "source" else str(path)


def _bad_value(call: Attack, target: Target, good: Path, chance: random.Random) -> str:
    _sound(call, target, good, chance)
    command = Command(call.command, "x")
    known = {*command.arguments, *(KINDS.keys() & command.config.keys())} - UNTOUCHED
    name, value = chance.choice(sorted(known)), chance.choice(VALUES)
    call.options[name] = value
    return f"--{name}={value[:40]!r}"


def _bad_name(call: Attack, target: Target, good: Path, chance: random.Random) -> str:
    name = chance.choice(NAMES)
    if target.slot == "before" or chance.random() < 0.3:
        _sound(call, target, good, chance)
        key = "output" if "output" in call.options else "output_dir"
        path = Path(call.options[key])
        call.options[key] = str(path.with_name(name + "".join(path.suffixes)))
        return f"{key} called {name[:30]!r}"
    source = good / chance.choice(target.sources)
    place = call.inputs / (name + "".join(Path(source.name).suffixes))
    (shutil.copytree if source.is_dir() else shutil.copy2)(source, place)
    _use(call, target, good, place)
    return f"{source.name} called {name[:30]!r}"


def _bad_output(call: Attack, target: Target, good: Path, chance: random.Random) -> str:
    _sound(call, target, good, chance)
    key = "output" if "output" in call.options else "output_dir"
    kind = chance.choice(("input", "below a file", "nowhere", "empty", "ring", "pipe", "in place"))
    if kind == "input":
        files = [v for v in call.options.values() if isinstance(v, str) and len(v) < 200 and Path(v).is_file()]
        call.options[key] = chance.choice(files or [str(good / "moving.nii.gz")])
    elif kind == "below a file":
        (call.out / "file").write_text("mine", encoding="utf-8")
        call.options[key] = str(call.out / "file" / "below.nii.gz")
    elif kind == "nowhere":
        call.options[key] = "/proc/nothing/o.nii.gz"
    elif kind == "empty":
        call.options[key] = chance.choice(("", " ", "."))
    elif kind == "ring":
        (call.out / "ring.nii.gz").symlink_to(call.out / "ring.nii.gz")
        call.options[key] = str(call.out / "ring.nii.gz")
    elif kind == "pipe":
        os.mkfifo(call.out / "pipe.nii.gz")
        call.options[key] = str(call.out / "pipe.nii.gz")
    elif target.slot in OWN and target.sources:
        # An input that already has the name of a result.
        place = Path(call.options[key]) if key == "output" else Path(call.options[key]) / OWN[target.slot]
        place.parent.mkdir(exist_ok=True)
        place.write_bytes((good / target.sources[0]).read_bytes())
        _use(call, target, good, place)
        call.kept.append(place)
    return f"output: {kind}"


def _sound(call: Attack, target: Target, good: Path, chance: random.Random) -> None:
    """Fills the slot with a sound file."""
    if target.slot != "before":
        name = target.sources[0]
        call.options[target.slot] = ("files:" if target.slot == "source" else "") + str(good / name)
