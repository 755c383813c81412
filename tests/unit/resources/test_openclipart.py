"""The committed data set keeps its promises, and the parts of its builder do what they say."""

import hashlib
import io
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image, ImageDraw

from resources.openclipart import build

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "resources" / "openclipart"
PARQUET = FOLDER / "openclipart.parquet"

Rows = dict[str, list[Any]]


@pytest.fixture(scope="module")
def rows() -> Rows:
    table: Rows = pq.read_table(PARQUET).to_pydict()
    return table


def test_the_builders_check_finds_nothing() -> None:
    """Exact and near-duplicates on one side, groups and splits as the hashes give them, size, ids, sha256."""
    assert build.check(PARQUET) == []


def test_file_is_small_enough_to_commit(rows: Rows) -> None:
    assert PARQUET.stat().st_size <= 10_000_000
    assert tuple(rows) == build.COLUMNS
    assert len(rows["id"]) > 6_500


def test_rows_are_what_their_columns_say(rows: Rows) -> None:
    assert len(set(rows["id"])) == len(rows["id"])
    assert rows["category"] == [name.rpartition("/")[0] for name in rows["id"]]
    assert not any(build.GENERATED.match(name) for name in rows["id"])
    assert set(rows["split"]) == {"train", "test"}
    for text in ("title", "description", "author"):
        assert rows[text] == [words.strip() for words in rows[text]]
    assert all(tag and tag == tag.strip() for tags in rows["tags"] for tag in tags)


def test_pictures_are_64_px_rgb_webp_of_their_sha256(rows: Rows) -> None:
    for image, sha256 in zip(rows["image"], rows["sha256"], strict=True):
        assert hashlib.sha256(image).hexdigest() == sha256
    kinds = set()
    for image in set(rows["image"]):
        with Image.open(io.BytesIO(image)) as picture:
            kinds.add((picture.format, picture.size, picture.mode))
    assert kinds == {("WEBP", (64, 64), "RGB")}


def test_no_group_straddles_the_split(rows: Rows) -> None:
    groups = set(zip(rows["group"], rows["split"], strict=True))
    assert len(groups) == len(set(rows["group"]))


def test_split_is_drawn_from_content_alone(rows: Rows) -> None:
    members: dict[str, set[str]] = defaultdict(set)
    for group, sha256 in zip(rows["group"], rows["sha256"], strict=True):
        members[group].add(sha256)
    expected = {}
    for group, sha256s in members.items():
        digest = hashlib.sha256(min(sha256s).encode()).digest()
        in_test = int.from_bytes(digest, "big") < 0.3 * 2**256 and len(sha256s) <= 40
        expected[group] = "test" if in_test else "train"
    assert rows["split"] == [expected[group] for group in rows["group"]]
    assert 0.25 < rows["split"].count("test") / len(rows["split"]) < 0.3


def test_every_class_has_test_and_train_pictures(rows: Rows) -> None:
    row = yaml.safe_load((ROOT / "config" / "datasets.yaml").read_text())["openclipart"]
    classes = row["sources"][0]["categories"]
    assert len(classes) == row["classes"]
    labels: dict[str, set[str]] = defaultdict(set)
    for name, categories in classes.items():
        for sha256, category in zip(rows["sha256"], rows["category"], strict=True):
            if any(f"{category}/".startswith(f"{prefix}/") for prefix in categories):
                labels[sha256].add(name)
    split_of = dict(zip(rows["sha256"], rows["split"], strict=True))
    counts = Counter((*names, split_of[sha256]) for sha256, names in labels.items() if len(names) == 1)
    assert len(classes) >= 15
    assert {name: counts[name, "test"] for name in classes if counts[name, "test"] < 15} == {}
    assert {name: counts[name, "train"] for name in classes if counts[name, "train"] < 15} == {}


def test_every_author_is_named(rows: Rows) -> None:
    counts = Counter(author or "(no author named)" for author in rows["author"])
    lines = [f"{counts[author]}\t{author}" for author in counts]
    assert sorted((FOLDER / "AUTHORS").read_text(encoding="utf-8").splitlines()) == sorted(lines)


