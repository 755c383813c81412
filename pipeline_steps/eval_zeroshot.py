"""Zero-shot classification of one checkpoint's test features."""

from __future__ import annotations

import sys

from pipeline_steps.core.step import Step, StepContext


def run(context: StepContext) -> None:
    """Write scores and predictions, and log the scores."""
    from threadpoolctl import threadpool_limits

    from pipeline_steps.core.schema import EvalZeroshotConfig
    from pipeline_steps.evaluation.features.index import Features
    from pipeline_steps.evaluation.scores import holes_of, mlflow_names, without_holes
    from pipeline_steps.evaluation.zero_shot import evaluate_zero_shot

    settings = context.section("eval_zeroshot", EvalZeroshotConfig)
    with threadpool_limits(context.threads or None):
        evaluation = evaluate_zero_shot(Features(context.paths["features"]), topk=settings.topk)
    evaluation.write(context.paths["scores"], context.paths["predictions"])
    context.run.log_scores(mlflow_names("zero_shot", evaluation.scores))
    context.run.log_file(context.paths["scores"])
    for dataset, scores in without_holes(evaluation.scores).items():
        context.log.info("%s: top-1 %.1f%% of %d pictures", dataset, 100 * float(scores["top1"]), scores["n"])
    for dataset, line in holes_of(evaluation.scores).items():
        context.log.warning("%s has no score: %s", dataset, line)


STEP = Step(
    name="eval_zeroshot",
    summary="Top-k and mean per-class accuracy of zero-shot classification.",
    sections=("eval_zeroshot",),
    inputs={"features": "features.json of extract_features"},
    outputs={
        "scores": "JSON: data set to measures, fractions in [0, 1]",
        "predictions": "parquet: dataset, row, label, prediction, rank of the true class",
    },
    run=run,
)

if __name__ == "__main__":
    sys.exit(STEP.main())
