# Every target does all of its own set-up: a fresh machine needs Python 3.11 or newer, git and make.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: help demo test trust soak mutants lint check generate bench clean
help:            ## what there is
	@grep -hE '^[a-z]+: .*## ' $(MAKEFILE_LIST) | sed 's/: .*## /\t/' | expand -t 12

$(VENV)/.run: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("esrm needs Python 3.11 or newer, not " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.run requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements-dev.txt
	@touch $@

demo: $(VENV)/.run   ## a microVM boots, hot-plugs, crashes and comes back; seconds
	$(BIN)/esrm demo

test: $(VENV)/.dev   ## the whole test-suite
	$(BIN)/python -m pytest -n 3 --dist worksteal $(ARGS)

trust: $(VENV)/.dev  ## crashes, faults, flips, attacks, fuzzing: the counts that docs/durability.md promises; minutes
	ESRM_TRUST=ci $(BIN)/python -m pytest -n 4 --dist worksteal $(if $(filter tests/%,$(ARGS)),,tests/trust) $(ARGS)

soak: $(VENV)/.dev   ## the same for about an hour, then mutants
	ESRM_TRUST=soak $(BIN)/python -m pytest -n 4 --dist worksteal $(if $(filter tests/%,$(ARGS)),,tests/trust) $(ARGS)
	$(BIN)/python tools/mutate.py --sample $(or $(SAMPLE),500)

mutants: $(VENV)/.dev  ## change the code in small ways, each of which a test must notice; SAMPLE=200 ARGS='sqlite --seed 7'
	$(BIN)/python tools/mutate.py $(if $(SAMPLE),--sample $(SAMPLE)) $(ARGS)

lint: $(VENV)/.dev   ## ruff, pyright strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

check: $(VENV)/.dev   ## generated files are what their generators write
	$(BIN)/python tools/schemas.py --check
	$(BIN)/python tools/docs.py --check

generate: $(VENV)/.dev   ## write the generated files anew
	$(BIN)/python tools/schemas.py
	$(BIN)/python tools/docs.py

$(VENV)/.bench: $(VENV)/.run
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@touch $@

bench: $(VENV)/.bench   ## measure, beside peers; ROWS=append,blame SCALE=small|large|full CHECK=1 WRITE=1
	$(BIN)/python tools/bench.py --scale $(or $(SCALE),small) $(if $(ROWS),--rows $(ROWS)) \
		$(if $(CHECK),--check) $(if $(WRITE),--write)

clean:           ## remove what the targets made
	rm -rf $(VENV) .bench-* esrm-demo.db* esrm-demo.html
