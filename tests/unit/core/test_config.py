from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from pipeline_steps.core.config import (
    ConfigError,
    load_config,
    load_section,
    merged,
    read_yaml,
    resolve,
    settings_json,
)
from pipeline_steps.core.schema import UnlearnConfig

CONFIG = Path("config")


def _default() -> dict[str, Any]:
    return resolve(read_yaml([CONFIG / "config.yaml"]))


@pytest.mark.parametrize(
    "name",
    sorted(
        str(path.relative_to(CONFIG))
        for path in CONFIG.rglob("*.yaml")
        if path.name not in ("datasets.yaml", "methods.yaml")
    ),
)
def test_every_configuration_of_the_project_is_valid_over_the_default(name: str) -> None:
    config = load_config(read_yaml([CONFIG / "config.yaml", CONFIG / name]))
    assert config.seeds


def test_all_errors_come_at_once_with_key_value_and_what_is_allowed() -> None:
    raw = _default()
    raw["unlearn"]["gama"] = 0.5
    raw["unlearn"]["gamma"] = 1.5
    raw["train_reference"]["training"]["epochs"] = "many"
    raw["learn_prompt"]["separation"] = {"alpha": -0.1, "beta": -0.2}
    raw["methods"] = ["ncu", "ncu", "magic"]
    raw["eval_zero_shot"] = {}
    del raw["eval_probe"]["max_iterations"]
    with pytest.raises(ConfigError) as caught:
        load_config(raw)
    text = str(caught.value)
    for expected in (
        "unlearn.gama = 0.5: unknown key; did you mean `gamma`? allowed here: ",
        "unlearn.gamma = 1.5: allowed is a number at least 0 and at most 1",
        "train_reference.training.epochs = 'many': allowed is a whole number at least 0",
        "learn_prompt.separation: alpha (-0.1) must be below beta (-0.2)",
        "methods: ncu more than once",
        "methods: 'magic' is not a method; allowed: continued, gradient_ascent, softclip, filter_continue, ncu, ncu_v1",
        "eval_zero_shot = {}: unknown key; did you mean `eval_zeroshot`?",
        "eval_probe.max_iterations: this key is missing",
    ):
        assert expected in text
    assert len(caught.value.problems) == 8


def test_an_empty_forget_set_is_an_impossible_combination() -> None:
    raw = _default()
    raw["unlearn"]["forget_set"]["fraction"] = 0.001
    with pytest.raises(ConfigError, match="less than one pair.*allowed: a fraction of at least 0.00391"):
        load_config(raw)


@pytest.mark.parametrize(
    ("dotted", "value", "words"),
    [
        ("train_baseline.forget_set.fraction", 0.001, "train_baseline.forget_set.fraction = 0.001 of unlearn"),
        (
            "prepare_dataset.datasets",
            ["imagenet"],
            "'imagenet' is no row of config/datasets.yaml; allowed: openclipart",
        ),
        ("prepare_dataset.table", "config/none.yaml", "prepare_dataset.table: config/none.yaml: No such file"),
        ("eval_probe.tap", "penultimate", "is not among extract_features.taps = ['projected']; add it there"),
        ("extract_features.taps", ["projected", "projected"], "extract_features.taps"),
        ("make_tables.averages", {"All": ["openclipart", "dtd"]}, "averages.All: dtd is not evaluated; allowed: openc"),
        ("unlearn.training.freeze.text_blocks", 3, "has 2 blocks; allowed: 0 to 2"),
        ("learn_prompt.prompt_vectors", 30, "allowed: at most 29"),
        ("model.architecture", "config/models/absent.json", "there is no such file"),
        ("download_images.slow_seconds", 1, "nothing would be slow"),
        ("download_images.embedded_split", "test", "allowed is 'train'"),
        ("seeds", [2**32], "below 4294967296"),
        ("prepare_dataset.datasets", ["openclipart", "openclipart"], "each may be named once"),
        ("unlearn.training.lr", True, "unlearn.training.lr = True: allowed is a number"),
        ("unlearn.training.schedule_offset_epochs", 99, "schedule_offset_epochs = 99 is not below the"),
        (
            "eval_probe.inverse_l2.highest",
            1e300,
            "eval_probe.inverse_l2.highest = 1e+300: allowed is a number at least",
        ),
        ("experiment", "mlartifacts", "experiment = 'mlartifacts': allowed is a name of letters"),
        ("experiment", "../x", "experiment = '../x': allowed is a name of letters"),
        ("results_dir", "a{b}", "results_dir = 'a{b}': allowed is a path without braces"),
        ("results_dir", "a?b", "results_dir = 'a?b': allowed is a path without braces, backslash, ? and *"),
        ("results_dir", "a\nb", "allowed is a path without braces"),
        ("preset", ["ours"], "preset = ['ours']: allowed is one of ours"),
        ("tracking.uri", "half \ud800", "tracking.uri = 'half"),
    ],
)
def test_what_would_fail_late_is_refused_early(dotted: str, value: object, words: str) -> None:
    raw = _default()
    *parents, last = dotted.split(".")
    section: Any = raw
    for part in parents:
        section = section[part]
    section[last] = value
    with pytest.raises(ConfigError) as caught:
        load_config(raw)
    assert words in str(caught.value)
    assert len(caught.value.problems) == 1


