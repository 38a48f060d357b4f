# `make bench` measures, `make test` proves, `make mutants` proves that the tests can fail, `make docs` builds the site;
# each sets up .venv by itself on a fresh machine.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
SOURCES := setup.py pyproject.toml $(wildcard lowlat/*.pyx lowlat/*.pxd lowlat/*.h lowlat/null/*.c)

.PHONY: bench test mutants lint docs changelog matrix build doctor annotate clean

bench: build
	$(RUN) -m lowlat bench --json bench.json --plot bench.png

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
	rm -rf $(VENV) .nox matrix build docs/_build *.egg-info lowlat/_fast.c lowlat/_fast.html lowlat/*.so lowlat/null/libcuda.so.1 bench.json bench.png
