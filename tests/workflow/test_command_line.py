"""Options of MONAI's own command: unknown ones are refused, and those in the docs exist."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import pytest

from scripts.common.errors import InputError
from scripts.workflow.options import check_command_line

SAMREG = ["--config_file", "configs/samreg.json"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--epsilom", "0.5"], r"There is no option --epsilom; did you mean --epsilon\?"),
        (["--epsilom=0.5"], "no option --epsilom"),
        (["--dataloadr#batch_size", "1"], "no option --dataloadr#batch_size; did you mean --dataloader"),
        (["--seed", "abc"], "--seed must be a whole number, got 'abc'"),
        (["--seed", "True"], "--seed must be a whole number, got True"),
        (["--dense", "no"], "--dense must be True or False, got 'no'"),
    ],
)
def test_options_that_monai_would_ignore_are_refused(bundle, monkeypatch, words, message):
    monkeypatch.chdir(bundle)
    with pytest.raises(InputError, match=message):
        check_command_line([*SAMREG, *words])


def test_valid_options_pass(bundle, monkeypatch):
    monkeypatch.chdir(bundle)
    check_command_line(
        [*SAMREG, "--moving", "a.nii.gz", "--seed", "3", "--smoothness=2", "--dense", "False", "--inverse",
         "--max_pairs", "None", "--position_sigma_mm", "-1", "--min_area", "$0.1", "--logging_file", "log.conf"]
    )  # fmt: skip
    check_command_line(["--config_file", "['configs/samreg.json','configs/cohort.json']", "--pairs", "pairs.csv"])
    check_command_line(["--args_file", "mine.json", "--anything", "1"])  # the files that it names are unknown here


def test_commands_of_the_pages_name_options_that_exist(bundle, monkeypatch):
    monkeypatch.chdir(bundle)
    count = 0
    for page in [bundle / "README.md", *(bundle / "docs").glob("*.md")]:
        text = page.read_text(encoding="utf-8")
        for block in re.findall(r"```bash\n(.*?)```", text, re.S):
            for line in block.replace("\\\n", " ").splitlines():
                start, found, words = line.partition("monai.bundle run ")
                if found and "configs/" in words and '"' not in start:
                    check_command_line(shlex.split(words))
                    count += 1
    assert count > 15


def test_monai_ends_in_one_sentence(bundle, tmp_path):
    run = subprocess.run(
        [sys.executable, "-m", "monai.bundle", "run", *SAMREG, "--epsilom", "1", "--output_dir", str(tmp_path / "o")],
        cwd=bundle, capture_output=True, encoding="utf-8", timeout=200,
    )  # fmt: skip
    assert run.returncode == 1
    assert run.stderr.strip().splitlines()[-1] == "error: There is no option --epsilom; did you mean --epsilon?"
    assert not (tmp_path / "o").exists()
