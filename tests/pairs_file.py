"""A CSV of children and parents as a user gives it."""

from __future__ import annotations

from pathlib import Path

HEADER = "child,parent,parent_type\n"
PAIRS = HEADER + "".join(
    f"{child},{parent},{kind}\n"
    for child, parent, kind in [
        ("Tom Cruise", "Mary Lee Pfeiffer", "mother"),
        ("Drake", "Sandi Graham", "mother"),
        ("Adele", "Penny Adkins", "mother"),
        ("Eminem", "Debbie Nelson", "mother"),
        ("Rihanna", "Monica Braithwaite", "mother"),
        ("Will Smith", "Carolyn Smith", "mother"),
        ("Kanye West", "Donda West", "mother"),
        ("Taylor Swift", "Andrea Swift", "mother"),
        ("Paris Hilton", "Kathy Hilton", "mother"),
        ("Miley Cyrus", "Tish Cyrus", "mother"),
    ]
)


def write_pairs(folder: Path, text: str = PAIRS) -> Path:
    file = folder / "pairs.csv"
    file.write_text(text)
    return file
