# Needs make and Python 3.11 or newer; everything else goes into .venv.
PYTHON ?= $(firstword $(foreach p,python3 python3.12 python3.11,$(shell command -v $(p) >/dev/null && $(p) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(p))))
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# One thread per process: pytest runs a process per core, and the models of the tests are too small to gain from more.
# A process that dies ends the run and names its test: with another in its place xdist waits for ever.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder \
	--max-worker-restart 0
# The CPU build of torch, so that no CUDA libraries arrive; if the index in use has none, PyTorch's own index has it.
TORCH := $(shell sed -n 's/^torch==//p' constraints.txt)
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
# The tritonserver that tests and `dtk serve --environment` run: in an environment of its own, as its Python backend was
# built for numpy 1. Only the server inside nvidia-pytriton is used, hence --no-deps.
SERVER := $(VENV)-server
PYTRITON := nvidia-pytriton==0.7.0
# optimum-onnx needs an older transformers and diffusers than dtk: an environment of its own, for one test.
OPTIMUM := $(VENV)-optimum

.DEFAULT_GOAL := help
.PHONY: help demo install test test-all lint format wheel commands constraints clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-20s %s\n", $$1, $$2 }'

demo: $(VENV)/.installed  ## the whole job on the embedded model: runs/demo holds the result
	$(BIN)/dtk run recipes/demo.yaml -o runs/demo

install: $(VENV)/.installed-dev $(SERVER)/.installed  ## everything development needs, in .venv

test: $(VENV)/.installed-dev  ## what a newcomer runs: minutes
	$(PYTEST) -m 'not slow'

test-all: install $(OPTIMUM)/.installed  ## the slow ones too: engines, a real server, a browser, README's lines, other tools' packages
	$(PYTEST)

lint: $(VENV)/.installed-dev  ## style, types and the order of imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev  ## let ruff fix what it can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

wheel: $(VENV)/.installed  ## dist/dtk-*.whl
	rm -rf build dist
	$(PIP) wheel --no-deps --wheel-dir dist .

commands: $(VENV)/.installed-dev  ## docs/commands.md from the help texts
	$(BIN)/python -m typer toolkit.cli utils docs --name dtk --output docs/commands.md

constraints: $(VENV)/.installed-dev  ## pin what is installed now, after the tests passed on it
	{ sed -n '/^#/p' constraints.txt; $(PIP) freeze --all --exclude pip --exclude dtk | sed -n 's/+cpu$$//; /==/p'; } > constraints.new
	mv constraints.new constraints.txt

clean:  ## remove .venv and what was built; runs/ stays
	rm -rf $(VENV) $(SERVER) $(OPTIMUM) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

$(VENV)/.python:
	@test -n '$(PYTHON)' || { echo 'dtk needs Python 3.11 or newer; none is on PATH. Name one: make PYTHON=/path/to/python3.12' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV) || { echo 'Python cannot make environments; on Debian: apt-get install python3-venv' >&2; exit 1; }
	$(PIP) install --quiet --upgrade 'pip>=25'
	touch $@

$(VENV)/.torch: $(VENV)/.python constraints.txt
	$(PIP) install --quiet --no-deps 'torch==$(TORCH)+cpu' 2>/dev/null \
		|| $(PIP) install --no-deps --index-url $(TORCH_INDEX) 'torch==$(TORCH)'
	touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml constraints.txt
	$(PIP) install --quiet -c constraints.txt -e '.[cpu,metrics]'
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) install --quiet -c constraints.txt -e '.[cpu,dev]'
	touch $@

$(SERVER)/.installed: $(VENV)/.installed constraints.txt
	$(BIN)/python -m venv $(SERVER)
	$(SERVER)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps '$(PYTRITON)'
	$(SERVER)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps "$$(sed -n '/^tokenizers==/p' constraints.txt)"
	$(SERVER)/bin/python -m pip install --quiet --disable-pip-version-check 'numpy<2' \
		"$$(sed -n '/^onnxruntime==/p' constraints.txt)" "$$(sed -n '/^openvino==/p' constraints.txt)"
	touch $@

$(OPTIMUM)/.installed: $(VENV)/.installed constraints.txt
	$(BIN)/python -m venv $(OPTIMUM)
	$(OPTIMUM)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps 'torch==$(TORCH)+cpu' 2>/dev/null \
		|| $(OPTIMUM)/bin/python -m pip install --no-deps --index-url $(TORCH_INDEX) 'torch==$(TORCH)'
	$(OPTIMUM)/bin/python -m pip install --quiet --disable-pip-version-check 'optimum-onnx==0.1.0' 'transformers<4.58' \
		'diffusers<=0.39' "$$(sed -n '/^onnxruntime==/p' constraints.txt)" "$$(sed -n '/^numpy==/p' constraints.txt)"
	touch $@
