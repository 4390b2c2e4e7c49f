# Every target makes its own virtual environment on first use; nothing else is needed but Python 3.11+ and a package
# index.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO_STAMP := $(VENV)/.installed-demo
COMPILED := $(VENV)/.tests-compiled
JOBS ?= 6
CHECK_JOBS ?= 6
PYTEST_ARGS ?=
# Without plugins that nothing here uses: they ask git for the state of the checkout, load for half a second, and look at
# every test, in each process of a run.
PYTEST := $(BIN)/python -m pytest -p no:benchmark -p no:anyio -p no:schemathesis
BENCH ?= full
BENCH_DIR ?= /dev/shm
TOLERANCE ?= 0.3

# Every node that a test starts imports hundreds of modules: where the environment forbids to keep them compiled, that
# is a third of
# a start.
unexport PYTHONDONTWRITEBYTECODE
export PYTHONPYCACHEPREFIX := $(abspath $(VENV))/pycache

.PHONY: demo demo-failover check test bench bench-compare campaign lint package pictures man wheel clean venv

venv: $(STAMP)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("clusterd needs Python 3.11 or newer, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	@echo "Making a virtual environment in $(VENV), with the newest pip ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip

$(STAMP): setup.py | $(BIN)/python
	@echo "Installing clusterd and what tests and benchmarks need into $(VENV) ..."
	@PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,bench]'
	@touch $(STAMP) $(DEMO_STAMP)

# Nothing of tests and benchmarks.
$(DEMO_STAMP): setup.py | $(BIN)/python
	@echo "Installing clusterd and what the demonstration needs into $(VENV) ..."
	@PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[rig]'
	@touch $(DEMO_STAMP)

demo: $(DEMO_STAMP)
	$(BIN)/python -m tools.rig demo $(if $(TREE),--tree $(TREE))

# A master killed, another one leading; with an etcd of three members from the package index.
demo-failover: $(STAMP)
	$(BIN)/python -m tools.rig demo-failover

# In a new checkout each process of a run would compile all tests for itself, and find out which characters UTF-8 has.
$(COMPILED): $(STAMP)
	@echo "Compiling the tests ..."
	@$(BIN)/python -c "from hypothesis.strategies import characters; characters(codec='utf-8').validate()"
	@for part in 'tests/[a-h]*/' 'tests/[i-z]*/'; do $(PYTEST) -q --collect-only $$part > /dev/null & done; wait
	@touch $(COMPILED)

# While one works: lint, types, and every quick test (no marker `slow`). Lint runs beside them: its output comes at the
# end. Six processes, as these tests wait for two thirds of their time: 94 s on two busy cores, where four took 171 s.
check: $(STAMP) $(COMPILED)
	@$(MAKE) --no-print-directory lint > $(VENV)/lint.log 2>&1 & lint=$$!; \
	$(PYTEST) -q -n $(CHECK_JOBS) --dist worksteal -o faulthandler_timeout=0 -m 'not slow and not stress' --hypothesis-profile quick $(PYTEST_ARGS); tests=$$?; \
	wait $$lint; lint=$$?; cat $(VENV)/lint.log; exit $$((tests | lint))

# Most tests wait for nodes most of the time: six at a time keep two cores busy. One that is done with its share takes over
# another's.
test: $(STAMP) $(COMPILED)
	$(PYTEST) -n $(JOBS) --dist worksteal -m 'not stress' $(PYTEST_ARGS)

# Everything but bench_agents.py, about twelve minutes; BENCH=quick: small sizes, under two minutes; BENCH_DIR: where
# the trees are (a disk);
# PEER_CMD: another daemon beside (docs/benchmarks.md). With PYTEST_ARGS only the single pieces that it chooses.
bench: $(STAMP)
ifneq ($(strip $(PYTEST_ARGS)),)
	$(BIN)/python -m pytest benchmarks -o 'python_files=bench_*.py' --benchmark-only --benchmark-columns=min,median,max,rounds -p no:randomly $(PYTEST_ARGS)
else
	$(BIN)/python -m benchmarks.suite all $(if $(filter quick,$(BENCH)),--quick) --dir $(BENCH_DIR)
endif

# The last run's ratios against benchmarks/baseline.json: fails when one is worse beyond the tolerance. For CI: after
# BENCH=quick.
bench-compare: $(STAMP)
	$(BIN)/python -m benchmarks.suite compare --tolerance $(TOLERANCE)

# A standing campaign, or all: make campaign kills MINUTES=10 [SEED=1] [OFFSET=...]. docs/reliability.md lists them
# and what each holds.
CAMPAIGN := $(if $(filter campaign,$(firstword $(MAKECMDGOALS))),$(word 2,$(MAKECMDGOALS)))
campaign: $(STAMP)
	CLUSTERD_CAMPAIGN_MINUTES=$(or $(MINUTES),1) CLUSTERD_CAMPAIGN_SEED=$(or $(SEED),0) CLUSTERD_CAMPAIGN_OFFSET="$(OFFSET)" $(BIN)/python -m pytest -m stress -p no:randomly -o faulthandler_timeout=0 \
	  $(if $(CAMPAIGN),tests/campaigns/test_$(CAMPAIGN).py,tests/campaigns) $(PYTEST_ARGS)
ifneq ($(CAMPAIGN),)
.PHONY: $(CAMPAIGN)
$(CAMPAIGN): campaign
	@:
endif

# docs/images, from a cluster that runs for three minutes; needs Chromium.
pictures: $(STAMP)
	$(BIN)/python -m tools.rig pictures

# dist/clusterd_VERSION_ARCH.deb: clusterd in an environment of its own, for the distribution that this runs on.
package: $(STAMP)
	$(BIN)/python contrib/deb/build.py

# dist/man: a manual page for each command. What is there when a wheel is built goes into it, below share/man.
man: $(STAMP)
	$(BIN)/python contrib/man/build.py

wheel: man
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .benchmarks
