# Needs Python 3.10 or later, nothing else. `make help` lists what it can do.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# Keeps the debugger of a kernel from printing warnings into a page.
export PYDEVD_DISABLE_FILE_VALIDATION := 1
# Compiled once, tests start in seconds.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup book test mutate oracles lint notebooks lab serve clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## make .venv with the pinned requirements, the package and its kernel
$(STAMP): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 10) else f"Python {v.major}.{v.minor} found, 3.10 or later wanted: make PYTHON=/path/to/python3")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -r requirements.txt
	$(BIN)/python -m pip install -q --no-deps -e .
	$(BIN)/python -m ipykernel install --sys-prefix --name python3 >/dev/null
	@touch $@

book: setup ## execute what is stale, build the site, print its path and the run times
	$(BIN)/python scripts/build_book.py

test: setup ## run all tests (those of the built pages need `make book` first)
	$(BIN)/python -m pytest -q

mutate: setup ## break the package in a copy, mistake by mistake, and see that the tests notice
	$(BIN)/python scripts/mutate.py --jobs 2

# Other libraries, each in a folder of its own: where transformers finds mamba-ssm, it wants a GPU.
ORACLE := $(BIN)/python -m pip install -q --no-deps --upgrade --target .oracles
FETCH := curl -sSfL --create-dirs
MAMBA3 := https://github.com/state-spaces/mamba/raw/e9594ce1c732d97440f0332fdc43170a2294dbfa
oracles: setup ## install what tests/test_parity.py and benchmarks/scan.py compare with
	MAMBA_SKIP_CUDA_BUILD=TRUE MAMBA_FORCE_BUILD=TRUE $(ORACLE)/mamba_ssm --no-build-isolation \
	    mamba-ssm==2.3.2.post1 einops==0.8.1
	$(ORACLE)/transformers transformers==5.23.0 tokenizers==0.23.3 regex==2026.11.15 \
	    safetensors==0.8.0
	$(ORACLE)/mambapy mambapy==1.2.0
	$(ORACLE)/art adversarial-robustness-toolbox==1.20.1
	$(ORACLE)/zennit zennit==0.5.1
	$(FETCH) 'https://github.com/goombalab/hydra/raw/55bef7459b6a5a70c2fc672f073f379da4f3c764/hydra/modules/{hydra,ops}.py' \
	    -o '.oracles/hydra/hydra/modules/#1.py'
	$(FETCH) 'https://github.com/state-spaces/s4/raw/e757cef57d89e448c413de7325ed5601aceaac13/models/s4/{s4,s4d}.py' \
	    -o '.oracles/s4/models/s4/#1.py'
	$(FETCH) $(MAMBA3)/tests/ops/triton/test_mamba3_siso.py -o .oracles/mamba3/test_mamba3_siso.py
	$(FETCH) $(MAMBA3)/mamba_ssm/modules/mamba3.py -o .oracles/mamba3/mamba3.py

lint: setup ## check style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright

notebooks: setup ## regenerate the .ipynb beside each chapter
	$(BIN)/python scripts/make_notebooks.py

lab: setup ## put copies of the chapters into work/, which is yours, and open them in JupyterLab
	$(BIN)/python scripts/make_notebooks.py --work
	$(BIN)/jupyter lab --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/work

serve: book ## build the site and serve it on port 8000
	$(BIN)/python -m http.server 8000 --bind 127.0.0.1 --directory _build/html

clean: ## remove the built site and its execution cache (.venv stays)
	rm -rf _build
