# The configuration, checked, and the path grammar: <results_dir>/<experiment>/<stage>[/<method>/seed<seed>]/...
# A study runs several experiments, and there {experiment} is a wildcard.
import functools
import json
from pathlib import Path

from pipeline_steps.core.config import load_config, read_yaml, settings_json
from pipeline_steps.core.cost import counted
from pipeline_steps.core.follower import Follower
from pipeline_steps.core.interrupt import end_steps_on_interrupt
from pipeline_steps.core.methods import METHODS, REFERENCE
from pipeline_steps.core.process import set_for_children
from pipeline_steps.core.study import experiments_of

read_yaml(map(Path, workflow.configfiles))  # Snakemake's own reading keeps the last of two equal keys
CFG = load_config(config)
EXPERIMENTS = experiments_of(config)
if CFG.model.architecture.endswith(".json") and workflow.is_main_process:
    counted(CFG.model.architecture)  # a model of one's own that open_clip cannot build is told before its data are made
STUDY = CFG.compare_experiments.over is not None
SHARED_ROOT = f"{CFG.results_dir}/{CFG.experiment}"  # what the experiments of a study have in common
followers = []  # what tells MLflow of the runs of this invocation
ROOT = f"{CFG.results_dir}/{{experiment}}" if STUDY else SHARED_ROOT
# A reference alone has two threads; of several, each is trained beside another.
REFERENCE_THREADS = 2 if len(EXPERIMENTS) * len(CFG.seeds) == 1 else 1
CELL = "{method}/seed{seed}"
EVALUATIONS = ("eval_zeroshot", "eval_probe", "eval_retrieval")
ROWS = (REFERENCE, *CFG.methods)
# Where pairs come from, by the option of build_manifest, when they are not downloaded.
OWN_PAIRS = {
    option: path
    for option, path in (
        ("csv", CFG.build_manifest.source_csv),
        ("shards", CFG.build_manifest.source_shards),
        ("scan", CFG.build_manifest.source_scan),
    )
    if path
}

# A URL list is downloaded by one job, or by several and brought together by another.
SCATTERED = CFG.download_images.jobs > 1
PART = "download_images/parts/{scatteritem}" if SCATTERED else "download_images"

# Every job finds the package and the results folder, wherever Snakemake runs it: by the environment, which no shell parses.
set_for_children(str(workflow.basedir), CFG.results_dir)
# `launch nodes N threads module ...` starts a step in one process, in N that train together, or in N on each of several
# machines of a Slurm job; a profile's set-resources says how many. The shell becomes the step, so that a signal ends nothing around it while it writes its state.
shell.prefix(
    "export PIPELINE_RUNS_FOLLOWED=1 TORCH_ELASTIC_SHUTDOWN_TIMEOUT=300; "
    "launch() {{ local nodes=$1 processes=$2 threads=$3; shift 3; "
    'if [ "$nodes" -gt 1 ]; then exec srun --nodes "$nodes" --ntasks-per-node 1 --cpus-per-task "$threads" '
    '--wait 300 torchrun --nnodes "$nodes" --nproc-per-node "$processes" --rdzv-backend c10d '
    '--rdzv-endpoint "$(hostname):$((20000 + SLURM_JOB_ID % 20000))" --rdzv-id "$SLURM_JOB_ID" -m "$@"; '
    'elif [ "$processes" -gt 1 ]; then exec torchrun --standalone --nproc-per-node "$processes" -m "$@"; '
    'else exec python -m "$@"; fi; }}; '
)


@functools.cache
def method_config(method, experiment=None):
    """The configuration as a method of an experiment has it; without an experiment, the study's own."""
    return load_config(EXPERIMENTS.get(experiment, config), method)


def config_of(wildcards):
    """The configuration of a job."""
    return method_config(wildcards.get("method"), wildcards.get("experiment"))


def settings(*sections):
    """The sections of a step as canonical JSON: an edited key reruns the step, a comment does not.

    (As a function of the wildcards, so that Snakemake does not take braces in it for wildcards.)
    """
    return lambda wildcards: settings_json(config_of(wildcards), "experiment", *sections)


