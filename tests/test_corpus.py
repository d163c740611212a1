"""Corpora: JSON lines and text files, whole, in order, or refused."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refusal

from interp.errors import UserError
from interp.text.corpus import load_corpus, open_corpus

if TYPE_CHECKING:
    from interp import Model
    from interp.activations.store import Store


def test_json_lines_are_read_whole_and_in_order(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    texts = ["one\n\ntwo", " kept as it is ", "line\u2028separator", "ünï"]
    path.write_text("".join(json.dumps({"id": 1, "text": t}, ensure_ascii=False) + "\r\n" for t in texts), "utf-8")
    assert load_corpus(path) == texts


def test_a_text_file_is_one_document_a_paragraph(tmp_path: Path) -> None:
    path = tmp_path / "c.TXT"
    path.write_bytes("\ufeff\n\nfirst\r\nstill first\r\n \t\r\n\r\n  second\n\n\n".encode())
    assert load_corpus(path) == ["first\nstill first", "  second"]


BAD_CORPUS = {
    "no json": (b'{"text": "a"}\n{"text": \n', ["row 2 is not JSON"]),
    "deep": (b"[" * 200_000, ["row 1 is not JSON"]),
    "long number": (b"1" * 5000, ["row 1 is not JSON"]),
    "array": (b'["text"]', ["row 1 is a JSON list"]),
    "no field": (b'{"text": "a"}\n{"body": "a", "id": 1}', ["row 2 has the fields 'body', 'id'"]),
    "no fields": (b"{}", ["row 1 has the fields none"]),
    "number": (b'{"text": 3}', ["row 1: text is a int"]),
    "blank text": (b'{"text": " \\n"}', ["row 1: text is empty"]),
    "blank line": (b'{"text": "a"}\n\n{"text": "b"}', ["row 2 is blank"]),
    "surrogate": (b'{"text": "a\\ud800"}', ["row 1: text holds U+D800"]),
    "nul": (b'{"text": "a\\u0000"}', ["row 1: text holds U+0000"]),
    "empty": (b"\n\n", ["is empty"]),
    "not utf-8": (b'{"text": "a"}\n{"text": "\xe9"}', ["not UTF-8", "offset 24 (row 2)"]),
}


@pytest.mark.parametrize(("raw", "says"), BAD_CORPUS.values(), ids=BAD_CORPUS)
def test_a_bad_corpus_is_one_line_that_names_the_row(tmp_path: Path, raw: bytes, says: list[str]) -> None:
    path = tmp_path / "c.jsonl"
    path.write_bytes(raw)
    message = refusal(load_corpus, path)
    for part in ["c.jsonl", *says]:
        assert part in message


def test_a_corpus_of_another_format_is_refused_by_its_ending(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    path.write_bytes(b"text")
    assert "'.csv'; expected .jsonl, .txt, .parquet, those with .gz or .zst behind" in refusal(load_corpus, path)


TEXTS = ["one two", "three\n\nfour", "ünï\u2028x", " five "]


def parquet(path: Path, column: pa.Array, name: str = "text") -> Path:
    pq.write_table(pa.table({name: column}), path)
    return path


@pytest.fixture
def jsonl() -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in TEXTS).encode()


def test_packed_files_parquet_and_a_folder_of_them_are_read_alike(tmp_path: Path, jsonl: bytes) -> None:
    folder = tmp_path / "corpus"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.jsonl").write_bytes(jsonl)
    (folder / "b.JSONL.gz").write_bytes(gzip.compress(jsonl))
    with pa.CompressedOutputStream(str(folder / "c.jsonl.zst"), "zstd") as packed:
        packed.write(jsonl)
    parquet(folder / "deep" / "d.parquet", pa.array(TEXTS))
    for name in (".hidden.jsonl", "readme.md"):
        (folder / name).write_bytes(b"no corpus")
    for path in sorted(folder.rglob("*.*[lztZ]")):
        if not path.name.startswith("."):
            assert load_corpus(path) == TEXTS, path
    documents = list(open_corpus(folder))
    assert [d.text for d in documents] == TEXTS * 4
    assert documents[5].where == f"{folder / 'b.JSONL.gz'} row 2"
    assert list(open_corpus(folder)) == documents, "a corpus can be read again"
    assert [path.name for path in open_corpus(folder).ignored] == ["readme.md"]


def test_empty_documents_are_left_out_and_counted_when_asked(tiny_gpt2: Model, tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in ("", "one two", " ", "\n", "three", "")))
    assert "row 1: text is empty" in refusal(load_corpus, path)
    from interp.activations.plan import plan_capture

    documents = list(open_corpus(path, skip_empty=True))
    assert [(d.text, d.row) for d in documents] == [("one two", 2), ("three", 5)]
    plan, tokens = plan_capture(tiny_gpt2, open_corpus(path, skip_empty=True), "blocks.0.hook_resid_post")
    assert plan.corpus["left_out"] == 4
    assert plan.corpus["whole"] is True
    assert tokens.row.tolist() == [2, 5]


def test_a_dataset_on_disk_is_a_corpus(tmp_path: Path) -> None:
    import datasets

    rows = datasets.Dataset.from_dict({"text": TEXTS, "id": [1, 2, 3, 4]})
    rows.save_to_disk(tmp_path / "d")
    assert [d.text for d in open_corpus(tmp_path / "d")] == TEXTS
    datasets.Dataset.from_dict({"body": TEXTS}).save_to_disk(tmp_path / "other")
    assert "has the columns 'body'" in refusal(load_corpus, tmp_path / "other")
    datasets.DatasetDict({"train": rows}).save_to_disk(tmp_path / "splits")
    assert "holds the splits train; expected one" in refusal(load_corpus, tmp_path / "splits")


def test_a_hub_dataset_is_streamed_and_what_goes_wrong_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked = []

    def load(name: str, split: str, streaming: bool) -> Any:
        asked.append((name, split, streaming))
        if name == "no/such":
            raise ConnectionError("no network\nat all")
        return datasets.Dataset.from_dict({"text": TEXTS}).to_iterable_dataset()

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert load_corpus("hf:some/name") == load_corpus("hf:some/name:test") == TEXTS
    assert asked == [("some/name", "train", True), ("some/name", "test", True)]
    message = refusal(load_corpus, "hf:no/such")
    assert "cannot open the dataset hf:no/such (ConnectionError: no network at all)" in message


def test_damaged_files_are_one_line(tmp_path: Path, jsonl: bytes) -> None:
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(jsonl * 100)[:-20])
    (tmp_path / "no.jsonl.gz").write_bytes(jsonl)
    (tmp_path / "no.jsonl.zst").write_bytes(jsonl)
    (tmp_path / "no.parquet").write_bytes(jsonl)
    parquet(tmp_path / "other.parquet", pa.array(TEXTS), "body")
    parquet(tmp_path / "numbers.parquet", pa.array([1, 2]))
    parquet(tmp_path / "null.parquet", pa.array(["a", None]))
    raw = pa.array([b"a", b"\xe9"]).cast(pa.binary())
    parquet(tmp_path / "latin.parquet", pa.Array.from_buffers(pa.string(), 2, raw.buffers()))
    (tmp_path / "wide.txt").write_bytes("a".encode("utf-16"))
    (tmp_path / "empty").mkdir()
    for name, said in {
        "cut.jsonl.gz": "cannot read",
        "no.jsonl.gz": "cannot read",
        "no.jsonl.zst": "cannot read",
        "no.parquet": "cannot read",
        "other.parquet": "has the columns 'body'",
        "numbers.parquet": "row 1: text is a int",
        "null.parquet": "row 2: text is null",
        "latin.parquet": "row 2 is not UTF-8",
        "wide.txt": "is UTF-16",
        "empty": "a folder without a corpus",
    }.items():
        assert said in refusal(load_corpus, tmp_path / name), name


hostile_text = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ["", " ", "\0", "\ud800", "\ufeff", "<|endoftext|>", "<|endoftext|><|endoftext|>", "\u2028", "a\r\nb"]
    ),
)
hostile_line = st.one_of(
    hostile_text.map(lambda text: json.dumps({"text": text}).encode()),
    hostile_text.map(lambda text: json.dumps({"text": text}, ensure_ascii=False).encode("utf-8", "surrogatepass")),
    st.binary(max_size=12),
    st.sampled_from(
        [b"", b"{}", b"[1]", b"null", b'{"text": 5}', b'{"text": "caf\xe9"}', b"\xff\xfe", b"\xef\xbb\xbf"]
    ),
)
MEGABYTE = b'{"text": "' + b"long " * 210_000 + b'"}'
GOOD = [b'{"text": "a good line"}', b"a good line"]


@pytest.mark.parametrize(
    "examples", [pytest.param(75, id="some"), pytest.param(1000, marks=pytest.mark.slow, id="many")]
)
def test_hostile_corpora_are_captured_or_refused_with_file_and_row(
    tiny_gpt2: Model, tmp_path_factory: pytest.TempPathFactory, examples: int
) -> None:
    from interp.activations.capture import capture_store
    from interp.activations.plan import plan_capture
    from interp.activations.token_table import Cut
    from interp.activations.verify import verify_store

    outcomes = {"captured": 0, "refused": 0}
    good = GOOD if examples < 1000 else [*GOOD, MEGABYTE]

    @settings(max_examples=examples, database=None, derandomize=examples < 1000)
    @given(
        st.lists(st.one_of(hostile_line, st.sampled_from(good)), max_size=6),
        st.sampled_from([b"\n", b"\r\n", b"\n\n"]),
        st.sampled_from(["c.jsonl", "c.txt", "c.jsonl.gz", "c.txt.gz"]),
        st.sampled_from(["documents", "packed"]),
    )
    def attack(lines: list[bytes], end: bytes, name: str, packing: Any) -> None:
        folder = tmp_path_factory.mktemp("hostile")
        raw = end.join(lines)
        path = folder / name
        path.write_bytes(gzip.compress(raw, 1) if name.endswith(".gz") else raw)
        store: Store | None = None
        message = ""
        try:
            plan, tokens = plan_capture(
                tiny_gpt2, open_corpus(path), "blocks.0.hook_resid_post", cut=Cut(32, packing, max_tokens=100)
            )
            store = capture_store(tiny_gpt2, folder / "s", plan, tokens)
        except UserError as error:
            message = str(error)
        if store is None:
            assert re.fullmatch(rf".*{name}.*(row \d|is empty|UTF-16|UTF-32).*", message), message
            assert not (folder / "s").exists()
            outcomes["refused"] += 1
            return
        assert verify_store(store) == []
        assert bool(store.rows("blocks.0.hook_resid_post").isfinite().all())
        outcomes["captured"] += 1
        shutil.rmtree(folder)

    attack()
    assert min(outcomes.values()) > examples / 20, outcomes


def test_one_string_is_no_corpus(tiny_gpt2: Model) -> None:
    from interp.activations.plan import plan_capture

    with pytest.raises(UserError, match="a str came as a corpus; expected several texts"):
        plan_capture(tiny_gpt2, "Paris is", "blocks.0.hook_resid_post")
