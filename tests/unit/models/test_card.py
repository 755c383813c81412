from __future__ import annotations

import json

import yaml

from pipeline_steps.models.card import CardFacts, ScoreLine, model_card

REPORT = {"rows": 4530, "pairs": 3963, "splits": {"train": 3625, "validation": 338},
          "noise": {"fraction": 0.3, "chosen_pairs": 1088, "noisy_pairs": 1081}}  # fmt: skip
SETTINGS = {"model": {"architecture": "config/models/a.json"}, "unlearn": {"gamma": 0.7}}
FACTS = CardFacts(
    method_title="NCU",
    seed=3,
    architecture="a",
    model_cfg={"vision_cfg": {}},
    settings=SETTINGS,
    report=REPORT,
    provenance={"source": "w.pt", "sha256": "ab" * 32},
    scores=[
        ScoreLine("Zero-shot classification", "openclipart", "test", 6250, "top-1", 0.3021, 0.125, own=True),
        ScoreLine("Retrieval", "openclipart", "test", 1532, "mean recall", 0.09, 0.005),
    ],
    missing={"cars": "the link is dead"},
)


def test_the_card_tells_every_fact() -> None:
    card = model_card(FACTS)
    for wanted in (
        "# NCU, a, seed 3",
        "- pairs kept: 3,963",
        "- train pairs: 3,625",
        "captions of 30% of the training pairs",
        "1,081 pairs have another pair's caption",
        f"- reference: imported; source `w.pt`, sha256 `{'ab' * 32}`",
        "| Zero-shot classification | openclipart | test | 6,250 | top-1 * | 30.2 | 12.5 |",
        "| Retrieval | openclipart | test | 1,532 | mean recall | 9.0 | 0.5 |",
        "the measure that the set is known by",
        "Not evaluated on cars: the link is dead",
        'create_model_and_transforms("local-dir:',
        "## Licence",
    ):
        assert wanted in card
    assert json.loads(card.split("```json\n")[1].split("```")[0]) == SETTINGS
    assert "laclip" not in card


def test_the_header_is_yaml_that_the_hub_reads() -> None:
    header = yaml.safe_load(model_card(FACTS).split("---")[1])
    assert header["library_name"] == "open_clip"
    assert header["pipeline_tag"] == "zero-shot-image-classification"


def test_what_is_not_known_is_said() -> None:
    card = model_card(CardFacts("CLIP (reference)", 0, "a", {}, {}))
    assert "without build_manifest's report" in card
    assert "without scores" in card
    assert "trained here from scratch (step train_reference)" in card


def test_no_noise_is_said() -> None:
    card = model_card(CardFacts("NCU", 0, "a", {}, {}, report=REPORT | {"noise": {"fraction": 0.0}}))
    assert "- injected noise: none" in card


def test_a_laclip_tower_needs_its_import_and_the_card_says_so() -> None:
    config = {"vision_cfg": {"timm_model_name": "laclip_vit_base_patch16_224"}}
    card = model_card(CardFacts("NCU", 0, "laclip_vitb16", config, {}))
    order = ["import open_clip", "import pipeline_steps.models.laclip", "create_model"]
    assert sorted(order, key=card.index) == order


def test_the_card_names_what_the_pairs_came_from_and_no_folder_of_the_machine() -> None:
    for settings, words in (
        ({"build_manifest": {"source_csv": "/home/me/data/pairs.csv"}}, "- source: `pairs.csv`"),
        ({"build_manifest": {"source_shards": "/data/cc3m-wds"}}, "- source: `cc3m-wds`"),
        ({"build_manifest": {"source_csv": None, "source_scan": "/data/mscoco"}}, "- source: `mscoco`"),
        ({"download_images": {"url_list": "/data/cc12m.tsv"}}, "- source: downloaded from the list `cc12m.tsv`"),
        ({"download_images": {"embedded_parquet": "resources/a/openclipart.parquet"}}, "own pictures, `openclipart`"),
        ({}, "- source: not recorded"),
    ):
        pairs = model_card(CardFacts("NCU", 0, "a", {}, settings)).split("## Training pairs")[1].split("## Method")[0]
        assert words in pairs
        assert "/home" not in pairs
