# What one does with a checkout. `make demo` and `make test` are enough on a bare Debian 12.

PYTHON := .venv/bin/python
# What the lab and the tests need of the host; the guests' packages are in vagrant/provision.sh.
PACKAGES := python3-venv qemu-system-x86 mmdebstrap e2fsprogs fakeroot uidmap kmod gcc libc6-dev \
	vagrant vagrant-libvirt

.PHONY: help demo test lint unit lab-test score figures bench setup packages clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | column -ts '|'

demo: setup ## play the incident in two guests, record it, print the report
	@rm -rf build/demo; status=0; \
	$(PYTHON) vagrant/lab run demo --save build/demo --json build/demo/verdict.json || status=$$?; \
	if [ -f build/demo/report.txt ]; then cat build/demo/report.txt; fi; \
	exit $$status

test: lint unit lab-test ## everything

lint: setup ## ruff and mypy
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	$(PYTHON) -m mypy --strict vagrant/lab vagrant/lablib vagrant/guest/agent.py

unit: setup ## tests that need no kernel
	$(PYTHON) -m pytest tests/unit

lab-test: setup ## tests in guests with real kernels
	$(PYTHON) -m pytest tests/lab

score: setup ## play every scenario five times and say how often it is right, into build/score
	$(PYTHON) vagrant/lab score --runs 5

figures: setup ## measure start, memory, CPU and capture beside nfsslower, into build/figures
	$(PYTHON) tests/lab/figures.py

# A part of it, to compare two versions: make bench BENCH="getattr read" MODES= STEADY=
bench: setup ## measure what tracing costs NFS, beside other tools, into build/bench
	$(PYTHON) tests/bench/bench.py $(if $(BENCH),--workloads "$(BENCH)") \
		$(foreach name,MODES PROBES STEADY BLOCKS,$(if $(filter undefined,$(origin $(name))),,\
		--$(shell echo $(name) | tr A-Z a-z) "$($(name))"))

setup: packages .venv/ready ## what the rest needs: packages, virtual environment

.venv/ready: pyproject.toml
	python3 -m venv .venv
	$(PYTHON) -m pip install --quiet -e '.[dev]'
	touch $@

packages:
	@command -v apt-get > /dev/null || { \
		echo "This needs Debian or Ubuntu; elsewhere: cd vagrant && vagrant up" >&2; exit 1; }
	@missing=$$(for package in $(PACKAGES); do \
		dpkg-query -Wf '$${Status}' $$package 2> /dev/null | grep -q 'ok installed' || echo $$package; \
	done); \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" != 0 ]; then \
		echo "Not root. Please install, then try again:" >&2; \
		echo "  sudo apt-get install --no-install-recommends" $$missing >&2; exit 1; \
	fi; \
	apt-get update -q && apt-get install -qy --no-install-recommends $$missing

clean: ## remove what was built here (images stay in ~/.cache/nfsblame-lab)
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
