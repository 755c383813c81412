"""Build the embedded data set: Open Clip Art Library 0.18 as one parquet of 64 px pictures.

The pictures are Debian's PNG renderings; what their uploaders wrote stands in the RDF metadata of the SVG sources.

    apt-get download openclipart-png=1:0.18+dfsg-19 openclipart-svg=1:0.18+dfsg-19
    for package in openclipart-*.deb; do dpkg -x "$package" extracted; done
    python resources/openclipart/build.py --packages extracted/usr/share/openclipart \\
        --output resources/openclipart/openclipart.parquet
    python resources/openclipart/build.py --check

A build reads 4.9 gigapixels: about 3 minutes and 3 GB of memory (the largest PNG has 623 megapixels). With the same
versions of Pillow, libwebp and pyarrow a second build is byte-identical. README.md lists the columns.
"""

import argparse
import hashlib
import io
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageOps
from scipy.fft import dct
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

OUTPUT: Final = Path(__file__).with_name("openclipart.parquet")
GENERATED: Final = re.compile(r"shapes/stars/star_\d+pt")  # 1,375 stars by a program, one per number of points and step
OTHER_LICENCE: Final = re.compile(rb"creativecommons\.org/licenses/(?!publicdomain)|COPYRIGHT PROTECTED")
SIDE: Final = 64
WEBP_QUALITY: Final = 90
MAX_PNG_PIXELS: Final = 700_000_000
STRIP_PIXELS: Final = 16_000_000
MAX_FILE_BYTES: Final = 8_000_000
TEST_FRACTION: Final = 0.3
LARGEST_TEST_GROUP: Final = 40  # 216 playing cards, 60 warning signs: in test, they would be most of what it measures
WHITE_FROM: Final = 245  # the grey level from which a pixel is paper, not ink

COLUMNS: Final = ("id", "image", "sha256", "title", "description", "tags", "author", "category", "group", "split")
TYPES: Final = {"image": pa.binary(), "tags": pa.list_(pa.string())}
SCHEMA: Final = pa.schema([(name, TYPES.get(name, pa.string())) for name in COLUMNS])

Bits = npt.NDArray[np.bool_]
Pixels = npt.NDArray[np.uint8]


class Words(NamedTuple):
    """What an uploader wrote about one picture."""

    title: str
    description: str
    tags: list[str]
    author: str


class _RdfReader(HTMLParser):
    """Collects (path of open tags, text) pairs. Tolerant, and it knows no DTD: entities a file defines stay text."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.texts: list[tuple[tuple[str, ...], str]] = []
        self._open: list[tuple[str, list[str]]] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:  # noqa: ARG002
        self._open.append((tag, []))

    def handle_data(self, data: str) -> None:
        if self._open:
            self._open[-1][1].append(data)

    def handle_endtag(self, tag: str) -> None:
        while any(name == tag for name, _ in self._open):
            path = tuple(name for name, _ in self._open)
            name, pieces = self._open.pop()
            self.texts.append((path, "".join(pieces).strip()))
            if name == tag:
                return


def read_words(svg: bytes) -> Words:
    """Read Dublin Core title, description, subjects and creator from the first RDF block of an SVG."""
    declared = re.match(rb"<\?xml[^>]*encoding=[\"']([\w-]+)", svg)
    text = svg.decode(declared.group(1).decode() if declared else "utf-8", errors="replace")
    block = re.search(r"<rdf:RDF\b.*?(</rdf:RDF>|\Z)", text, re.DOTALL)
    reader = _RdfReader()
    reader.feed(block.group() if block else "")
    reader.close()

    def under(*tail: str) -> list[str]:
        return [words for path, words in reader.texts if path[-len(tail) :] == tail and words]

    def first(*tail: str) -> str:
        return next(iter(under(*tail)), "")

    return Words(
        title=first("cc:work", "dc:title"),
        description=first("cc:work", "dc:description"),
        tags=under("dc:subject", "rdf:bag", "rdf:li"),
        author=first("dc:creator", "cc:agent", "dc:title"),
    )


def render(png: Path) -> Image.Image:
    """Fit what a PNG shows into SIDE x SIDE on white: no transparent margin, aspect kept, centred.

    The header is read first; a page above 16 x SIDE is reduced by a whole factor in strips, so that only one decoded
    copy of the largest page is held.
    """
    with Image.open(png) as source:
        width, height = source.size
        factor = max(1, max(width, height) // (16 * SIDE))
        page = Image.new("RGBa", (-(-width // factor), -(-height // factor)))
        rows = factor * max(1, STRIP_PIXELS // (width * factor))
        for top in range(0, height, rows):
            strip = source.crop((0, top, width, min(top + rows, height))).convert("RGBA").convert("RGBa")
            page.paste(strip.reduce(factor), (0, top // factor))
    drawn = page.convert("RGBA")
    drawn = drawn.crop(drawn.getchannel("A").getbbox())
    paper = Image.new("RGBA", drawn.size, "white")
    paper.alpha_composite(drawn)
    return ImageOps.pad(paper.convert("RGB"), (SIDE, SIDE), Image.Resampling.LANCZOS, color="white")


def encode(picture: Image.Image) -> bytes:
    """WebP bytes of a picture."""
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=WEBP_QUALITY, method=6)
    return file.getvalue()


def decode(image: bytes) -> Pixels:
    """Pixels (SIDE, SIDE, 3) of WebP bytes."""
    with Image.open(io.BytesIO(image)) as picture:
        return np.asarray(picture.convert("RGB"))


def _ink(pixels: Pixels) -> Image.Image:
    """The picture without its white margin, so that size variants hash alike."""
    picture = Image.fromarray(pixels)
    box = picture.convert("L").point([255] * WHITE_FROM + [0] * (256 - WHITE_FROM)).getbbox()
    return picture.crop(box)


def _outlines(inks: list[Image.Image]) -> Pixels:
    """Edges (N, 46, 46) whatever the colours: the strongest channel's local contrast, so line art meets its fill."""
    framed = [ImageOps.expand(ink.resize((40, 40), Image.Resampling.LANCZOS), 4, "white") for ink in inks]
    lightest = darkest = np.stack([np.asarray(picture) for picture in framed])
    for cuts in ((np.s_[:, :-2], np.s_[:, 1:-1], np.s_[:, 2:]), (np.s_[:, :, :-2], np.s_[:, :, 1:-1], np.s_[:, :, 2:])):
        lightest = np.maximum.reduce([lightest[cut] for cut in cuts])
        darkest = np.minimum.reduce([darkest[cut] for cut in cuts])
    return np.asarray(np.minimum((lightest - darkest).max(axis=3), 51))


