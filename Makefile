# Every target sets up what it needs, in .venv.
SHELL := /bin/sh
VENV ?= .venv
BIN := $(VENV)/bin
# The first interpreter on the PATH that is new enough; `make PYTHON=...` chooses another.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { command -v $$p; break; }; done)

.PHONY: help demo test test-wheel test-ray lint types typing lowest wasm docs package check soak mutants browser live bench clean

help:
	@echo "make demo        turn prompts into images with the sandbox: no key, no network but the package index"
	@echo "make test        run the tests"
	@echo "make test-wheel  run the tests against the built wheel"
	@echo "make test-ray    run the tests of Ray pipelines, in a virtual environment of 600 MB"
	@echo "make check       lint, type-check, build the docs and the package, run test and test-ray"
	@echo "make docs        build the site in build/site; broken links and unknown names are errors"
	@echo "make package     build sdist and wheel in build/dist, check them, install the wheel alone and use it"
	@echo "make lowest      run the tests with the oldest dependencies that pyproject.toml allows"
	@echo "make wasm        import every module on Python 3.14 in WebAssembly (needs node and npm)"
	@echo "make typing      check typed user programs with mypy, pyright, ty and pyrefly (needs node)"
	@echo "make soak        run the long quota and crash tests, 10 minutes on 2 cores (ten times as much: SOAK='--times 10')"
	@echo "make mutants     break money and quota code in thousands of ways and count which the tests notice"
	@echo "make browser     test the web pages in a real browser (Debian: chromium, chromium-driver)"
	@echo "make live        compare the documented API facts with the real API: needs a key, costs nothing"
	@echo "make bench       measure the figures in the README on this machine"

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "stable_async needs Python 3.11 or newer on the PATH (or make PYTHON=/path/to/python)" >&2; exit 1; }
	"$(PYTHON)" -m venv "$(VENV)"
	"$(BIN)/python" -m pip install --quiet --upgrade pip

$(VENV)/.installed-demo: pyproject.toml | $(BIN)/python
	"$(BIN)/python" -m pip install --quiet --editable ".[cli,sandbox]"
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	"$(BIN)/python" -m pip install --quiet --editable ".[all]" --group dev
	@touch $@ $(VENV)/.installed-demo

demo: $(VENV)/.installed-demo
	"$(BIN)/stable-async" run examples/prompts.jsonl --out demo --sandbox

# Tests wait for processes a part of their time: three workers keep two cores busy.
test: $(VENV)/.installed-dev
	"$(BIN)/python" -m pytest -n 3

# Ray has an environment of its own: installing it takes half a minute and 600 MB.
$(VENV)-ray/.installed: pyproject.toml | $(BIN)/python
	"$(BIN)/python" -m venv "$(VENV)-ray"
	"$(VENV)-ray/bin/python" -m pip install --quiet --editable ".[all,ray]" pytest pytest-asyncio pytest-timeout
	@touch $@

test-ray: $(VENV)-ray/.installed
	"$(VENV)-ray/bin/python" -m pytest tests-ray --timeout 300

lint: $(VENV)/.installed-dev
	"$(BIN)/ruff" check .
	"$(BIN)/ruff" format --check .

types: $(VENV)/.installed-dev
	"$(BIN)/mypy"

$(VENV)/.installed-docs: pyproject.toml $(VENV)/.installed-dev
	"$(BIN)/python" -m pip install --quiet --group docs
	@touch $@

docs: $(VENV)/.installed-docs
	"$(BIN)/zensical" build --clean --strict
	"$(BIN)/python" -m tests.docs.links build/site

package: $(VENV)/.installed-dev
	rm -rf build/dist && mkdir -p build
	"$(BIN)/python" -m build --outdir build/dist . > build/build.log || { cat build/build.log; exit 1; }
	"$(BIN)/python" -m twine check --strict build/dist/*
	"$(BIN)/python" -m tests.package build/dist

$(VENV)/.installed-typing: pyproject.toml $(VENV)/.installed-dev
	"$(BIN)/python" -m pip install --quiet --group typing
	@touch $@

# `--verifytypes` searches the import path, and not the folder it runs in.
typing: $(VENV)/.installed-typing
	"$(BIN)/mypy" tests/typing
	PATH="$(abspath $(BIN)):$$PATH" pyright
	"$(BIN)/ty" check --python "$(VENV)"
	"$(BIN)/pyrefly" check --python-interpreter-path "$(BIN)/python"
	cd "$(VENV)" && PYTHONPATH="$(CURDIR)" PATH="$(abspath $(BIN)):$$PATH" pyright --verifytypes stable_async --ignoreexternal

# The suite on the lower bounds of pyproject.toml, in an environment of its own.
lowest:
	rm -rf "$(VENV)-lowest" && "$(PYTHON)" -m venv "$(VENV)-lowest"
	"$(PYTHON)" -m tests.lowest > "$(VENV)-lowest/constraints.txt"
	"$(VENV)-lowest/bin/python" -m pip install --quiet --upgrade pip
	"$(VENV)-lowest/bin/python" -m pip install --quiet --editable ".[all]" --group dev \
		--constraint "$(VENV)-lowest/constraints.txt"
	"$(VENV)-lowest/bin/python" -m pytest -n 2

# Python 3.14 compiled to WebAssembly, from the npm registry. It has no sockets and no aiohttp, so this
# only checks that all modules compile without a warning and that the request models work.
wasm: $(BIN)/python
	rm -rf build/wasm && mkdir -p build/wasm/site
	npm install --silent --no-fund --prefix build/wasm pyodide@314
	"$(BIN)/python" -m pip install --quiet --no-deps --target build/wasm/site --only-binary=:all: \
		--python-version 3.14 --implementation cp --abi cp314 --platform pyemscripten_2026_0_wasm32 \
		pydantic==2.14.4 pydantic-core==2.50.5 typing-extensions annotated-types typing-inspection
	cp tests/wasm.mjs build/wasm/ && cd build/wasm && node wasm.mjs "$(CURDIR)" site

# The suite without the checkout imports what users install.
test-wheel: package
	rm -rf "$(VENV)-wheel" && "$(PYTHON)" -m venv "$(VENV)-wheel"
	"$(VENV)-wheel/bin/python" -m pip install --quiet --upgrade pip
	"$(VENV)-wheel/bin/python" -m pip install --quiet --group dev "$$(ls build/dist/*.whl)[all]"
	rm -rf build/suite && mkdir -p build/suite
	git ls-files | grep -v '^stable_async/' | tar -c -T - | tar -x -C build/suite
	cd build/suite && "$(abspath $(VENV))-wheel/bin/python" -m pytest -n 2

check: lint types docs package test test-ray

soak: $(VENV)/.installed-dev
	"$(BIN)/python" -m tests.soak $(SOAK)

mutants: $(VENV)/.installed-dev
	"$(BIN)/python" -m tests.mutation

live: $(VENV)/.installed-demo
	"$(BIN)/stable-async" doctor --probe

browser: $(VENV)/.installed-dev
	"$(BIN)/python" -m pytest tests/browser

$(VENV)/.installed-bench: pyproject.toml $(VENV)/.installed-dev
	"$(BIN)/python" -m pip install --quiet --group bench
	@touch $@

bench: $(VENV)/.installed-bench
	"$(BIN)/python" -m benchmarks

clean:
	rm -rf $(VENV) $(VENV)-ray $(VENV)-wheel $(VENV)-lowest demo build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
