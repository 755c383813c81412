"""Linear probe on one checkpoint's features."""

from __future__ import annotations

import sys

from threadpoolctl import threadpool_limits

from pipeline_steps.core.schema import EvalProbeConfig
from pipeline_steps.core.step import Step, StepContext
from pipeline_steps.evaluation.feature_file import FeatureFile
from pipeline_steps.evaluation.linear_probe import evaluate_probe
from pipeline_steps.evaluation.scores import mlflow_names


def run(context: StepContext) -> None:
    """Write scores and predictions, log the scores, and warn of a probe that did not converge."""
    settings = context.section("eval_probe", EvalProbeConfig)
    with threadpool_limits(context.threads or None):
        evaluation = evaluate_probe(FeatureFile(context.paths["features"]), settings, seed=context.seed)
    evaluation.write(context.paths["scores"], context.paths["predictions"])
    context.run.log_scores(mlflow_names("linear_probe", evaluation.scores))
    context.run.log_file(context.paths["scores"])
    for dataset, scores in evaluation.scores.items():
        accuracy, inverse_l2 = 100 * float(scores["accuracy"]), scores["inverse_l2"]
        context.log.info("%s: probe accuracy %.1f%% with inverse_l2 %s", dataset, accuracy, inverse_l2)
        if not scores["converged"]:
            context.log.warning(
                "%s: L-BFGS stopped before it converged (inverse_l2 = %s, %d iterations). Raise "
                "eval_probe.max_iterations, or take the largest values out of eval_probe.inverse_l2.",
                dataset, inverse_l2, settings.max_iterations,
            )  # fmt: skip


STEP = Step(
    name="eval_probe",
    summary="Accuracy of a linear probe (logistic regression by L-BFGS).",
    sections=("eval_probe",),
    inputs={"features": "features.safetensors of extract_features"},
    outputs={
        "scores": "JSON: data set to measures, fractions in [0, 1]",
        "predictions": "parquet: dataset, row, label, prediction",
    },
    run=run,
)

if __name__ == "__main__":
    sys.exit(STEP.main())
