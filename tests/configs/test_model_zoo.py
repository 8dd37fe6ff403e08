"""MODEL_ZOO.md and the configs' headers say the same, of every config and of files that exist."""

import re
from collections import Counter

import pytest
from config_files import FOLDERS, ROOT, ConfigFile, config_files

from igam_d2.config import load_config

ZOO = (ROOT / "MODEL_ZOO.md").read_text()
FILES = config_files()
SETS = dict(zip(("LVIS v1", "COCO-LT", "Pascal VOC"), FOLDERS, strict=True))
TARGET = re.compile(r"Target \(paper, Tables? ([\d and]+), not reproduced here\): (.+)\.")


def targets_of_header(file: ConfigFile) -> dict[str, str]:
    """Table -> target, as {"3": "AP 26.8, APr 19.0, APc 25.2, APf 31.4"}."""
    found = [TARGET.fullmatch(line) for line in file.header if line.startswith("Target")]
    return {table: match[2] for match in found for table in match[1].split(" and ")}


def rows_of_zoo() -> dict[tuple[str, str], str]:
    """(config, table) -> target; of several tables of a section the last that was named."""
    rows, folder, table, columns = {}, "", "", []
    for line in ZOO.splitlines():
        if line.startswith("## "):
            folder = SETS.get(line.removeprefix("## "), "")
        elif match := re.match(r"### .*\(Table (\d)\)", line):
            table = match[1]
        elif line.startswith("### "):
            table = ""
        elif line.startswith("| config |"):
            columns = cells(line)[1:-1]
        elif folder and table and (name := re.match(r"\| \[?`(\w+)`", line)) and name[1] != "SCALE":
            values = cells(line)[1:-1]
            pairs = zip(columns, values, strict=True)
            rows[f"{folder}/{name[1]}", table] = ", ".join(" ".join(pair) for pair in pairs)
    return rows


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_every_config_is_in_the_zoo_once():
    links = Counter(re.findall(r"\]\(configs/([\w-]+/\w+)\.yaml\)", ZOO))
    assert links == {file.name: 1 for file in FILES}
    for name, path in re.findall(r"\[`(\w+)`\]\((configs/[\w/-]+\.yaml)\)", ZOO):
        assert (ROOT / path).stem == name


def test_all_files_that_the_zoo_names_exist():
    for path in re.findall(r"\]\(([^)#]+)\)", ZOO) + re.findall(r"python ([\w/]+\.py)", ZOO):
        assert (ROOT / path).is_file(), path


def test_the_targets_are_those_of_the_headers():
    headers = {
        (file.name, table): target
        for file in FILES
        for table, target in targets_of_header(file).items()
    }
    assert rows_of_zoo() == headers and len(headers) > len(FILES) / 2


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_header(file):
    text = "\n".join(file.header)
    path = file.path.relative_to(ROOT).as_posix()
    command = re.search(r"python train_net\.py --num-gpus 8 --config-file (\S+) ", text)
    assert command[1] == path and f"OUTPUT_DIR output/{file.name}" in text
    cfg = load_config(str(file.path), [])
    schedule = "Schedule: 24 epochs, a tenth of the rate after 16 and 22, batch 16, "
    rate = f"{cfg.SOLVER.BASE_LR:.2f}".lstrip("0") if cfg.SOLVER.OPTIMIZER == "SGD" else "1e-4"
    assert f"{schedule}{cfg.SOLVER.OPTIMIZER} at {rate}" in text
    assert "\nExpected hardware: eight GPUs with " in text
    assert bool(targets_of_header(file)) != ("No target: " in text)
    for other in re.findall(r"output/([\w-]+/\w+)/model_final\.pth", text):
        assert (ROOT / "configs" / f"{other}.yaml").is_file()
    assert len(text.splitlines()) <= 10 and max(map(len, text.splitlines())) <= 120


def test_measured_is_empty_or_names_hardware_and_commit():
    """So that nobody takes a target for a measurement, and what was measured can be run again."""
    rows = [cells(line) for line in ZOO.splitlines() if re.match(r"\| (\[?`\w+`|\d)", line)]
    for *_, measured in (row for row in rows if row[-1] != "measured"):
        assert measured in ("—", "as above") or re.fullmatch(
            r"[-.\d]+(, [-.\d]+)*(; \d+ seeds)?; \d+ x .+; [0-9a-f]{7,40}", measured
        ), measured
