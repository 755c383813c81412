"""Linear probe on one checkpoint's features."""

from __future__ import annotations

import logging
import sys

from pipeline_steps.core.step import Step, StepContext


def run(context: StepContext) -> None:
    """Write scores and predictions, log the scores, and warn of holes and of a probe that did not converge."""
    import torch

    from pipeline_steps.core.schema import EvalProbeConfig
    from pipeline_steps.evaluation.features.index import Features
    from pipeline_steps.evaluation.linear_probe import evaluate_probe
    from pipeline_steps.evaluation.scores import holes_of, mlflow_names, without_holes

    settings = context.section("eval_probe", EvalProbeConfig)
    if context.threads:
        torch.set_num_threads(context.threads)
    evaluation = evaluate_probe(Features(context.paths["features"]), settings, seed=context.seed)
    evaluation.write(context.paths["scores"], context.paths["predictions"])
    scored = without_holes(evaluation.scores)
    context.run.log_scores(mlflow_names("linear_probe", scored))
    context.run.log_file(context.paths["scores"])
    for dataset, line in holes_of(evaluation.scores).items():
        context.log.warning("%s has no score: %s", dataset, line)
    for dataset, scores in scored.items():
        accuracy, inverse_l2 = 100 * float(scores["accuracy"]), scores["inverse_l2"]
        context.log.info("%s: probe accuracy %.1f%% with inverse_l2 %s", dataset, accuracy, inverse_l2)
        if not scores["converged"] or scores["sweep_unconverged"]:
            context.log.log(
                logging.INFO if scores["converged"] else logging.WARNING,
                "%s: L-BFGS stopped before it converged, after %d iterations: %s of the fits that choose the "
                "strength, and the final one (inverse_l2 = %s) %s. Raise eval_probe.max_iterations, or lower "
                "eval_probe.inverse_l2.highest.",
                dataset, settings.max_iterations, scores["sweep_unconverged"], inverse_l2,
                "did converge" if scores["converged"] else "did not",
            )  # fmt: skip


STEP = Step(
    name="eval_probe",
    summary="Accuracy of a linear probe (logistic regression by L-BFGS).",
    sections=("eval_probe",),
    inputs={"features": "features.json of extract_features"},
    outputs={
        "scores": "JSON: data set to measures, fractions in [0, 1]",
        "predictions": "parquet: dataset, row, label, prediction, rank of the true class",
    },
    run=run,
)

if __name__ == "__main__":
    sys.exit(STEP.main())
