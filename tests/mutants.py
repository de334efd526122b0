"""Do the tests notice? ``python -m tests.mutants [NAME ...]`` breaks one line at a time and runs the tests.

Each mutant is applied alone in a temporary copy of the repository. A line is printed for each: the test that noticed,
or ``SURVIVED``; the exit code is 1 if any survived. To add one: a line in ``MUTANTS``.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
ORACLE, MODEL, ATTENTION = (f"tests/network/test_{name}.py" for name in ("oracle", "model", "attention"))
PROTOTYPE, CONTOUR, OVERALL = (f"tests/losses/test_{name}.py" for name in ("prototype", "contour", "overall"))
CORRELATION, LISTS = "tests/network/test_correlation.py", "tests/training/network/test_lists.py"
PASSES, MASKS = "tests/network/test_passes.py", "tests/training/test_masks.py"


class Mutant(NamedTuple):
    """One mistake.

    Attributes:
        name: in words.
        path: of the file in ``scripts/``.
        old: text that occurs once in it.
        new: replaces it.
        tests: files that should notice.
    """

    name: str
    path: str
    old: str
    new: str
    tests: tuple[str, ...]


NET, PAIRS, LEVEL, ATT = "network/model.py", "training/network/pairs.py", "network/decoder.py", "network/attention.py"
PROTO, CONT, REG = "losses/prototype.py", "losses/contour.py", "losses/registration.py"
MUTANTS = (
    Mutant("query and key swapped", LEVEL, "self.image(last[0], last[1])", "self.image(last[1], last[0])", (ORACLE,)),
    Mutant("query and key swapped in the layer", ATT, "self.query(to_windows(F.pad(query, padding), window))",
           "self.query(to_windows(F.pad(context, padding), window))", (ATTENTION,)),
    Mutant("mask attention ignored", LEVEL, "self.mask(last[2], last[3])", "last[2]", (ORACLE,)),
    Mutant("masks not warped between levels", NET, "moving, moving_mask = both.chunk(2, dim=1)",
           "moving = both[:, : moving.shape[1]]", (ORACLE,)),
    Mutant("images not warped between levels", NET, "moving, moving_mask = both.chunk(2, dim=1)",
           "moving_mask = both[:, moving.shape[1] :]", (ORACLE,)),
    Mutant("masks zeroed at inference", "network/registration.py", "network.predict(image[None])",
           "network.predict(torch.cat([image[:2], 0 * image[2:]])[None])", (ORACLE,)),
    Mutant("masks not moved between passes", "network/registration.py", "fixed, moved_mask, fixed_mask",
           "fixed, moving_mask, fixed_mask", (PASSES,)),
    Mutant("passes composed in the wrong order", "network/registration.py",
           "compose(before, network(moved_pair(image[None], before)))",
           "compose(network(moved_pair(image[None], before)), before)", (PASSES,)),
    Mutant("masks exchanged in the prototypes", PROTO, "return moving, fixed, *masks",
           "return moving, fixed, *masks[::-1]",
           (PROTOTYPE,)),
    Mutant("losses on spoiled masks", PAIRS, "image[b], targets[b],", "image[b], masks[b],", (MODEL,)),
    Mutant("prototypes on spoiled masks", PAIRS, "self.network.pad(targets)", "self.network.pad(masks)", (MODEL,)),
    Mutant("feature level 0", PROTO, "pair.features[self.level]", "pair.features[0]", (PROTOTYPE,)),
    Mutant("default feature level 0", PROTO, "level: int = 1", "level: int = 0", (PROTOTYPE,)),
    Mutant("fixed features used twice in the loss", PAIRS, "(moving[b], fixed[b])", "(fixed[b], fixed[b])", (MODEL,)),
    Mutant("fixed features used twice in the network", NET, "moving, fixed = pairs[-1 - step].chunk(2)",
           "moving = fixed = pairs[-1 - step].chunk(2)[1]", (ORACLE,)),
    Mutant("equation 3: not divided by the mask", PROTO, "/ weight.clamp_min(1e-6)[:, None]", "", (PROTOTYPE,)),
    Mutant("equation 4: without a softmax over structures", PROTO, ".log_softmax(dim=0)",
           ".sigmoid().log()", (PROTOTYPE,)),
    Mutant("equation 4: sign", PROTO, "return -(log_probability", "return (log_probability", (PROTOTYPE,)),
    Mutant("equation 4: similarity without a norm", PROTO, "F.normalize(features.flatten(1), dim=0)",
           "features.flatten(1)", (PROTOTYPE,)),
    Mutant("equation 5: mean instead of sum", PROTO, "a[both], b[both], dim=1)).sum()",
           "a[both], b[both], dim=1)).mean()",
           (PROTOTYPE,)),
    Mutant("equation 7: one direction", CONT, "+ ((b - a[to_a]) ** 2).sum(dim=1).mean()", "", (CONTOUR,)),
    Mutant("equation 7: distance not squared", CONT, "((a - b[to_b]) ** 2).sum(dim=1).mean()",
           "((a - b[to_b]) ** 2).sum(dim=1).sqrt().mean()", (CONTOUR,)),
    Mutant("equation 7: voxels instead of mm", CONT, "else still) * spacing, target * spacing", "else still), target",
           (CONTOUR,)),
    Mutant("equation 7: the contour is not moved", CONT, "(found if len(found) else still)", "still", (CONTOUR,)),
    Mutant("equation 7: end caps count", CONT, "if mm < THICK * min(spacing)", "if mm", (CONTOUR,)),
    Mutant("equation 8: covariance not squared", "losses/similarity.py", "covariance**2 /", "covariance /", (OVERALL,)),
    Mutant("equation 8: moving image not warped", "losses/similarity.py", "lncc(warp(pair.images[None, :1], ddf),",
           "lncc(pair.images[None, :1],", (OVERALL,)),
    Mutant("equation 9: without spacing", "losses/smoothness.py", "return diffusion(ddf, pair.spacing)",
           "return diffusion(ddf)", (OVERALL,)),
    Mutant("equation 9: not squared", "losses/smoothness.py", "(slope**2)", "slope.abs()", (OVERALL,)),
    Mutant("equation 10: without the factor 2", "losses/overlap.py", "return 1 - (2 * (a * b)", "return 1 - ((a * b)",
           (OVERALL,)),
    Mutant("equation 10: masks not warped", "losses/overlap.py", "moved = sample(moving[None], place[box])[0]",
           "moved = moving[box]", (OVERALL,)),
    Mutant("equation 11: weights ignored", REG, "self.active[name].weight * value", "value", (OVERALL,)),
    Mutant("exponential left out", NET, "field = integrate(field)", "field = field * 1", (ORACLE,)),
    Mutant("exponential: a squaring missing", "spatial/warp.py", "for _ in range(steps):", "for _ in range(steps - 1):",
           (ORACLE,)),
    Mutant("upsampled field not doubled", "spatial/warp.py", "[n / o for n, o in", "[1.0 for n, o in",
           (ORACLE,)),
    Mutant("residual not added", NET, "field + residual.float() if step > 0 else",
           "", (ORACLE,)),
    Mutant("mask order at the input", NET, "torch.cat([image[:, 2:3], image[:, 3:4]])",
           "torch.cat([image[:, 3:4], image[:, 2:3]])", (ORACLE,)),
    Mutant("mask order in the batch", "data/batches.py",
           'image = torch.cat([*grey, plain(batch["masks"])[None]], dim=1)',
           'image = torch.cat([*grey, plain(batch["masks"]).flip(0)[None]], dim=1)', (ORACLE,)),
    Mutant("structures off by one", NET, "torch.arange(1, self.structures + 1, device=image.device)",
           "torch.arange(0, self.structures, device=image.device)", (ORACLE,)),
    Mutant("fusion of one direction", ATT, "(self.image_asks(image, mask) + self.mask_asks(mask, image)) / 2",
           "self.image_asks(image, mask)", (ORACLE,)),
    Mutant("windows never shifted", ATT, "for shifted in (False, True)", "for shifted in (False, False)", (ATTENTION,)),
    Mutant("correlation of moving features with themselves", LEVEL, "self.correlation(moving, fixed)",
           "self.correlation(moving, moving)", (CORRELATION,)),
    Mutant("correlation: mirrored displacements", "network/correlation.py", "rest % side,", "side - 1 - rest % side,",
           (CORRELATION,)),
    Mutant("segmentation head on moving features", PAIRS, "self.head(out.fixed[0])", "self.head(out.moving[0])",
           ("tests/training/network/test_pairs.py",)),
    Mutant("segmentation of the moving image", "losses/segmentation.py", "pair.feature_labels[1]",
           "pair.feature_labels[0]", ("tests/losses/test_segmentation.py",)),
    Mutant("inverse consistency of one order", "losses/consistency.py", "compose(pair.inverse, ddf)",
           "compose(ddf, pair.inverse)", ("tests/losses/test_consistency.py",)),
    Mutant("losses on the masks of a source", "data/structures.py", "if labelled else masks.clone()",
           "if not labelled else masks.clone()", (LISTS,)),
    Mutant("training without the attention's bias", ATT, "k.transpose(-1, -2) + bias)", "k.transpose(-1, -2))",
           (ATTENTION,)),
    Mutant("inference without the attention's bias", ATT, "attn_mask=bias", "attn_mask=None", (ATTENTION,)),
    Mutant("padded voxels get attention", ATT, "* (-1e4 / scale)", "* 0", (ATTENTION,)),
    Mutant("features warped by the velocity in spite of one field", NET,
           "integrate(field) if self.one_field and self.diffeomorphic else field", "field", (ORACLE,)),
    Mutant("deep supervision of the finest level alone", "training/masks.py", "list(predictions.unbind(1)) if deep",
           "predictions[:, 0] if deep", (MASKS,)),
    Mutant("attention without its scale", ATT, "scale = float(q.shape[-1]) ** -0.5", "scale = 1.0", (ATTENTION,)),
)  # fmt: skip


def copy_of(folder: Path) -> Path:
    """A copy of what the tests need; weights are linked."""
    for name in ("scripts", "tests", "configs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.glob("*.toml"):
        shutil.copy(path, folder)
    return folder


def noticed_by(mutant: Mutant, folder: Path) -> str | None:
    """Name of the first test that fails with the mutant in a copy of the repository, None if all pass.

    Raises:
        ValueError: the text to replace does not occur exactly once.
    """
    path = folder / "scripts" / mutant.path
    text = path.read_text(encoding="utf-8")
    if text.count(mutant.old) != 1:
        raise ValueError(f"{mutant.old!r} occurs {text.count(mutant.old)} times in scripts/{mutant.path}.")
    path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-n",
        "0",
        "-x",
        "-q",
        "--tb=no",
        "-rfE",
        "-p",
        "no:cacheprovider",
        *mutant.tests,
    ]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, encoding="utf-8", check=False,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    path.write_text(text, encoding="utf-8")
    if done.returncode == 0:
        return None
    if done.returncode != 1:
        raise ValueError(f"pytest ended with {done.returncode}: {done.stdout[-800:]}{done.stderr[-800:]}")
    return re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE).group(1)


def main() -> int:
    """Runs the mutants whose names contain one of the words; all without words."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="parts of names; all mutants if none is given")
    words = parser.parse_args().names
    chosen = [m for m in MUTANTS if not words or any(w in m.name for w in words)]
    survived = 0
    with tempfile.TemporaryDirectory(prefix="mutants-") as name:
        folder = copy_of(Path(name))
        for mutant in chosen:
            test = noticed_by(mutant, folder)
            survived += test is None
            sys.stdout.write(f"{mutant.name:<48} {test or 'SURVIVED'}\n")
            sys.stdout.flush()
    sys.stdout.write(f"{len(chosen) - survived} of {len(chosen)} mutants noticed\n")
    return int(survived > 0)


if __name__ == "__main__":
    sys.exit(main())
