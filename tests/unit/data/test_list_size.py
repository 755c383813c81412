from __future__ import annotations

import json
from pathlib import Path

from msgspec.structs import replace

from pipeline_steps.core.config import load_config, read_yaml
from pipeline_steps.data.list_size import known_pairs
from tests.unit.data.made_data import write_scan
from tests.unit.paths import CONFIG


def test_pairs_are_those_of_the_manifest_or_the_rows_of_the_list(tmp_path: Path) -> None:
    config = replace(load_config(read_yaml([CONFIG])), results_dir=str(tmp_path))
    assert known_pairs(config) == 4871  # training rows of the bundled parquet
    urls = tmp_path / "list.tsv"
    urls.write_text("".join(f"caption {number}\thttp://x/{number}\n" for number in range(7)))
    download = replace(config.download_images, url_list=str(urls), url_list_columns=("caption", "url"))
    assert known_pairs(replace(config, download_images=download)) == 7
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("image_path,text_content\na.png,x\nb.png,y\n")
    manifest = replace(config.build_manifest, source_csv=str(pairs))
    assert known_pairs(replace(config, build_manifest=manifest)) == 2
    manifest = replace(config.build_manifest, source_shards=str(tmp_path))
    assert known_pairs(replace(config, build_manifest=manifest)) is None
    write_scan(tmp_path / "coco", "train", ["1"], ["a", "b", "c"], [])
    manifest = replace(config.build_manifest, source_scan=f"{tmp_path}/coco")
    assert known_pairs(replace(config, build_manifest=manifest)) == 3
    report = tmp_path / config.experiment / "build_manifest/report.json"
    report.parent.mkdir(parents=True)
    report.write_text(json.dumps({"pairs": 5}))
    assert known_pairs(replace(config, build_manifest=manifest)) == 5
