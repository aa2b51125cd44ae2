"""docs/settings.md names every setting, and nothing that is none."""

import re
from pathlib import Path

from app.config import Settings

DOCUMENT = Path(__file__).parents[2] / "docs" / "settings.md"
OF_THE_CLIENT = {"FORETUNE_URL", "FORETUNE_KEY"}


def test_every_setting_has_a_row() -> None:
    rows = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("| `FORETUNE_")]
    named = set(re.findall(r"FORETUNE_[A-Z0-9_]+", "\n".join(row.split("|")[1] for row in rows)))
    assert named == {f"FORETUNE_{name.upper()}" for name in Settings.model_fields} | OF_THE_CLIENT
