# make demo | make test are the two commands; the rest is for going further.
FITS := 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))'
PYTHON ?= $(firstword $(foreach name,python3 python3.11 python3.12 python3.13,\
	$(shell $(name) -c $(FITS) 2>/dev/null && echo $(name))))
VENV := .venv
# Every one of the many processes would compile the project again.
unexport PYTHONDONTWRITEBYTECODE
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export PYTHONPATH := $(CURDIR)
CONFIG ?= config/config.yaml
HOST ?= 127.0.0.1
PORT ?= 5000
STORE ?= sqlite:///results/mlflow.db
ARTIFACTS ?= results/mlartifacts
CODE := pipeline_steps resources tests

.PHONY: demo test quick pytest check bench mlflow dag lock setup clean

demo: setup                ## the whole pipeline on the bundled pictures, then its summary
	snakemake --configfile $(CONFIG)
	@python -m pipeline_steps.show_summary --config $(CONFIG)

# Lint and types run beside the tests' first imports, which need one core; if anything fails they are told again at the end.
test: setup                ## lint, types, and every test
	+$(MAKE) --no-print-directory --jobs=2 check pytest || { $(MAKE) --no-print-directory check; exit 1; }

quick: setup               ## lint, types, and every test that needs no process of its own
	+$(MAKE) --no-print-directory --jobs=2 check pytest TESTS='--numprocesses=auto -m "not process"' || \
		{ $(MAKE) --no-print-directory check; exit 1; }

# A worker more than cores: tests on a cluster also wait for Slurm.
TESTS ?= --numprocesses=$$(python -c "import os; print(os.cpu_count() + 1)")
pytest: setup
	CI=$(CI) python -m pytest $(TESTS)

check: setup               ## lint, format, types
	ruff check $(CODE)
	ruff format --check $(CODE)
	mypy

bench: setup               ## NCU's second phase, and evaluation (CIFAR10=folder with it): docs/benchmarks/
	python -m tests.benchmarks.objective
	python -m tests.benchmarks.evaluation $(if $(CIFAR10),--cifar10 $(CIFAR10)) $(if $(CHECKPOINT),--checkpoint $(CHECKPOINT))

mlflow: setup              ## MLflow's UI and server, for this machine alone unless HOST and ALLOWED say otherwise
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow server --host $(HOST) --port $(PORT) $(if $(ALLOWED),--allowed-hosts "$(ALLOWED)") \
		--backend-store-uri "$(STORE)" --artifacts-destination "$(ARTIFACTS)"

dag: setup                 ## the DAG as docs/dag.svg (needs Graphviz)
	snakemake --rulegraph --configfile $(CONFIG) | sed -E "s/(_[0-9]+)?_job//" | dot -Grankdir=LR -Tsvg > docs/dag.svg

setup: $(VENV)/.complete   ## the pinned environment

$(VENV)/.complete: envs/requirements.txt
	@test -n "$(PYTHON)" || { echo "No Python 3.11, 3.12 or 3.13 is on the PATH. Install one, or name it:" \
		"make $(or $(firstword $(MAKECMDGOALS)),demo) PYTHON=/path/to/python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	python -m pip install --quiet "$$(grep '^uv==' envs/requirements.txt)"
	uv pip sync --quiet --compile-bytecode envs/requirements.txt
	touch $@

lock:                      ## envs/requirements.in -> envs/requirements.txt
	uv pip compile --quiet --universal --python-version 3.11 --no-emit-index-url --no-header --no-annotate \
		envs/requirements.in --output-file envs/requirements.txt

clean:                     ## results and environment
	find results -mindepth 1 -maxdepth 1 ! -name README.md -exec rm -rf {} +
	rm -rf $(VENV) .snakemake