def _frequencies(pages: Pixels) -> npt.NDArray[np.float64]:
    """The 16 x 16 lowest DCT coefficients of pages (N, n, n); rounded, as symmetry leaves zeros with float dust."""
    basis = dct(np.eye(pages.shape[1]), axis=0)[:16]
    return np.asarray((basis @ pages @ basis.T).round(3))


def _phash(frequencies: npt.NDArray[np.float64], side: int) -> Bits:
    """Perceptual hash (N, side^2), as in the imagehash package: which low frequencies lie above their median."""
    low = frequencies[:, :side, :side].reshape(len(frequencies), -1)
    return np.asarray(low > np.median(low, axis=1, keepdims=True))


def _dhash(pages: Pixels, side: int) -> Bits:
    """Gradient hash (N, 2 side (side - 1)) of pages (N, 64, 64): is the next of side x side blocks lighter."""
    block = SIDE // side
    sums = pages.astype(np.int32).reshape(len(pages), side, block, side, block).sum(axis=(2, 4))
    return np.hstack([np.diff(sums, axis=axis).reshape(len(pages), -1) > 0 for axis in (1, 2)])


def hash_pictures(pictures: list[Pixels]) -> list[tuple[Bits, int]]:
    """Three hashes (N, bits): fine and coarse ones of the grey picture, and one of its outlines.

    With each stands the Hamming distance up to which two pictures are near-duplicates. They were chosen by looking at
    pairs at each distance: recolourings, size variants and small edits of one drawing lie below, different drawings
    nearly always above.
    """
    inks = [_ink(pixels) for pixels in pictures]
    pages = np.stack([np.asarray(ink.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS)) for ink in inks])
    frequencies = _frequencies(pages)
    fine, coarse = (np.hstack([_phash(frequencies, side), _dhash(pages, side)]) for side in (16, 8))
    return [(fine, 160), (coarse, 24), (_phash(_frequencies(_outlines(inks)), 12), 28)]


def near_pairs(hashes: list[tuple[Bits, int]], *, block: int = 1024) -> npt.NDArray[np.intp]:
    """Index pairs (P, 2), first < second, that are near-duplicates by at least one hash."""
    found = []
    for start in range(0, len(hashes[0][0]), block):
        near: Bits | bool = False
        for bits, limit in hashes:
            ones = bits[start:].astype(np.float32)
            set_bits = ones.sum(axis=1)
            near |= set_bits[:block, None] + set_bits - 2 * (ones[:block] @ ones.T) <= limit
        found.append(np.argwhere(np.triu(near, k=1)) + start)
    return np.concatenate(found)


def divide(sha256s: list[str], pairs: npt.NDArray[np.intp]) -> dict[str, tuple[str, str]]:
    """Group id and split of each picture, from its near-duplicate pairs (P, 2).

    A group is a connected component, its id the first 16 digits of its smallest sha256; the sha256 of that smallest
    one, read as a number in [0, 1), draws the split, so that it depends on nothing but the group's content.
    """
    edges = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(sha256s), len(sha256s)))
    _, components = connected_components(edges, directed=False)
    groups: dict[int, list[str]] = {}
    for component, sha256 in zip(components, sha256s, strict=True):
        groups.setdefault(component, []).append(sha256)
    divided: dict[str, tuple[str, str]] = {}
    for members in groups.values():
        draw = int(hashlib.sha256(min(members).encode()).hexdigest(), 16) / 2**256
        split = "test" if draw < TEST_FRACTION and len(members) <= LARGEST_TEST_GROUP else "train"
        divided |= dict.fromkeys(members, (min(members)[:16], split))
    return divided


