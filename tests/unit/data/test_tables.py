from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.data.tables import read_text_columns, text_batches

COLUMNS = {"section.url_column": "url", "section.caption_column": "caption"}


def _read(path: Path, content: bytes) -> dict[str, list[str]]:
    path.write_bytes(content)
    return read_text_columns(path, COLUMNS).to_pydict()


@pytest.mark.parametrize(
    ("name", "content", "captions"),
    [
        ("a.csv", b"caption,url\nred,u1\n,u2\n", ["red", ""]),
        ("bom.csv", b"\xef\xbb\xbfcaption,url\nNA,u1\n7,u2\n", ["NA", "7"]),
        ("crlf.csv", b"url,caption\r\nu1,x\r\nu2,y\r\n", ["x", "y"]),
        ("quoted.csv", b'url,more,caption\nu1,z,"two\nlines, ""quoted"""\nu2,z,b', ['two\nlines, "quoted"', "b"]),
        ("a.tsv", b'caption\turl\n"unpaired quote\tu1\nb, c\tu2\n', ['"unpaired quote', "b, c"]),
        ("utf8.csv", "url,caption\nu1,Übergröße\nu2,猫\n".encode(), ["Übergröße", "猫"]),
    ],
)
def test_text_stays_text_in_every_form(tmp_path: Path, name: str, content: bytes, captions: list[str]) -> None:
    assert _read(tmp_path / name, content) == {"url": ["u1", "u2"], "caption": captions}


def test_compressed_and_parquet_files_and_null_values(tmp_path: Path) -> None:
    expected = {"url": ["u1"], "caption": ["a\tb"]}
    assert _read(tmp_path / "a.csv.gz", gzip.compress(b"url,caption\nu1,a\tb\n")) == expected
    pq.write_table(pa.table({"n": [1, 2], "caption": [None, "x"], "url": [7, 8]}), tmp_path / "a.parquet")
    assert read_text_columns(tmp_path / "a.parquet", COLUMNS).to_pydict() == {"url": ["7", "8"], "caption": ["", "x"]}


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_missing_column_is_named_with_its_key_and_the_columns_there_are(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix == ".csv":
        path.write_text("link,caption\nu,c\n")
    else:
        pq.write_table(pa.table({"link": ["u"], "caption": ["c"]}), path)
    with pytest.raises(PipelineError, match=r"no column 'url' \(section.url_column\).*'link', 'caption'"):
        read_text_columns(path, COLUMNS)


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        (b"", "Empty CSV"),
        (b"url,caption\nu,\xff\xfe\n", "UTF8"),
        (b"url,caption\nu,c\nv,c,d\n", "Row #3"),
        (b"url,url,caption\nu,v,c\n", "'url' is there or asked for twice"),
    ],
)
def test_files_that_cannot_be_read_say_why(tmp_path: Path, content: bytes, fact: str) -> None:
    with pytest.raises(PipelineError, match=fact):
        _read(tmp_path / "a.csv", content)


def test_a_missing_file_and_a_false_parquet_are_errors(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="does not exist"):
        read_text_columns(tmp_path / "none.csv", COLUMNS)
    with pytest.raises(PipelineError, match="cannot be read"):
        _read(tmp_path / "a.parquet", b"url,caption\n")


def test_one_column_cannot_be_both(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("url,caption\nu,c\n")
    with pytest.raises(PipelineError, match="two different columns"):
        read_text_columns(tmp_path / "a.csv", {"a": "url", "b": "url"})


@pytest.mark.parametrize(
    ("names", "content"),
    [
        (["caption", "url"], b'a "quoted" word, a comma\thttp://a/1\n"unpaired\thttp://a/2\n'),
        (["url", "caption"], b'http://a/1\ta "quoted" word, a comma\nhttp://a/2\t"unpaired\n'),
    ],
)
def test_lists_without_a_header_line_get_their_columns_names_and_keep_quotes(
    tmp_path: Path, names: list[str], content: bytes
) -> None:
    (tmp_path / "a.tsv").write_bytes(content)
    assert read_text_columns(tmp_path / "a.tsv", COLUMNS, names).to_pydict() == {
        "url": ["http://a/1", "http://a/2"],
        "caption": ['a "quoted" word, a comma', '"unpaired'],
    }


def test_names_that_do_not_fit_are_errors(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("x\ty\tz\n")
    with pytest.raises(PipelineError, match="Expected 2 columns, got 3"):
        read_text_columns(tmp_path / "a.tsv", COLUMNS, ["url", "caption"])
    with pytest.raises(PipelineError, match=r"no column 'url' \(section.url_column\).*'link', 'caption'"):
        read_text_columns(tmp_path / "a.tsv", COLUMNS, ["link", "caption"])
    pq.write_table(pa.table({"url": ["u"], "caption": ["c"]}), tmp_path / "a.parquet")
    with pytest.raises(PipelineError, match="names its columns itself"):
        read_text_columns(tmp_path / "a.parquet", COLUMNS, ["url", "caption"])


def test_large_files_come_part_by_part(tmp_path: Path) -> None:
    rows = 300_000
    (tmp_path / "a.tsv").write_text("".join(f"http://a/{row}\tcaption {row} {'x' * 50}\n" for row in range(rows)))
    pq.write_table(pa.table({"url": map(str, range(rows)), "caption": ["c"] * rows}), tmp_path / "a.parquet")
    for path, names in ((tmp_path / "a.tsv", ["url", "caption"]), (tmp_path / "a.parquet", None)):
        sizes = [batch.num_rows for batch in text_batches(path, COLUMNS, names)]
        assert sum(sizes) == rows
        assert max(sizes) < rows
