.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
export MLFLOW_DISABLE_TELEMETRY := true
unexport PYTHONDONTWRITEBYTECODE  # what Python compiles is kept: every start of a command is 2 s shorter

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z%-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "  ablations: $(subst _,-,$(basename $(notdir $(wildcard experiments/ablations/*.yaml))))"
	@echo "  sweeps:    $(subst _,-,$(basename $(notdir $(wildcard sweeps/*.yaml))))"
	@echo '  options:   make ablation-gmm-k ARGS="training.steps=100 --workers 4"'

ablation-%: install ## Run experiments/ablations/<name>.yaml; again, to go on where it stopped
	@$(BIN)/arinar ablate experiments/ablations/$(subst -,_,$*).yaml $(ARGS)

demo: install ## Run a small study in two minutes, to see what one is; it concludes nothing
	@$(BIN)/arinar ablate experiments/ablations/demo.yaml training.steps=200 training.warmup=20 \
		evaluation.images=500 evaluation.speed_repeats=3 $(ARGS)

sweep-%: install ## Run sweeps/<name>.yaml; again, to go on where it stopped
	@$(BIN)/arinar sweep sweeps/$(subst -,_,$*).yaml $(ARGS)

notebooks: install ## Execute notebooks/ over the newest finished study, or over STUDY=studies/name
	@$(BIN)/arinar notebooks $(STUDY)

test: install ## Run the tests (minutes)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal $(ARGS)

test-slow: install ## Run the tests that take longer, too
	@$(BIN)/python -m pytest -q -m "slow or not slow" $(ARGS)

mlflow: install ## Open the dashboard on 127.0.0.1:5000, at the newest study
	@$(BIN)/arinar mlflow $(ARGS)

dashboard: install ## Open optuna-dashboard on 127.0.0.1:8080 (STUDY=optimizer) and MLflow
	@file="$(firstword $(wildcard $(STUDY) $(addsuffix /$(subst -,_,$(STUDY)).yaml,sweeps)))"; \
	if [ -z "$$file$$ARINAR_STORAGE" ]; then \
		echo "Name a sweep, as in make dashboard STUDY=optimizer:"; ls studies 2>/dev/null; exit 2; fi; \
	trap 'kill 0' EXIT; $(BIN)/arinar dashboard $$file $(ARGS) & $(MAKE) --no-print-directory mlflow ARGS=

bench: install ## Time every preset beside the published algorithm (about 25 minutes); ARGS="--full" times every step
	@$(BIN)/arinar bench $(ARGS)

fashion: install ## Fetch all of Fashion-MNIST into data/fashion-mnist; an extract ships
	@$(BIN)/python scripts/fetch_fashion.py

check: install ## Build every recipe, every arm and the corners of every space, train nothing
	@$(BIN)/arinar check experiments/*.yaml experiments/ablations/*.yaml sweeps/fid_speed.yaml sweeps/optimizer.yaml $(ARGS)

docs: install ## Build the documentation into build/site (open build/site/index.html)
	@COLUMNS=80 NO_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --strict -q
	@echo build/site/index.html

docs-serve: install ## Serve the documentation on 127.0.0.1:8000, rebuilt as you write
	@COLUMNS=80 NO_MKDOCS_2_WARNING=true $(BIN)/mkdocs serve -a 127.0.0.1:8000

lint: install ## Check style, types and the floors that imports go down
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache --no-logo

format: install ## Format the code
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

lock: install ## Resolve requirements.lock anew from pyproject.toml
	@UV_CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/uv pip compile pyproject.toml --extra dev --universal --upgrade -q -o requirements.lock

install: .venv/installed ## Make .venv with the exact versions of requirements.lock

.venv/installed: requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 or newer is needed: $(PYTHON) was not found"; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 …"; exit 2; }
	@echo "installing into .venv"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { echo "Python's venv is missing: on Debian, apt-get install python3-venv"; exit 2; }
	@$(BIN)/python -m pip install -q --disable-pip-version-check uv
	@$(BIN)/uv pip install -q --python $(BIN)/python -r requirements.lock
	@$(BIN)/uv pip install -q --python $(BIN)/python --no-deps -e .
	@touch $@

.PHONY: help demo notebooks test test-slow mlflow dashboard bench fashion check docs docs-serve lint
.PHONY: format lock install
