# Every target sets up what it needs in .venv; a second call reuses it. `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PEERS := $(VENV)/.peers
EXPERIMENTS := $(patsubst %/README.md,%,$(wildcard experiments/*/README.md))
DATA ?= data
# Tests wait for other processes a third of the time: with one worker more than processors, these do not idle.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --dist worksteal --numprocesses $(shell expr $$(env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc 2>/dev/null || getconf _NPROCESSORS_ONLN) + 1)
RESULTS := outputs/demo/$(shell date +%Y-%m-%d_%H-%M-%S)

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-seeds test-cluster check format benchmark docs lock clean $(EXPERIMENTS)

help:  ## list the targets
	@awk -F ':.*## ' '/^([a-z-]+|\$$\(EXPERIMENTS\)):.*## / {sub(/.*EXPERIMENTS.*/, "experiments/NAME", $$1); \
	  printf "make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## install the locked environment in .venv

# torch and the build tools come with what they declare (a CUDA build brings its own libraries); everything else is taken
# from the lock to the letter, because escnn and torchattacks declare more than they use (see pyproject.toml).
$(READY): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info[:2] <= (3, 14) else "Python 3.11 to 3.14 is needed, found " + sys.version.split()[0] + "; choose one with make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint requirements.lock torch setuptools hatchling editables
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --requirement requirements.lock --editable .
	touch $@

demo: $(READY)  ## train and judge three networks on the embedded data set (minutes on two cores)
	$(BIN)/symrob train experiment=demo hydra.sweep.dir=$(RESULTS)
	$(BIN)/symrob report $(RESULTS) --output $(RESULTS)/report

# The sweep's directory is always the same, so that an interrupted experiment goes on and only what is missing is run.
$(EXPERIMENTS): experiments/%: $(READY)  ## run or finish an experiment, and write its report (DATA=folder of data sets, OVERRIDES=settings)
	SYMROB_DATA=$(DATA) $(BIN)/symrob train experiment=$* hydra.sweep.dir=outputs/experiments/$* $(OVERRIDES)
	$(BIN)/symrob report outputs/experiments/$* --output $@/report

test: $(READY)  ## run all tests
	$(PYTEST)

test-seeds: $(READY)  ## repeat the tests of soundness checks with networks, images and draws of three seeds
	SYMROB_SEEDS=3 $(PYTEST) tests/robustness/test_soundness.py

test-cluster: $(READY)  ## run sweeps on a Slurm of two nodes that is started here (Debian's packages)
	$(PYTEST) tests/cluster

check: $(READY)  ## format, lint, types, fast tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(PYTEST) -m "not slow"

format: $(READY)  ## rewrite the sources in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(PEERS): $(READY) pyproject.toml
	$(BIN)/python -m pip install --quiet 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --no-deps --group peers
	touch $@

benchmark: $(PEERS)  ## measure side by side against plain loops, torchattacks and ART, which it installs
	$(BIN)/python -m benchmarks

docs: $(READY)  ## build the documentation as a site in site/ (a broken link fails)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

lock:  ## resolve the newest allowed versions into requirements.lock
	$(PYTHON) -m venv --clear .lock
	.lock/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	.lock/bin/python -m pip install --quiet 'torch<2.14'
	.lock/bin/python -m pip install --quiet --group dev --group docs ".[search,safetensors]"
	.lock/bin/python -m pip install --quiet --no-deps --group without-their-requirements
	(sed -n '/^#/p' requirements.lock; .lock/bin/python -m pip freeze --all --exclude pip --exclude symmetry-robustness \
	  | sed -E 's/\+(cpu|cu[0-9]+)$$//; /^(nvidia-|cuda-|triton)/d') >requirements.lock.new
	mv requirements.lock.new requirements.lock
	rm -rf .lock

clean:  ## remove the environment and the caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache dist site
