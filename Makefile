# `make demo` and `make test` are all that a new user needs. Both create .venv on first use; later runs
# install nothing unless setup.cfg or pyproject.toml changed. Choose another interpreter with PYTHON=…,
# and fewer tests with PYTEST_ARGS='-m "not slow"'.

PYTHON ?= python3
PYTEST_ARGS ?=
# Two workers: each one that imports torch needs about 1 GiB and 6 s.
WORKERS ?= 2

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LIBRARY := nnunet_spine_ext trainers dataset_conversion
# Scripts in benchmarks/ that know --quick and --out.
BENCHMARKS := real_cord cross_section evaluate convert_many augmentation training_speed training_precision \
    augmentation_draws in_domain cross_domain phantom_to_real losses contrast_agnostic soft_ground_truth \
    soft_prediction instances instance_training numbering_training test_time_augmentation test_time_training \
    domain_adversarial finetune matching radiomics
CHECKS := check-ruff check-format check-types check-spelling check-tests

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo study test lint bench docs clean $(CHECKS)

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP) ## create .venv and install the project with its development tools

$(STAMP): setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "Python 3.11 or newer is needed, but '$(PYTHON)' is missing or older."; \
	    echo "Install one and name it: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { \
	    echo "Could not create $(VENV). On Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@echo 'Installing into $(VENV); the first time takes minutes, because PyTorch is large.'
	@$(BIN)/python -m pip install --disable-pip-version-check -qq --editable '.[dev]'
	@touch $@

demo: $(STAMP) ## make phantoms, train, predict, score and report into demo/ (about 10 minutes on 2 cores)
	$(BIN)/nnUNetv2_spine_demo -o demo

study: $(STAMP) ## train, cross scanners, adapt and measure into study/ (an hour on 2 cores); a second run goes on
	$(BIN)/nnUNetv2_spine_study --preset cpu -o study --jobs 2 --resume

# Every check runs even when an earlier one failed, so that one run shows all that is wrong.
test: $(STAMP) ## lint, formatting, types, spelling and all tests
	@summary=; failed=0; \
	for check in $(CHECKS); do \
	    echo "== $$check"; \
	    if $(MAKE) --no-print-directory $$check; then summary="$$summary $$check=ok"; \
	    else summary="$$summary $$check=FAILED"; failed=1; fi; \
	done; \
	echo "== summary:$$summary"; exit $$failed

lint: check-ruff check-format check-types check-spelling ## the checks of `make test` without the tests

check-ruff: $(STAMP)
	@$(BIN)/ruff check .

check-format: $(STAMP)
	@$(BIN)/ruff format --check .

check-types: $(STAMP)
	@$(BIN)/mypy $(LIBRARY)

check-spelling: $(STAMP)
	@$(BIN)/codespell

# One file stays in one worker, so expensive module fixtures are built once; tests/conftest.py puts slow files first.
check-tests: $(STAMP)
	@$(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

bench: $(STAMP) .oracles/panoptica/.installed .oracles/pyradiomics/.installed ## run every benchmark in its quick form (under 10 minutes each), results in bench/
	@for name in $(BENCHMARKS); do \
	    echo "== $$name --quick"; $(BIN)/python benchmarks/$$name.py --quick --out bench/$$name || exit 1; \
	done

docs: $(STAMP) ## write the generated pages again and check links, pages and commands
	@for script in docs/generate_*.py; do $(BIN)/python $$script || exit 1; done
	@$(BIN)/pytest -q -p no:cacheprovider tests/test_docs.py

clean: ## delete what was generated, except .venv and .oracles
	rm -rf build dist demo study bench *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find $(LIBRARY) tests docs -name __pycache__ -type d -prune -exec rm -rf {} +

-include oracles.mk
