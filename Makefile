# The same few commands for a newcomer, a contributor and CI. Plain `make` lists them.
# Everything is installed into $(VENV) with your own pip settings; nothing outside it and the model cache changes.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALL := $(PIP) install --quiet --progress-bar off -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-editors lint package wheel vsix bench faults faults-lsp bench-gaps bench-lsp train-smoke lock clean model
.DELETE_ON_ERROR:

help: ## List these commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-13s %s\n", $$1, $$2}'

# torch goes first and alone: asked for by this exact version, pip takes a CPU build where the user's
# settings offer one; as somebody's dependency it would take the newest CUDA build, gigabytes larger.
$(VENV)/.installed: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing diffcoder into $(VENV)"
	@$(INSTALL) "$$(grep -x 'torch==.*' constraints.txt)"
	@$(INSTALL) -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "installing the tools for development"
	@$(INSTALL) -e '.[dev,train]'
	@touch $@

$(VENV)/.installed-bench: $(VENV)/.installed
	@echo "installing the peers to measure against"
	@$(INSTALL) -e '.[bench]'
	@touch $@

model: $(VENV)/.installed
	@$(BIN)/diffcoder model pull default

setup: $(VENV)/.installed-dev model ## Install everything into .venv and download the default model (491 MB)

demo: $(VENV)/.installed model ## Fill a gap in a real file and edit another, from nothing to done
	@$(BIN)/diffcoder demo

test: setup ## Run every test, with the real default model
	@$(BIN)/pytest --durations=10 --ignore=tests/editors

$(VENV)/.installed-editors: $(VENV)/.installed-dev
	@echo "installing what drives editors"
	@$(INSTALL) -e '.[editors]'
	@touch $@

test-editors: setup $(VENV)/.installed-editors ## Drive real editors, installed into a cache of their own where they can be
	@$(BIN)/pytest tests/editors -rs --durations=5 $(EDITORS)

train-smoke: $(VENV)/.installed-dev ## Run every training recipe and command once, small, on a random model
	@$(BIN)/python -P -m training.smoke

lint: $(VENV)/.installed-dev ## Check style, format and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: $(VENV)/.installed-bench model ## Measure speed and memory against llama.cpp and transformers
	@$(BIN)/python -P -m benchmarks.bench

eval: $(VENV)/.installed-dev model ## Run the benchmarks of evaluation/campaign.toml (hours; go on by running it again) and write docs/report
	@nice -n 10 $(BIN)/diffcoder eval campaign; status=$$?; \
	  [ $$status -eq 130 ] || $(BIN)/diffcoder eval report --out docs/report/evaluation; exit $$status

faults: $(VENV)/.installed-dev model ## Break things on purpose: kills, cancels, corrupt models, torn downloads
	@$(BIN)/python -P -m benchmarks.faults

faults-lsp: $(VENV)/.installed-dev ## Break the language server: random edits, mutated frames, broken handlers
	@$(BIN)/python -P -m benchmarks.faults_lsp

bench-gaps: $(VENV)/.installed-dev $(VENV)/.installed-bench model ## Fill 300 held-out gaps, with llama.cpp's infill beside us
	@$(BIN)/python -P -m benchmarks.bench_gaps

bench-lsp: $(VENV)/.installed-dev model ## Replay five minutes of typing against the language server
	@$(BIN)/python -P -m benchmarks.bench_lsp

DIST ?= dist

# The wheel is tried as a newcomer would: in an environment of its own, with the diffcoder command's own check.
package: wheel vsix ## Build the VS Code extension and the Python wheel into dist/, and try the wheel
	@rm -rf $(DIST)/trial
	@$(PYTHON) -m venv $(DIST)/trial
	@$(DIST)/trial/bin/python -m pip --disable-pip-version-check install --quiet --progress-bar off -c constraints.txt \
	  "$$(grep -x 'torch==.*' constraints.txt)" $(DIST)/diffcoder-*.whl
	@cd $(DIST)/trial && bin/diffcoder --version && bin/diffcoder doctor
	@rm -rf $(DIST)/trial
	@ls -sh $(DIST)

wheel: $(VENV)/.installed
	@rm -rf build $(DIST)/diffcoder-*.whl
	@$(PIP) wheel --quiet --no-deps --wheel-dir $(DIST) .

# npm and Node 22 or newer come from the user; the bundle needs nothing else at run time.
vsix:
	@cd editors/vscode && npm ci --silent --no-audit --no-fund
	@cp constraints.txt LICENSE editors/vscode/
	@mkdir -p $(DIST)
	@cd editors/vscode && npm run --silent check && npm test --silent >/dev/null && npm run --silent build \
	  && npx vsce package --no-dependencies --allow-missing-repository --out $(abspath $(DIST))/ >/dev/null

lock: $(VENV)/.installed-dev $(VENV)/.installed-editors $(VENV)/.installed-bench ## Write what is installed to constraints.txt, after you upgraded it
	@{ sed -n '/^#/p' constraints.txt; $(PIP) list --format=freeze --exclude-editable \
	  | sed 's/+[a-z0-9]*$$//' | grep -vE '^(pip|setuptools)==' | LC_ALL=C sort -f; } > constraints.new
	@mv constraints.new constraints.txt

clean: ## Remove the environment and what tools left behind; models stay in your cache
	@rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
