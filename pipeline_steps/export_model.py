"""Write a trained model as a folder to hand on: the checkpoint that open_clip loads, with a model card."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline_steps.core.files import read_json, require_free_disk, whole_folder
from pipeline_steps.core.methods import METHODS
from pipeline_steps.core.step import Step, StepContext

if TYPE_CHECKING:
    from pipeline_steps.evaluation.scores import Scores
    from pipeline_steps.models.card import CardFacts, ScoreLine
    from pipeline_steps.models.clip import ClipBundle

EVALUATIONS = {"zeroshot": "Zero-shot classification", "probe": "Linear probe", "retrieval": "Retrieval"}
OWN_MEASURE = {"accuracy": ("accuracy", "top1"), "mean_per_class": ("mean_per_class",)}  # of a set's metric
ALWAYS = ("download_images", "build_manifest", "model", "import_reference", "train_reference")
OF_NCU, OF_NPC = ("learn_prompt", "unlearn", "train_baseline"), ("build_memory_bank", "train_npc")


def run(context: StepContext) -> None:
    """Load the checkpoint strictly, copy its files, write the card beside them: all or nothing."""
    from pipeline_steps.models.card import model_card
    from pipeline_steps.models.clip import load_clip

    checkpoint = context.paths["checkpoint"]
    bundle = load_clip(checkpoint)
    members = [path for path in sorted(checkpoint.iterdir()) if path.is_file() and not path.name.startswith(".")]
    require_free_disk(context.paths["model"].parent, sum(path.stat().st_size for path in members))
    card = model_card(_facts(context, bundle))
    with whole_folder(context.paths["model"]) as partial:
        for path in members:
            shutil.copyfile(path, partial / path.name)
        (partial / "README.md").write_text(card, encoding="utf-8")
    context.run.log_text(card, "README.md")


def _facts(context: StepContext, bundle: ClipBundle) -> CardFacts:
    from pipeline_steps.core.schema import ModelConfig
    from pipeline_steps.evaluation.scores import holes_of, without_holes
    from pipeline_steps.models.card import CardFacts
    from pipeline_steps.reporting.names import title_of

    sections = (*ALWAYS, *(OF_NPC if METHODS[context.method].stage == "train_npc" else OF_NCU))
    found = {name: _json(context.paths[name]) for name in EVALUATIONS if name in context.paths}
    return CardFacts(
        method_title=title_of(context.method),
        seed=context.seed,
        architecture=Path(context.section("model", ModelConfig).architecture).stem,
        model_cfg=bundle.model_cfg,
        settings={name: context.raw_settings[name] for name in sections},
        report=_json(context.paths["report"]) if "report" in context.paths else {},
        provenance=bundle.provenance,
        scores=[line for name, scores in found.items() for line in _lines(name, without_holes(scores))],
        missing={name: line for scores in found.values() for name, line in holes_of(scores).items()},
    )


def _lines(evaluation: str, scores: Scores) -> list[ScoreLine]:
    from pipeline_steps.evaluation.scores import CHANCE, measures
    from pipeline_steps.models.card import ScoreLine
    from pipeline_steps.reporting.names import measure_title

    return [
        ScoreLine(
            EVALUATIONS[evaluation], dataset, str(of_set["split"]), int(of_set["n"]), measure_title(measure), value,
            float(of_set[f"{CHANCE}{measure}"]), measure in OWN_MEASURE.get(str(of_set["metric"]), ()),
        )
        for dataset, of_set in scores.items()
        for measure, value in sorted(measures(of_set).items(), key=lambda item: _natural(item[0]))
    ]  # fmt: skip


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that puts recall@5 before recall@10."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]


def _json(path: Path) -> dict[str, Any]:
    return read_json(path, dict[str, Any], "Run the stage that writes it again.")


STEP = Step(
    name="export_model",
    summary="Write a trained model as a folder to hand on: the checkpoint, with a model card.",
    sections=(*ALWAYS, *OF_NCU, *OF_NPC),
    inputs={
        "checkpoint": "checkpoint folder of a training step",
        "zeroshot": "optional: scores.json of eval_zeroshot",
        "probe": "optional: scores.json of eval_probe",
        "retrieval": "optional: scores.json of eval_retrieval",
        "report": "optional: report.json of build_manifest",
    },
    outputs={"model": "folder that open_clip loads, with README.md, the model card"},
    run=run,
)

if __name__ == "__main__":
    sys.exit(STEP.main())
