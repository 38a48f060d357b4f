# `make bench` measures, `make test` proves, `make mutants` proves that the tests can fail, `make docs` builds the site;
# each sets up .venv by itself on a fresh machine.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
PEERS := apache-tvm-ffi==0.1.15.post2 ninja cuda-core==1.2.2 cuda-bindings==13.5.0 cupy-cuda13x==14.2.0
SOURCES := setup.py pyproject.toml $(wildcard lowlat/*.pyx lowlat/*.pxd lowlat/*.h lowlat/null/*.c)

.PHONY: bench peers test mutants lint docs changelog matrix asv asv-publish asv-check build doctor annotate clean

bench: build
	$(RUN) -m lowlat bench --json bench.json --plot bench $(if $(wildcard .fbtriton),--fbtriton .fbtriton/bin/python)

# The peers that pip has, as further rows of `make bench`.  Meta's Triton takes triton's place, so it gets an environment
# of its own, which borrows torch from .venv.
peers: build
	$(RUN) -m pip install -q $(PEERS)
	$(PYTHON) -m venv .fbtriton
	.fbtriton/bin/python -m pip install -q --no-deps fbtriton==3.7.4
	$(RUN) -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > $$(ls -d .fbtriton/lib/python*/site-packages)/torch.pth

test: build
	$(RUN) -m pytest

mutants: build
	$(RUN) tests/mutants.py

lint: build
	$(RUN) -m ruff check .
	$(RUN) -m mypy
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(VENV)/bin/cython-lint lowlat/_fast.pyx lowlat/_fast.pxd

# The site, every warning an error: docs/_build/html/index.html.
docs: build $(VENV)/docs
	$(RUN) -m sphinx -E -W --keep-going -b html docs docs/_build/html

# What changes/ will make of the next release.
changelog: $(VENV)/docs
	$(RUN) -m towncrier build --draft --version "Not released yet" --date ""

# The tests on every Triton and CPython there is (noxfile.py); half an hour and some 30 GB the first time.
matrix: $(VENV)/installed
	$(VENV)/bin/nox

# docs/benchmarks-over-time.md says what is measured.  HEAD against its parent, taking turns; fails if something got slower.
BASE ?= HEAD^
asv: build
	$(RUN) asv_bench/run.py continuous --interleave-rounds --factor 1.05 --show-stderr $(BASE) HEAD

# asv's pages in asv_bench/html, from the last commits; what was measured before stays.  2: some could not be built.
COMMITS ?= 15
asv-publish: build
	$(RUN) asv_bench/run.py run --skip-existing -a rounds=1 --show-stderr HEAD~$(COMMITS)..HEAD || [ $$? -eq 2 ]
	$(RUN) asv_bench/run.py publish

# Each of its benchmarks once, on the lowlat at hand.  Forked: the values are read from what a spawned process measured.
asv-check: build
	LOWLAT_ASV=once $(RUN) asv_bench/run.py run --quick --python=same --launch-method forkserver --show-stderr

doctor: build
	$(RUN) -m lowlat doctor

# Cython's annotated listing of the hot path, to be read after each change to it.
annotate: build
	LOWLAT_ANNOTATE=1 $(RUN) setup.py -q build_ext --inplace --force
	@echo lowlat/_fast.html

build: $(VENV)/built

$(VENV)/installed: requirements.txt
	$(PYTHON) -c 'import sys; sys.exit("lowlat is developed on Python 3.11 or later, this is " + sys.version) if sys.version_info < (3, 11) else 0'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install -q -r requirements.txt
	touch $@

$(VENV)/docs: docs/requirements.txt $(VENV)/installed
	$(RUN) -m pip install -q -r docs/requirements.txt
	touch $@

$(VENV)/built: $(VENV)/installed $(SOURCES)
	$(RUN) -m pip install -q --no-build-isolation --no-deps -e .
	touch $@

clean:
	rm -rf $(VENV) .fbtriton .nox matrix build docs/_build *.egg-info lowlat/_fast.c lowlat/_fast.html lowlat/*.so lowlat/null/libcuda.so.1 bench.json bench.png bench.svg
	rm -rf asv_bench/env asv_bench/html