def build(packages: Path, output: Path) -> None:
    """Write the parquet from a folder with the packages' `png` and `svg` trees. Raises FileNotFoundError."""
    pngs = {png.relative_to(packages / "png").with_suffix("").as_posix(): png for png in packages.glob("png/**/*.png")}
    svgs = {name: (packages / "svg" / f"{name}.svg").read_bytes() for name in pngs if not GENERATED.match(name)}
    ids = sorted(name for name, svg in svgs.items() if not OTHER_LICENCE.search(svg))
    if not ids:
        raise FileNotFoundError(f"{packages}/png holds no PNG; extract both Debian packages first")
    Image.MAX_IMAGE_PIXELS = MAX_PNG_PIXELS
    images = [encode(render(pngs[name])) for name in ids]
    words = [read_words(svgs[name]) for name in ids]
    sha256s = [hashlib.sha256(image).hexdigest() for image in images]
    pictures = {sha256: decode(image) for sha256, image in zip(sha256s, images, strict=True)}
    divided = divide(list(pictures), near_pairs(hash_pictures(list(pictures.values()))))
    columns = {
        "id": ids,
        "image": images,
        "sha256": sha256s,
        "category": [name.rpartition("/")[0] for name in ids],
        "group": [divided[sha256][0] for sha256 in sha256s],
        "split": [divided[sha256][1] for sha256 in sha256s],
    } | {field: [getattr(word, field) for word in words] for field in Words._fields}
    table = pa.table({name: columns[name] for name in COLUMNS}, schema=SCHEMA)
    # One dictionary for all images: a picture that stands in two folders is stored once.
    pq.write_table(table, output, compression="zstd", dictionary_pagesize_limit=2 * MAX_FILE_BYTES)


def check(path: Path) -> list[str]:
    """What is wrong with a built parquet, from that file alone: empty if nothing is."""
    table = pq.read_table(path)
    if table.schema != SCHEMA:
        return [f"columns are {table.schema}, not {SCHEMA}"]
    rows = table.to_pydict()
    pictures = {sha256: decode(image) for sha256, image in zip(rows["sha256"], rows["image"], strict=True)}
    pairs = near_pairs(hash_pictures(list(pictures.values())))
    divided = divide(list(pictures), pairs)
    sides = {(pictures[sha256].tobytes(), split) for sha256, split in zip(rows["sha256"], rows["split"], strict=True)}
    split_of = dict(zip(rows["sha256"], rows["split"], strict=True))
    splits = np.array([split_of[sha256] for sha256 in pictures])
    straddling = int((splits[pairs[:, 0]] != splits[pairs[:, 1]]).sum())
    groups_and_splits = list(zip(rows["group"], rows["split"], strict=True))
    facts = {
        f"the file has at most {MAX_FILE_BYTES} bytes": path.stat().st_size <= MAX_FILE_BYTES,
        "ids are unique and sorted": rows["id"] == sorted(set(rows["id"])),
        "sha256 is that of the image": rows["sha256"] == [hashlib.sha256(image).hexdigest() for image in rows["image"]],
        f"pictures have {SIDE} x {SIDE} pixels": {pixels.shape for pixels in pictures.values()} == {(SIDE, SIDE, 3)},
        "equal pictures are on one side": len(sides) == len({pixels for pixels, _ in sides}),
        f"near-duplicates are on one side ({straddling} of {len(pairs)} pairs are not)": straddling == 0,
        "groups and splits follow from the pictures": groups_and_splits == [divided[x] for x in rows["sha256"]],
    }
    return [f"not true: {fact}" for fact, holds in facts.items() if not holds]


def main() -> int:
    """Command line. Exit status 1 if a check fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, help="folder with the packages' png and svg trees; builds from it")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="the parquet (default: beside this script)")
    parser.add_argument("--check", action="store_true", help="check the parquet, built now or before")
    arguments = parser.parse_args()
    if not (arguments.packages or arguments.check):
        parser.error("give --packages to build, --check to check, or both")
    if arguments.packages:
        build(arguments.packages, arguments.output)
    rows = pq.read_table(arguments.output, columns=["sha256", "group", "split"]).to_pydict()
    counts = [f"{len(set(rows[name]))} {name}s" for name in ("sha256", "group")]
    counts += [f"{rows['split'].count(name)} {name} rows" for name in ("train", "test")]
    print(f"{arguments.output}: {arguments.output.stat().st_size} bytes,", ", ".join(counts))
    problems = check(arguments.output) if arguments.check else []
    print(*problems, sep="\n", end="\n" if problems else "")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
