"""docs/your_model.md promises of families only what a test holds."""

from __future__ import annotations

import re
from pathlib import Path

from test_models_families import PACKED
from test_tuning_encoding import SOME
from tiny_models import VISION_MODELS
from tiny_vlms_more import FAMILIES

from owled_ros.driving.answers.make import AnswerSpec
from owled_ros.driving.presets import PRESETS

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "your_model.md").read_text()


def test_the_table_of_families_is_what_the_tests_hold() -> None:
    rows = {
        name: [cell.strip().startswith("yes") for cell in cells.split("|")]
        for name, cells in re.findall(r"^\| ([a-z0-9_]+) \|((?: ?[^|\n]*\|){4})$", PAGE, re.M)
        for cells in [cells.rstrip("|")]
    }
    held = {name: [True, name in SOME, name in VISION_MODELS, name in PACKED] for name in FAMILIES}
    assert rows.pop("family") == [False] * 4  # the heading
    assert rows == held


def test_every_form_of_answer_is_told() -> None:
    kinds = {spec.model_fields["kind"].default for spec in AnswerSpec.__args__[0].__args__}  # type: ignore[attr-defined]
    assert kinds <= set(re.findall(r"`([a-z_]+)`", PAGE))
    assert kinds <= set(PRESETS)
