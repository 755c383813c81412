from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path

import pytest

from pipeline_steps.core.config import load_section
from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.schema import DownloadImagesConfig
from pipeline_steps.data.parts import Part
from pipeline_steps.data.url_source import url_source
from tests.unit.data.made_data import picture_bytes, section, write_embedded

WHOLE = Part()


def _settings(**changes: object) -> DownloadImagesConfig:
    return load_section(section("download_images", **changes), "download_images", DownloadImagesConfig)


def test_bundled_pictures_are_served_while_the_block_runs_and_the_content_ignores_the_port(tmp_path: Path) -> None:
    path = write_embedded(tmp_path / "bundled.parquet", 10)
    settings = _settings(fault_fraction=0.0)
    with url_source(path, settings, WHOLE) as first, url_source(path, settings, WHOLE) as second:
        urls = first.table["url"].to_pylist()
        assert urllib.request.urlopen(urls[7], timeout=5).read() == picture_bytes(7)
        assert urls != second.table["url"].to_pylist()
        assert first.content == second.content
    assert first.table["caption"][7].as_py() == "Title 7, tag"
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(urls[7], timeout=1)
    with url_source(path, _settings(fault_fraction=0.5), WHOLE) as faulty:
        assert faulty.content != first.content


def test_slow_answers_must_be_slower_than_the_time_out(tmp_path: Path) -> None:
    path = write_embedded(tmp_path / "bundled.parquet", 10)
    settings = _settings(slow_seconds=2.0, timeout_seconds=2)
    with pytest.raises(PipelineError, match=r"slow_seconds = 2.0"), url_source(path, settings, WHOLE):
        pass


def test_a_list_keeps_web_addresses_alone_and_counts_the_others(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text("url,caption\nhttps://a/1,x\nfile:///etc/passwd,y\nHTTP://b/2,z\nnonsense,w\n")
    with url_source(path, _settings(url_list=str(path)), WHOLE) as source:
        assert source.table.to_pydict() == {"url": ["https://a/1", "HTTP://b/2"], "caption": ["x", "z"]}
        assert source.refused_urls == 2
        content = source.content
    path.write_text("url,caption\nhttps://a/1,x\nHTTP://b/2,changed\n")
    with url_source(path, _settings(url_list=str(path)), WHOLE) as source:
        assert source.content != content


@pytest.mark.parametrize(("rows", "fact"), [("", "has no rows"), ("x,http://a/1\n", "no http.*'x'")])
def test_an_empty_list_and_the_wrong_column_are_errors(tmp_path: Path, rows: str, fact: str) -> None:
    path = tmp_path / "list.csv"
    path.write_text(f"url,caption\n{rows}")
    with pytest.raises(PipelineError, match=fact), url_source(path, _settings(url_list=str(path)), WHOLE):
        pass


@pytest.mark.parametrize("columns", [["caption", "url"], ["url", "caption"]])
def test_lists_without_a_header_line_as_cc3m_and_cc12m_come(tmp_path: Path, columns: list[str]) -> None:
    row = {"url": "http://a/1", "caption": 'the "best" of\u2026 it, "so they say'}
    path = tmp_path / "list.tsv"
    path.write_text("\t".join(row[name] for name in columns) + "\n", encoding="utf-8")
    with url_source(path, _settings(url_list=str(path), url_list_columns=columns), WHOLE) as source:
        assert source.table.to_pylist() == [row]
        assert source.refused_urls == 0


@pytest.mark.parametrize("jobs", [1, 2, 3, 5, 9])
def test_parts_share_a_list_in_whole_shards(tmp_path: Path, jobs: int) -> None:
    path = tmp_path / "list.csv"
    rows = [f"http://a/{number},caption {number}" for number in range(23)]
    path.write_text("\n".join(["url,caption", "file:///etc/passwd,not a web page", *rows]) + "\n")
    settings = _settings(url_list=str(path), samples_per_shard=5)
    urls, shards, contents, refused = [], [], set(), 0
    for number in range(1, jobs + 1):
        with url_source(path, settings, Part(number, jobs)) as source:
            urls += source.table["url"].to_pylist()
            shards += [source.first_shard + shard for shard in range(-(-source.table.num_rows // 5))]
            contents.add((source.content, source.first_shard))
            refused += source.refused_urls
            assert source.shards_of_list == 5
    assert urls == [f"http://a/{number}" for number in range(23)]
    assert shards == [0, 1, 2, 3, 4]
    assert len(contents) >= min(jobs, 5)
    assert refused == 1


def test_parts_share_the_bundled_pictures_too(tmp_path: Path) -> None:
    path = write_embedded(tmp_path / "bundled.parquet", 10)
    captions = []
    for number in (1, 2):
        with url_source(path, _settings(fault_fraction=0.0, samples_per_shard=4), Part(number, 2)) as source:
            captions += source.table["caption"].to_pylist()
            url = source.table["url"][0].as_py()
            assert urllib.request.urlopen(url, timeout=5).read() == picture_bytes(4 * source.first_shard)
    assert captions == [f"Title {number}, tag" for number in range(10)]
