"""Corpora as they are found: rows without text, text in another column, files of other endings."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from refusals import refusal, the_line
from stores import MIDDLE

from interp import Model, UserError, open_store
from interp.activations.plan import plan_capture
from interp.cli import dispatch
from interp.text.corpus import from_texts, load_corpus, open_corpus

ROWS = ["one two", None, "three", "", " \n", "four"]
KEPT = ["one two", "three", "four"]


def jsonl(folder: Path, rows: list[Any], column: str = "text") -> Path:
    path = folder / f"{column}.jsonl"
    path.write_text("".join(json.dumps({"id": i, column: row}) + "\n" for i, row in enumerate(rows)))
    return path


def parquet(folder: Path, rows: list[Any], column: str = "text") -> Path:
    path = folder / f"{column}.parquet"
    pq.write_table(pa.table({"id": list(range(len(rows))), column: rows}), path)
    return path


def saved(folder: Path, rows: list[Any], column: str = "text") -> Path:
    import datasets

    datasets.Dataset.from_dict({"id": list(range(len(rows))), column: rows}).save_to_disk(folder / column)
    return folder / column


Write = Callable[..., Path]
FORMATS = pytest.mark.parametrize("write", [jsonl, parquet, saved])


@FORMATS
def test_rows_without_text_are_left_out_and_counted_or_one_line(tiny_gpt2: Model, tmp_path: Path, write: Write) -> None:
    path = write(tmp_path, ROWS)
    assert load_corpus(path, skip_empty=True) == KEPT
    plan, tokens = plan_capture(tiny_gpt2, open_corpus(path, skip_empty=True), MIDDLE)
    assert plan.corpus["left_out"] == 3
    assert plan.corpus["whole"] is True
    assert tokens.row.tolist() == [1, 3, 6]
    line = refusal(load_corpus, path)
    assert (
        f"{path} row 2: text is null; expected a document; fill it, delete the row or leave rows without text" in line
    )
    assert "--skip-empty" in line
    assert "quotes" not in line


def test_texts_in_memory_may_lack_some_as_a_pandas_column_does(tiny_gpt2: Model) -> None:
    texts: list[Any] = ["one two", None, math.nan, "three"]
    assert [d.text for d in from_texts(texts, skip_empty=True)] == ["one two", "three"]
    plan, _ = plan_capture(tiny_gpt2, from_texts(texts, skip_empty=True), MIDDLE)
    assert plan.corpus["left_out"] == 2
    with pytest.raises(UserError, match="the texts row 2: text is null"):
        plan_capture(tiny_gpt2, texts, MIDDLE)
    with pytest.raises(UserError, match=r"the texts row 1: text is a int; expected a string; make it a text$"):
        plan_capture(tiny_gpt2, [3], MIDDLE)  # type: ignore[list-item]


@FORMATS
def test_a_corpus_of_rows_without_text_alone_says_how_many(tiny_gpt2: Model, tmp_path: Path, write: Write) -> None:
    path = write(tmp_path, [None, "", None])
    with pytest.raises(UserError, match="holds no document but 3 without text"):
        plan_capture(tiny_gpt2, open_corpus(path, skip_empty=True), MIDDLE)


@FORMATS
def test_the_text_may_stand_in_another_column(tmp_path: Path, write: Write) -> None:
    path = write(tmp_path, KEPT, "content")
    assert load_corpus(path, text_column="content") == KEPT
    assert load_corpus(write(tmp_path, ROWS, "body"), text_column="body", skip_empty=True) == KEPT
    line = refusal(load_corpus, path)
    assert "'id', 'content'; expected 'text' among them; nearest: 'content'; name the one" in line
    assert "--text-column" in line
    with pytest.raises(UserError) as refused:
        load_corpus(path, text_column="contents")
    assert "expected 'contents' among them; nearest: 'content'" in the_line(refused)


def test_a_streamed_dataset_is_read_from_another_column_too(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def load(name: str, split: str, streaming: bool) -> Any:
        rows = [{"content": text, "id": 1} for text in ROWS]
        if name == "no/features":  # a streamed dataset may not say its columns
            return datasets.IterableDataset.from_generator(lambda: iter(rows))
        return datasets.Dataset.from_list(rows).to_iterable_dataset()

    monkeypatch.setattr(datasets, "load_dataset", load)
    for name in ("hf:some/name", "hf:no/features"):
        assert load_corpus(name, text_column="content", skip_empty=True) == KEPT
        with pytest.raises(UserError, match=r"row 2: text is null"):
            load_corpus(name, text_column="content")
        with pytest.raises(UserError, match="expected 'text' among them; nearest: 'content'"):
            load_corpus(name)


def test_plain_text_has_no_columns(tmp_path: Path) -> None:
    jsonl(tmp_path, KEPT, "content")
    (tmp_path / "a.txt").write_text("one\n\ntwo")
    for place in (tmp_path, tmp_path / "a.txt"):
        with pytest.raises(UserError, match=r"a\.txt is plain text, which has no column 'content'"):
            open_corpus(place, text_column="content")
    assert load_corpus(tmp_path / "a.txt") == ["one", "two"]


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (3, "content is a int; expected a string; make it a text, or name the column"),
        (True, "content is a bool; expected a string"),
        ([{"role": "user"}], "content is a list; expected a string; join its parts to one text, or name the column"),
        ({"role": "user"}, "content is a dict; expected a string; join its parts"),
        ("a\0", "content holds U+0000"),
    ],
)
def test_what_is_no_text_is_refused_with_advice_that_fits(tmp_path: Path, value: Any, says: str) -> None:
    for write in (jsonl, parquet, saved):
        folder = tmp_path / write.__name__
        folder.mkdir()
        path = write(folder, [value], "content")
        with pytest.raises(UserError) as refused:
            load_corpus(path, text_column="content", skip_empty=True)
        assert f"row 1: {says}" in the_line(refused)
        assert "quotes" not in str(refused.value)


# --- files of other endings -------------------------------------------------------------------------------------------

TABLE = ["a, b", 'c\n\n"d"', "NA", "null"]


def write_table(path: Path, delimiter: str = ",") -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerows([["id", "text"], *([str(i), text] for i, text in enumerate(TABLE))])


def write_arrow(path: Path) -> None:
    table = pa.table({"text": TABLE})
    if path.suffix == ".feather":
        pyarrow.feather.write_feather(table, path)
        return
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


@pytest.mark.parametrize("name", ["c.csv", "c.TSV", "list.json", "lines.json", "c.arrow", "c.feather"])
def test_the_advice_for_a_table_of_another_ending_works_to_the_letter(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    path = tmp_path / name
    records = [{"text": text} for text in TABLE]
    if path.suffix == ".csv":
        write_table(path)
    elif path.suffix == ".TSV":
        write_table(path, "\t")
    elif path.suffix == ".json":
        text = json.dumps(records) if path.stem == "list" else "".join(json.dumps(r) + "\n" for r in records)
        path.write_text(text)
    else:
        write_arrow(path)
    line = refusal(load_corpus, path)
    assert "rename" not in line
    code = line.partition('convert it: python -c "')[2].rpartition('"')[0]
    exec(code, {})
    assert load_corpus(path.with_suffix(".parquet")) == TABLE


def test_an_ending_that_says_nothing_is_told_to_be_renamed_only_if_it_is_one_of_these(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("x")
    assert "rename it if it is one of these; else write its documents as JSON lines" in refusal(
        load_corpus, tmp_path / "a.md"
    )
    line = refusal(load_corpus, tmp_path)
    assert "a folder without a corpus" in line
    assert "a.md" in line
    assert "no file or folder" in refusal(load_corpus, tmp_path / "wikitext")
    assert "hf:NAME" in refusal(load_corpus, tmp_path / "wikitext")


def test_the_command_line_names_the_column_and_leaves_rows_out(
    tiny_gpt2: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = parquet(tmp_path, ROWS, "content")
    where = tiny_gpt2.provenance.location
    line = ["capture", "--corpus", str(path), "--sites", MIDDLE, "--model", where, "--out", str(tmp_path / "s")]
    with pytest.raises(UserError, match="nearest: 'content'"):
        dispatch(line)
    with pytest.raises(UserError, match="row 2: text is null"):
        dispatch([*line, "--text-column", "content"])
    assert not (tmp_path / "s").exists()
    assert dispatch([*line, "--text-column", "content", "--skip-empty"]) == 0
    assert "3 rows without text left out" in capsys.readouterr().err
    assert open_store(tmp_path / "s").plan.corpus["documents"] == 3
