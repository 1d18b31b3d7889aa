# make figures · make test · make lab
# Each makes .venv from the lock file when it is missing or older.
PYTHON ?= python3
VENV = .venv
BIN = $(VENV)/bin
# Two files of tests, or two notebooks, at a time; conftest.py gives each its share of the cores.
SIDE_BY_SIDE = --numprocesses 2 --dist loadfile
# JupyterLab looks kernels up by name: this environment's come first.
OWN_KERNELS = JUPYTER_PATH="$(CURDIR)/$(VENV)/share/jupyter$(if $(JUPYTER_PATH),:$(JUPYTER_PATH))"

.PHONY: figures test lab refresh
figures: $(VENV)/installed
	$(BIN)/python -m fdimlib figures

test: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest $(SIDE_BY_SIDE)
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -c pyproject.toml --rootdir=. \
		--nbval --nbval-current-env notebooks

lab: $(VENV)/installed
	$(OWN_KERNELS) $(BIN)/python -m jupyterlab notebooks/00_start_here.ipynb

# For contributors, and the only way to overwrite published figures: execute the committed notebooks
# in place (NB=notebooks/01_… for one), write the figures that are not the same, and their index.
NB ?= notebooks/*.ipynb
refresh: $(VENV)/installed
	FDIMLIB_REFRESH=1 $(BIN)/python -m nbconvert --to notebook --execute --inplace \
		--ExecutePreprocessor.kernel_manager_class=fdimlib.companion.kernels.OwnKernel \
		--ExecutePreprocessor.record_timing=False $(NB)
	$(BIN)/python -c 'from fdimlib.companion import figures, figures_folder as folder; \
		figures.write_index(folder())'

$(VENV)/installed: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
		"fdimlib needs Python 3.11 or newer; try make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@
