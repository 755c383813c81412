"""Image-text retrieval with one checkpoint's test features."""

from __future__ import annotations

import sys

from pipeline_steps.core.step import Step, StepContext


def run(context: StepContext) -> None:
    """Write scores and ranks, and log the scores."""
    from threadpoolctl import threadpool_limits

    from pipeline_steps.core.schema import EvalRetrievalConfig
    from pipeline_steps.evaluation.features.index import Features
    from pipeline_steps.evaluation.retrieval import evaluate_retrieval
    from pipeline_steps.evaluation.scores import holes_of, mlflow_names, without_holes

    settings = context.section("eval_retrieval", EvalRetrievalConfig)
    with threadpool_limits(context.threads or None):
        evaluation = evaluate_retrieval(Features(context.paths["features"]), recall_at=settings.recall_at)
    evaluation.write(context.paths["scores"], context.paths["ranks"])
    context.run.log_scores(mlflow_names("retrieval", evaluation.scores))
    context.run.log_file(context.paths["scores"])
    for dataset, scores in without_holes(evaluation.scores).items():
        mean_recall = 100 * float(scores["mean_recall"])
        context.log.info("%s: mean recall %.1f%% over %d pictures", dataset, mean_recall, scores["n_images"])
    for dataset, line in holes_of(evaluation.scores).items():
        context.log.warning("%s has no score: %s", dataset, line)


STEP = Step(
    name="eval_retrieval",
    summary="Recall@k from image to text and from text to image.",
    sections=("eval_retrieval",),
    inputs={"features": "features.json of extract_features"},
    outputs={
        "scores": "JSON: data set to measures, fractions in [0, 1]",
        "ranks": "parquet: dataset, direction, query, image, rank",
    },
    run=run,
)

if __name__ == "__main__":
    sys.exit(STEP.main())
