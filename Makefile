# Two commands matter: `make demo` and `make test`. Both work on a fresh clone.
# Nothing here needs more than a POSIX shell and any make of the last twenty years.

VENV = .venv
BIN = $(VENV)/bin

# The first interpreter that really runs and is new enough; a version manager's shim
# can exist without an interpreter behind it, so each one is asked.
PYTHON ?= $$(for p in python3 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 \
	&& { echo "$$p"; break; }; done)

# For pip: another index, a proxy, --no-index --find-links FOLDER, ...
PIP_ARGS ?=
PIP = $(BIN)/python -m pip --disable-pip-version-check

# The notebooks that `make refresh` runs.
NB ?= notebooks/*.ipynb

# In this environment's kernels a cell run out of order, even after a restart in the
# middle of a chapter, is answered by one sentence instead of a traceback.
KERNEL_CONFIG = $(VENV)/etc/ipython/ipython_kernel_config.py
# A link from a chapter to one of the book's pages opens the page, not its source; no
# pop-up asks whether to fetch news.
LAB_SETTINGS = $(VENV)/share/jupyter/lab/settings/overrides.json

.PHONY: help demo test test-quick test-code test-package test-notebooks test-book lint lab book refresh wheel constraints clean

help:
	@echo "make demo         set up, refine a shipped distilled set, show it (in demo/)"
	@echo "make test         set up, then lint, tests, all notebooks, the strict book"
	@echo "make test-quick   lint, types, and the quick tests: for whoever changes a line"
	@echo "make test-code    of 'make test' the tests and the notebooks"
	@echo "make test-package of these the tests"
	@echo "make test-notebooks  and the notebooks"
	@echo "make test-book    of these the book and JupyterLab, in a browser if there is Chromium"
	@echo "make lab          open the quick start in JupyterLab"
	@echo "make book         build the book as HTML (_build/html)"
	@echo "make lint         ruff check, ruff format --check, types"
	@echo "make refresh      run the notebooks and store their outputs (NB=one.ipynb)"
	@echo "make wheel        build dist/*.whl from the sdist, use it in an empty venv"
	@echo "make constraints  record the installed versions in constraints-ci.txt"
	@echo "make clean        remove what was built; .venv stays"
	@echo
	@echo "Variables: PYTHON (interpreter for .venv), PIP_ARGS (more options for pip)."
	@echo "Linux without a GPU, 3 GB less:"
	@echo "  make demo PIP_ARGS=--extra-index-url=https://download.pytorch.org/whl/cpu"

$(BIN)/python:
	@py="$(PYTHON)"; if [ -z "$$py" ]; then \
	  echo "No Python 3.11 or newer found. Name one: make PYTHON=/path/to/python"; \
	  exit 1; fi; \
	echo "Making a virtual environment in $(VENV) with $$py"; \
	"$$py" -m venv $(VENV)

$(VENV)/.installed-base: $(BIN)/python pyproject.toml
	@echo "Installing diver_lite (some minutes the first time: torch is large)"
	@$(PIP) install --quiet $(PIP_ARGS) -e .
	@touch $@

$(VENV)/.installed-book: $(BIN)/python pyproject.toml
	@echo "Installing diver_lite with the tools of the book (some minutes)"
	@$(PIP) install --quiet $(PIP_ARGS) -e '.[book]'
	@touch $@

$(VENV)/.installed-test: $(BIN)/python pyproject.toml
	@echo "Installing diver_lite with the tools of the book and the tests (some minutes)"
	@$(PIP) install --quiet $(PIP_ARGS) -e '.[book,test]'
	@touch $@ $(VENV)/.installed-book $(VENV)/.installed-base

demo: $(VENV)/.installed-base
	$(BIN)/diver-lite demo -o demo --overwrite

ON_ALL_CORES = --numprocesses=logical --dist=worksteal

# Tests wait for processes, pages and files about a third of their time. So the chapters
# run beside them, as the book does, which shows stored outputs.
test: $(VENV)/.installed-test
	$(MAKE) -j4 lint test-package test-notebooks test-book

test-quick: $(VENV)/.installed-test
	$(MAKE) -j2 lint quick

quick: export OMP_NUM_THREADS = 1
quick: $(VENV)/.installed-test
	$(BIN)/python -m pytest $(ON_ALL_CORES) -m "not slow"

# The models of the tests are tiny: threads would wait for each other more than work, so
# each core gets tests of its own, and takes from another's when it has none left.
test-package: export OMP_NUM_THREADS = 1
test-package: $(VENV)/.installed-test
	$(BIN)/python -m pytest $(ON_ALL_CORES)

test-notebooks: export OMP_NUM_THREADS = 1
test-notebooks: $(VENV)/.installed-test
	DIVER_LITE_MODE=test $(BIN)/python -m pytest --nbmake --nbmake-timeout=300 notebooks

test-code: test-package test-notebooks

# A build on top of an older one hides warnings: it always starts from nothing.
test-book: $(VENV)/.installed-test
	rm -rf _build
	$(BIN)/jupyter-book build -W -n --keep-going .
	$(BIN)/python scripts/check_book.py
	$(BIN)/python scripts/check_lab.py

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python

$(KERNEL_CONFIG): Makefile
	@mkdir -p $(@D)
	@echo 'import sys; sys.path.append("$(CURDIR)/notebooks")' > $@
	@echo 'c.InteractiveShellApp.extensions = ["bookkit.setup"]' >> $@

$(LAB_SETTINGS): Makefile
	@mkdir -p $(@D)
	@echo '{"@jupyterlab/docmanager-extension:plugin":' \
	  '{"defaultViewers": {"markdown": "Markdown Preview"}},' \
	  '"@jupyterlab/apputils-extension:notification": {"fetchNews": "false"}}' > $@

# Outputs of a notebook that is not trusted lose their scripts, the sliders with them.
# book/_lab gives figures their alternative texts, and leads links to titles.
lab: $(VENV)/.installed-book $(KERNEL_CONFIG) $(LAB_SETTINGS)
	-@$(BIN)/jupyter trust notebooks/*.ipynb > /dev/null
	$(BIN)/jupyter lab --ServerApp.root_dir="$(CURDIR)" \
	  --LabApp.extra_labextensions_path="$(CURDIR)/book/_lab" \
	  notebooks/01_quick_start.ipynb

book: $(VENV)/.installed-book
	rm -rf _build
	$(BIN)/jupyter-book build -W -n --keep-going .

# One thread, as in the tests: sums in another order train other small networks.
refresh: export OMP_NUM_THREADS = 1
refresh: $(VENV)/.installed-test
	DIVER_LITE_MODE=demo $(BIN)/python -m pytest --nbmake --overwrite $(NB)
	$(BIN)/nbstripout --keep-output --keep-count --keep-id $(NB)
	$(BIN)/python scripts/tidy_outputs.py $(NB)

# The wheel is made from the sdist, so what the sdist lacks is missed here.
wheel: $(VENV)/.installed-test
	rm -rf build dist
	$(BIN)/python -m build
	$(BIN)/python scripts/smoke_test.py dist/*.whl -- $(PIP_ARGS)

# A record of what the tests last ran with, not a lock: nothing installs from it.
constraints: $(VENV)/.installed-test
	@{ echo "# Versions that CI ran with (make constraints). A record, not a lock:"; \
	  echo "# pip install -c constraints-ci.txt -e '.[book,test]' brings them back."; \
	  $(PIP) list --format=freeze --exclude-editable --exclude pip \
	    --exclude setuptools --exclude wheel | sed 's/+[a-z0-9.]*$$//'; \
	} > constraints-ci.txt
	@echo "Wrote constraints-ci.txt"

clean:
	rm -rf _build build dist demo .pytest_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