def test_check_reports_a_moved_near_duplicate(rows: Rows, tmp_path: Path) -> None:
    pictures_in = Counter(group for group, _ in set(zip(rows["group"], rows["sha256"], strict=True)))
    pairs = sorted(group for group, pictures in pictures_in.items() if pictures == 2)[:20]
    whole = pq.read_table(PARQUET).filter([group in pairs for group in rows["group"]])
    splits = whole["split"].to_pylist()
    splits[0] = "test" if splits[0] == "train" else "train"
    moved = whole.set_column(whole.schema.get_field_index("split"), "split", [splits])
    for name, table in (("whole", whole), ("moved", moved)):
        pq.write_table(table, tmp_path / f"{name}.parquet")
    assert build.check(tmp_path / "whole.parquet") == []
    problems = build.check(tmp_path / "moved.parquet")
    assert any("near-duplicates are on one side" in problem for problem in problems)
    assert any("groups and splits follow" in problem for problem in problems)


SVG = """<?xml version="1.0" encoding="{encoding}"?>
<!DOCTYPE svg [<!ENTITY secret SYSTEM "file:///etc/hostname">]>
<svg xmlns="http://www.w3.org/2000/svg"><title>not this</title><metadata><rdf:RDF><cc:Work>
<dc:title> Caf\u00e9 &amp; &lt;b&gt; </dc:title><dc:description>&secret;</dc:description>
<dc:subject><rdf:Bag><rdf:li>food</rdf:li><rdf:li></rdf:li><rdf:li>drink </rdf:li></rdf:Bag></dc:subject>
<dc:publisher><cc:Agent><dc:title>a site</dc:title></cc:Agent></dc:publisher>
<dc:creator><cc:Agent><dc:title>A. Person</dc:title></cc:Agent></dc:creator>{end}"""


@pytest.mark.parametrize("encoding", ["UTF-8", "iso-8859-1"])
@pytest.mark.parametrize("end", ["</cc:Work></rdf:RDF></metadata></svg>", "<dc:date></cc:Work>", "</cc:Work></oops"])
def test_words_are_read_as_written_even_from_broken_files(encoding: str, end: str) -> None:
    words = build.read_words(SVG.format(encoding=encoding, end=end).encode(encoding))
    assert words == build.Words("Caf\u00e9 & <b>", "&secret;", ["food", "drink"], "A. Person")


def test_words_of_a_file_without_metadata_are_empty() -> None:
    assert build.read_words(b"<svg/>") == build.Words("", "", [], "")


@pytest.mark.parametrize("scale", [1, 40])
def test_render_trims_transparency_keeps_aspect_and_fills_white(tmp_path: Path, scale: int) -> None:
    page = Image.new("RGBA", (100 * scale, 50 * scale))
    ImageDraw.Draw(page).rectangle((10 * scale, 10 * scale, 50 * scale - 1, 30 * scale - 1), fill="red")
    page.save(tmp_path / "page.png")
    picture = build.render(tmp_path / "page.png")
    assert picture.size == (64, 64)
    assert [picture.getpixel((x, y)) for x, y in ((1, 32), (62, 32))] == [(255, 0, 0)] * 2
    assert [picture.getpixel((32, y)) for y in (2, 61)] == [(255, 255, 255)] * 2
    assert picture.getpixel((32, 32)) == (255, 0, 0)


def _drawing(fill: str, *, circle: bool = True) -> build.Pixels:
    picture = Image.new("RGB", (64, 64), "white")
    draw = ImageDraw.Draw(picture)
    if circle:
        draw.ellipse((4, 14, 40, 50), fill=fill, outline="black", width=2)
        draw.rectangle((36, 30, 60, 40), fill=fill, outline="black", width=2)
    else:
        draw.polygon(((32, 4), (60, 60), (4, 60)), fill=fill, outline="black", width=2)
        draw.line((32, 20, 32, 50), fill="black", width=6)
    return build.decode(build.encode(picture))


def _smaller(pixels: build.Pixels) -> build.Pixels:
    page = Image.new("RGB", (64, 64), "white")
    page.paste(Image.fromarray(pixels).resize((44, 44), Image.Resampling.LANCZOS), (3, 15))
    return build.decode(build.encode(page))


def test_recoloured_line_art_and_smaller_drawings_are_near_duplicates() -> None:
    same = [_drawing("red"), _drawing("navy"), _drawing("white"), _smaller(_drawing("red"))]
    other = [_drawing("red", circle=False), _drawing("white", circle=False)]
    divided = build.divide([*"abcdef"], build.near_pairs(build.hash_pictures(same + other)))
    assert len({divided[name] for name in "abcd"}) == len({divided[name] for name in "ef"}) == 1
    assert divided["a"] != divided["e"]
