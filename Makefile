# Everything that is done with this checkout. `make help` lists the targets.
# Environments are made once: a stamp in each is renewed when pyproject.toml changes.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.penstock-installed

# Environments of their own, for dependencies too heavy for .venv. A new one is a line here with what it
# installs, its name in EXTRAS, and its tests in tests/extras/NAME.
EXTRAS := recipes openvino
NEEDS_recipes := .[recipes,dev]
NEEDS_openvino := .[sim,dev]
# The package that brings onnxruntime there in the place of the usual one: two builds of it cannot lie side by side.
RUNTIME_openvino := onnxruntime-openvino>=1.24

##@ Use it
.PHONY: install run
install: $(INSTALLED) ## make .venv with the gateway, the cloud tier, the simulator and the tools

run: $(INSTALLED) ## install, then start the demo: broker, gateway, cameras and sensors on this machine
	$(BIN)/penstock demo

$(INSTALLED): pyproject.toml scripts/venv.sh
	scripts/venv.sh $(VENV) '.[cloud,sim,dev]'
	touch $@

##@ Work on it
.PHONY: test check test-extras bench soak format clean help
test: $(INSTALLED) system-packages ## run every test, with a real Mosquitto and a real browser
	$(BIN)/pytest -n 2 --dist loadfile

check: $(INSTALLED) system-packages ## ruff, mypy --strict, the import direction, and what the docs say
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy models/recipes tests
	$(BIN)/pytest -q tests/house/test_imports.py tests/house/test_docs.py

test-extras: $(EXTRAS:%=test-extra-%) ## run the tests that need environments of their own

bench: $(INSTALLED) system-packages ## measure speed and memory: one line a figure, and build/bench.json
	mkdir -p build
	$(BIN)/python -m tests.bench

soak: $(INSTALLED) system-packages ## run the long forms of the long tests, and write build/soak.json
	mkdir -p build
	PENSTOCK_SOAK=1 $(BIN)/pytest -m soak

format: $(INSTALLED) ## let ruff format and mend what it can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove the environments and everything built
	rm -rf .venv .venv-* build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help: ## list the targets
	@awk -F ':.*## ' '/^##@/ { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Only .venv's targets and these two rules know how an environment is made.
.PRECIOUS: .venv-%/.penstock-installed
.venv-%/.penstock-installed: pyproject.toml scripts/venv.sh scripts/runtime.sh
	scripts/venv.sh .venv-$* '$(NEEDS_$*)'
	[ -z '$(RUNTIME_$*)' ] || scripts/runtime.sh .venv-$* '$(RUNTIME_$*)'
	touch $@

test-extra-%: .venv-%/.penstock-installed
	.venv-$*/bin/pytest tests/extras/$*

# What the tests start as real programs: the broker with its clients, a CA, systemd's judge of units, a browser,
# and what a device in C is compiled with.
.PHONY: system-packages
system-packages:
	@PATH="$$PATH:/usr/sbin:/sbin"; packages=(); \
	command -v mosquitto >/dev/null || packages+=(mosquitto); \
	command -v mosquitto_pub >/dev/null || packages+=(mosquitto-clients); \
	command -v openssl >/dev/null || packages+=(openssl); \
	command -v systemd-analyze >/dev/null || packages+=(systemd); \
	command -v chromium >/dev/null || packages+=(chromium); \
	command -v gcc >/dev/null || packages+=(gcc libc6-dev); \
	[ -e /usr/include/mosquitto.h ] || packages+=(libmosquitto-dev); \
	[ $${#packages[@]} -eq 0 ] || scripts/apt.sh "$${packages[@]}"
