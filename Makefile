# make demo       captions become images, and an image is edited, on the shipped weights   (DEVICE=cuda make demo: on a GPU)
# make test       the tests, about 7 minutes on 2 idle cores
# make test-all   all tests: the notebooks and what takes long, too
# make lint       ruff and mypy
# make oldest     imports and samples with the oldest versions that setup.cfg allows
# make assignments  builds the graded assignments in outputs/assignments, and checks all of it
# make notebooks  opens the notebooks in Jupyter
# All create .venv on first use and reuse it after.

PYTHON ?= python3
DEVICE ?= cpu
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --disable-pip-version-check
# Every pytest process has its share of the cores; idle threads sleep instead of spinning (train/README.md).
PYTEST := $(PY) -m pytest -n auto --maxprocesses 8 --dist worksteal
export HF_HUB_OFFLINE ?= 1
export OMP_WAIT_POLICY ?= passive

.PHONY: demo test test-all lint oldest assignments notebooks clean

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: setup.cfg pyproject.toml | $(PY)
	@echo "Setting up $(VENV) (once; most of it is the download of PyTorch) ..."
	$(PIP) --editable .
	@touch $@

$(VENV)/.test $(VENV)/.lint $(VENV)/.notebooks: $(VENV)/.%: $(VENV)/.demo
	$(PIP) --editable ".[$*]"
	@touch $@

demo: $(VENV)/.demo
	$(PY) -m sample.demo --device $(DEVICE) --out outputs/demo

test: $(VENV)/.test
	$(PYTEST) -m "not slow and not notebook and not gpu"

test-all: $(VENV)/.test
	$(PYTEST) --durations 30 --durations-min 20 -m "not gpu"

lint: $(VENV)/.lint
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

oldest:
	$(PYTHON) -m venv --clear $(VENV)-oldest
	$(VENV)-oldest/bin/python -m pip install --disable-pip-version-check --constraint tests/oldest.txt .
	$(VENV)-oldest/bin/python tests/check_oldest.py

assignments: $(VENV)/.test
	$(PY) -m imagen_mini.course.release --all --out outputs/assignments

notebooks: $(VENV)/.notebooks
	$(PY) -m jupyterlab notebooks

clean:
	rm -rf $(VENV) $(VENV)-oldest outputs
