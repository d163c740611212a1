"""Draw the word lists in data/words/: `pip install "wordfreq[cjk]==3.1.1"`, then `python scripts/make_words.py`.

Same seed, same files. wordfreq's code is Apache-2.0 and its data CC BY-SA 4.0; so are these lists.
"""

from __future__ import annotations

import csv
import random
import re
from pathlib import Path

from wordfreq import top_n_list, zipf_frequency  # pyright: ignore[reportMissingImports]

WORDS = Path(__file__).parents[1] / "data" / "words"
BANDS = ((6.0, 9.0), (5.0, 6.0), (4.0, 5.0), (3.0, 4.0), (2.0, 3.0))  # Zipf: log10 of the occurrences in 10**9 words
EACH = 160
LANGUAGES = {
    "German": ("de", "[a-zäöüß]{3,12}"),
    "Spanish": ("es", "[a-záéíóúñü]{3,12}"),
    "Russian": ("ru", "[а-яё]{3,12}"),
    "Greek": ("el", "[α-ωάέήίόύώϊϋΐΰς]{3,12}"),
    "Arabic": ("ar", "[ء-ي]{3,12}"),
    "Hindi": ("hi", "[\u0900-\u097f]{3,12}"),
    "Chinese": ("zh", "[\u4e00-\u9fff]{2,6}"),
}
FREQUENT, SHOWN = 2000, 100
LISTED = 100_000  # entries of wordfreq's list that `frequencies` looks through


def english() -> list[tuple[str, float]]:
    """Words of the letters a to z, from three to twelve of them, drawn at random in each band of frequency."""
    rng = random.Random(0)
    found = {
        word: zipf_frequency(word, "en") for word in top_n_list("en", 200_000) if re.fullmatch("[a-z]{3,12}", word)
    }
    out: list[tuple[str, float]] = []
    for low, high in BANDS:
        band = sorted(word for word, zipf in found.items() if low <= zipf < high)
        out += [(word, found[word]) for word in sorted(rng.sample(band, min(EACH, len(band))))]
    return out


def others() -> list[tuple[str, str]]:
    """Of each language a hundred of its two thousand most frequent words."""
    rng = random.Random(0)
    out: list[tuple[str, str]] = []
    for name, (code, letters) in LANGUAGES.items():
        words = sorted(word for word in top_n_list(code, FREQUENT) if re.fullmatch(letters, word))
        out += [(name, word) for word in sorted(rng.sample(words, SHOWN))]
    return out


def frequencies() -> list[tuple[float, str]]:
    """All words of the letters a to z among the most frequent entries, those of one frequency in one row."""
    rows: dict[float, list[str]] = {}
    for word in top_n_list("en", LISTED):
        if re.fullmatch("[a-z]+", word):
            rows.setdefault(zipf_frequency(word, "en"), []).append(word)
    return [(zipf, " ".join(sorted(words))) for zipf, words in sorted(rows.items(), reverse=True)]


def main() -> None:
    WORDS.mkdir(exist_ok=True)
    for name, header, rows in (
        ("english.csv", ("word", "zipf"), english()),
        ("languages.csv", ("language", "word"), others()),
        ("frequencies.csv", ("zipf", "words"), frequencies()),
    ):
        with (WORDS / name).open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([header, *rows])


if __name__ == "__main__":
    main()