def part_settings(wildcards):
    """The settings of a download; of a part without how many pictures are enough, which is judged of all together."""
    found = json.loads(settings("download_images")(wildcards))
    if SCATTERED:
        found["download_images"]["min_success_fraction"] = 0.0
    return json.dumps(found, sort_keys=True)


def architecture(wildcards):
    """The content of a model's JSON file, so that an edited layer count reruns what was trained with the old one."""
    path = Path(CFG.model.architecture)
    return json.dumps(json.loads(path.read_text()), sort_keys=True) if path.suffix == ".json" else ""


@functools.cache
def dataset_table():
    """The rows of all evaluation sets."""
    return read_yaml([Path(CFG.prepare_dataset.table)])


def dataset_row(wildcards):
    """A set's row, so that an edited one makes the set again."""
    return json.dumps(dataset_table()[wildcards.dataset], sort_keys=True)


def dataset_settings(wildcards):
    """The settings of one evaluation set. Experiments share it, so they are the same in all of them."""
    section = {"table": CFG.prepare_dataset.table, "datasets": [wildcards.dataset], "root": CFG.prepare_dataset.root}
    return json.dumps({"experiment": "datasets", "prepare_dataset": section}, sort_keys=True)


def dataset_files(wildcards):
    """The files on this machine that a set's row names; one that has changed or come since makes the set again."""
    row = dataset_table()[wildcards.dataset]
    named = {
        Path(text.replace("{root}", CFG.prepare_dataset.root).replace("{split}", split))
        for source in row["sources"]
        for split in source["splits"].values()
        for text in texts_in(source)
    }
    within = {path / name for path in named for name in ("labels.csv", "classes.py")}
    return sorted(str(path) for path in named | within if path.is_file())


def texts_in(value):
    """All strings in a value of a YAML file."""
    if isinstance(value, dict):
        return [text for inner in value.values() for text in texts_in(inner)]
    return [value] if isinstance(value, str) else []


def stage_of(method):
    """The stage whose checkpoint is evaluated under a method's name; the reference may come from elsewhere."""
    imported = method == REFERENCE and CFG.import_reference.weights
    return "import_reference" if imported else METHODS[method].stage


def named(stage):
    """What a once-per-experiment job is called; in a study its plain name is a target over all experiments."""
    return f"{stage}_job" if STUDY else stage


def checkpoint_in(method, seed):
    """The checkpoint that is evaluated under a method's name."""
    return f"{ROOT}/{stage_of(method)}/{method}/seed{seed}/checkpoint"


def checkpoint_of(wildcards):
    """`checkpoint_in` for a rule with the wildcards of a cell."""
    return in_job(checkpoint_in(wildcards.method, wildcards.seed), wildcards)


def in_job(paths, wildcards):
    """Paths of the experiment that a job belongs to: what a function gives has no wildcards any more."""
    return expand(paths, experiment=wildcards.get("experiment"), allow_missing=True)


def first_with_prompt_of(method):
    """The first method whose phase 1 has the same settings: they share its checkpoint."""
    own = settings_json(method_config(method), "learn_prompt")
    same = [other for other in trained_by("unlearn") if settings_json(method_config(other), "learn_prompt") == own]
    return same[0] if same else method


def learned_by(wildcards):
    """The phase-1 checkpoint that a method's phase 2 starts from."""
    path = f"{ROOT}/learn_prompt/{first_with_prompt_of(wildcards.method)}/seed{wildcards.seed}/checkpoint"
    return in_job(path, wildcards)


def reference_features(wildcards):
    """The features of the reference with the seed of a cell."""
    return in_job(FEATURES.replace("{method}", REFERENCE).replace("{seed}", wildcards.seed), wildcards)


def cells(stage, methods, name):
    """`name` of every method and seed of a stage, in one experiment."""
    return expand(f"{ROOT}/{stage}/{CELL}/{name}", method=methods, seed=CFG.seeds, allow_missing=True)