def test_the_rows_of_the_sets_in_use_are_checked_and_no_others(tmp_path: Path) -> None:
    table = tmp_path / "sets.yaml"
    table.write_text("mine: {title: Mine, sources: [{kind: ncu, foldr: x}]}\nother: {}\n")
    raw = _default()
    raw["prepare_dataset"] |= {"table": str(table), "datasets": ["mine"]}
    with pytest.raises(ConfigError) as caught:
        load_config(raw)
    text = str(caught.value)
    for expected in (f"{table}: mine.tasks: this key is missing", "did you mean `folder`?"):
        assert expected in text
    assert "other" not in text


def test_more_top_k_than_a_set_has_classes_is_no_error() -> None:
    raw = _default()
    raw["eval_zeroshot"]["topk"] = [1, 500]
    assert load_config(raw).eval_zeroshot.topk == (1, 500)


def test_two_sources_of_pairs_are_an_impossible_combination() -> None:
    raw = _default()
    raw["build_manifest"]["source_csv"] = "mine.csv"
    raw["download_images"]["url_list"] = "urls.tsv"
    with pytest.raises(ConfigError, match="are set together"):
        load_config(raw)


@pytest.mark.parametrize("written", ["1e-4", "0.0001", "1.0e-4"])
def test_a_number_means_the_same_however_it_is_written(tmp_path: Path, written: str) -> None:
    extra = tmp_path / "extra.yaml"
    extra.write_text(f"unlearn: {{training: {{lr: {written}}}}}\n")
    merged = load_config(read_yaml([CONFIG / "config.yaml", extra]))
    assert merged.unlearn.training.lr == 1e-4
    reference = _default()
    reference["unlearn"]["training"]["lr"] = 0.0001
    assert settings_json(merged, "unlearn") == settings_json(load_config(reference), "unlearn")


def test_settings_hold_the_named_sections_alone_and_load_back() -> None:
    config = load_config(_default())
    settings = json.loads(settings_json(config, "unlearn", "learn_prompt.training"))
    assert settings.keys() == {"unlearn", "learn_prompt"}
    assert settings["learn_prompt"].keys() == {"training"}
    assert load_section(settings, "unlearn", UnlearnConfig) == config.unlearn


def test_a_later_file_changes_only_its_keys(tmp_path: Path) -> None:
    extra = tmp_path / "extra.yaml"
    extra.write_text("unlearn: {gamma: 0.1}\n")
    merged, default = resolve(read_yaml([CONFIG / "config.yaml", extra])), _default()
    assert merged["unlearn"]["gamma"] == 0.1
    expected = copy.deepcopy(default)
    expected["unlearn"]["gamma"] = 0.1
    assert merged == expected


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing.yaml: No such file"):
        read_yaml([tmp_path / "nothing.yaml"])
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1, 2\n")
    with pytest.raises(ConfigError, match="broken.yaml is not YAML"):
        read_yaml([broken])
    broken.write_text("- 1\n")
    with pytest.raises(ConfigError, match="holds a list; a mapping of sections is wanted"):
        read_yaml([broken])


def test_keys_that_stand_twice_are_all_refused_wherever_they_stand(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("unlearn: {gamma: 0.3}\nlist:\n  - {1: 1, '1': 1, a: 1, a: 1}\nunlearn: {training: {epochs: 2}}\n")
    with pytest.raises(ConfigError) as caught:
        read_yaml([path])
    first, second = sorted(caught.value.problems)
    assert first.startswith(f"{path}: list.a stands in line 3 and again in line 3")
    assert second.startswith(f"{path}: unlearn stands in line 1 and again in line 4")


def test_anchors_and_merge_keys_are_no_second_keys(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("a: &a {x: 1, y: 2}\nb: &b {z: 3}\nc:\n  <<: *a\n  <<: *b\n  x: 4\n")
    assert read_yaml([path])["c"] == {"x": 4, "y": 2, "z": 3}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("a: Müller\n".encode("latin-1"), r"is not UTF-8 \(byte 0xfc at 4\); save it in that encoding"),
        (b"a: " + 100_000 * b"[", "has more than 50 levels"),
        (b"a:\x00 1\n", "is not YAML: unacceptable character"),
        (b"a: 2024-13-45\n", "is not YAML: month must be in 1..12"),
    ],
)
def test_what_no_configuration_can_be_is_told_as_such(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=told):
        read_yaml([path])


def test_a_missing_section_is_named() -> None:
    with pytest.raises(ConfigError, match="unlearn: this section is missing"):
        load_section({}, "unlearn", UnlearnConfig)


def test_a_prompt_that_phase_1_does_not_make_is_told_before_any_job() -> None:
    raw = _default()
    raw["learn_prompt"]["negative_text"]["source"] = "prefix"
    with pytest.raises(ConfigError, match=r"learn_prompt.negative_text.source = 'prefix' makes none"):
        load_config(raw)


def test_a_preset_is_a_column_under_the_users_keys_and_a_methods_row_goes_over_both() -> None:
    raw = read_yaml([CONFIG / "config.yaml"]) | {"preset": "paper"}
    raw["unlearn"] = {**raw["unlearn"], "loss_reduction": "mean"}
    config = load_config(raw)
    assert (config.unlearn.mix_order, config.unlearn.loss_reduction) == ("paper", "mean")
    assert config.unlearn.training.epochs == 8
    assert load_config(raw, "ncu_no_transport").unlearn.gamma == 0
    assert load_config(raw).unlearn.gamma == 0.7
    with pytest.raises(ConfigError, match=r"preset = 'papper': allowed is one of ours, paper, official"):
        load_config(raw | {"preset": "papper"})


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"methods": ["clipcleaner"]}, "clipcleaner stands under `classifiers`"),
        (
            {"classifiers": ["true_labels"], "inject_label_noise": {"dataset": "openclipart", "kind": "own"}},
            "true_labels needs the truth, which inject_label_noise.kind = 'own' does not have",
        ),
        ({"classifiers": ["npc"], "inject_label_noise": {"dataset": "openclipart"}}, "npc stands under `methods`"),
        ({"classifiers": ["clipcleaner"]}, "classifiers need one of prepare_dataset.datasets; allowed: openclipart"),
        (
            {
                "classifiers": ["clipcleaner"], "inject_label_noise": {"dataset": "flickr30k"},
                "prepare_dataset": {"datasets": ["openclipart", "flickr30k"]},
            },
            "inject_label_noise.dataset = 'flickr30k': classifiers need a set for classification with a train split",
        ),
    ],
)  # fmt: skip
def test_classifiers_and_methods_stand_under_their_own_key(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(merged(read_yaml([CONFIG / "config.yaml"]), changes))
    assert told in str(error.value)


def test_a_password_is_refused_and_not_shown() -> None:
    raw = _default()
    raw["tracking"]["uri"] = "http://me:S3CRET@127.0.0.1:1"
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_PASSWORD") as caught:
        load_config(raw)
    assert "S3CRET" not in str(caught.value)


def test_a_configuration_without_the_projects_own_file_says_where_to_run() -> None:
    with pytest.raises(
        ConfigError, match="preset: this key is missing, and with it all of config/config.yaml.*Run from"
    ):
        load_config({"experiment": "mine"})