def everywhere(paths):
    """The same in every experiment of a study."""
    return expand(paths, experiment=EXPERIMENTS, allow_missing=True)


def trained_by(stage):
    """The methods of this experiment whose checkpoint a stage makes."""
    return [method for method in ROWS if stage_of(method) == stage]


def prepared_set(name):
    """The folder of an evaluation set, which all experiments share."""
    return f"{CFG.results_dir}/prepare_dataset/{name}"


PREPARED = [prepared_set(name) for name in CFG.prepare_dataset.datasets]
# Checkpoints share a job of extract_features, and with it the reading and decoding of every picture.
CELLS = [{"method": method, "seed": seed} for seed in CFG.seeds for method in ROWS]
PER_JOB = CFG.extract_features.checkpoints_per_job
BATCHES = [CELLS[start : start + PER_JOB] for start in range(0, len(CELLS), PER_JOB)]
FEATURES = f"{ROOT}/extract_features/{CELL}/features.json"
REFERENCE_CHECKPOINT = f"{ROOT}/{stage_of(REFERENCE)}/{REFERENCE}/seed{{seed}}/checkpoint"
PROMPTED = list(dict.fromkeys(first_with_prompt_of(method) for method in trained_by("unlearn")))
HISTORIES = [
    *(path for stage in ("train_reference", "train_baseline", "train_npc", "unlearn")
      for path in cells(stage, trained_by(stage), "history.parquet")),
    *cells("learn_prompt", PROMPTED, "history.parquet"),
]
PAIRS, MANIFEST_REPORT = f"{ROOT}/build_manifest/pairs.parquet", f"{ROOT}/build_manifest/report.json"
OVERLAPS = f"{ROOT}/check_overlap/overlaps.parquet"
LABELLED = prepared_set(CFG.inject_label_noise.dataset)
LABELS = f"{ROOT}/inject_label_noise/labels.parquet"
LABEL_TABLES = f"{ROOT}/label_tables"
TABLES, FIGURES, FINDINGS = f"{ROOT}/tables", f"{ROOT}/figures", f"{ROOT}/findings.md"
STAGE_CELLS = {
    "train_reference": cells("train_reference", trained_by("train_reference"), "checkpoint"),
    "import_reference": cells("import_reference", trained_by("import_reference"), "checkpoint"),
    "learn_prompt": cells("learn_prompt", PROMPTED, "checkpoint"),
    "unlearn": cells("unlearn", trained_by("unlearn"), "checkpoint"),
    "train_baseline": cells("train_baseline", trained_by("train_baseline"), "checkpoint"),
    "build_memory_bank": cells("build_memory_bank", trained_by("train_npc"), "bank.parquet"),
    "train_npc": cells("train_npc", trained_by("train_npc"), "checkpoint"),
    "prepare_dataset": PREPARED,
    "extract_features": cells("extract_features", ROWS, "features.json"),
    **{stage: cells(stage, ROWS, "scores.json") for stage in EVALUATIONS},
    "export_model": cells("export_model", ROWS, "model"),
    "select_clean": cells("select_clean", CFG.classifiers, "selection.parquet"),
    "train_classifier": cells("train_classifier", CFG.classifiers, "scores.json"),
    # These run once per experiment: without a study their rules are targets by themselves.
    **({"build_manifest": [PAIRS], "check_overlap": [OVERLAPS], "make_tables": [TABLES]} if STUDY else {}),
    **({"inject_label_noise": [LABELS], "make_label_tables": [LABEL_TABLES]} if STUDY and CFG.classifiers else {}),
}
# What `snakemake` alone makes; a study also shows all of its experiments together.
RESULTS = everywhere([TABLES, FIGURES, FINDINGS, *([LABEL_TABLES] if CFG.classifiers else [])])
RESULTS += [f"{SHARED_ROOT}/tables", f"{SHARED_ROOT}/figures"] if STUDY else []
