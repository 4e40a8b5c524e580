# make demo    a caption becomes a picture, on the shipped weights    (DEVICE=cuda make demo: on a GPU)
# make test    the tests, the notebooks among them
# make notebooks    opens the notebooks in Jupyter
# All create .venv on first use and reuse it after. Constraints for pip, if any: PIP_CONSTRAINT=file make test

PYTHON ?= python3
DEVICE ?= cpu
VENV := .venv
PY := $(VENV)/bin/python
export HF_HUB_OFFLINE ?= 1

.PHONY: demo test test-slow notebooks clean

$(VENV)/.installed: setup.cfg pyproject.toml
	@echo "Setting up $(VENV) (once; this downloads PyTorch) ..."
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check --editable ".[test]"
	@touch $@

demo: $(VENV)/.installed
	$(PY) -m sample.demo --device $(DEVICE) --out outputs/demo

test: $(VENV)/.installed
	$(PY) -m pytest -m "not slow and not gpu" -n auto --maxprocesses 8 --dist worksteal

notebooks: $(VENV)/.installed
	$(PY) -m pip install --quiet --disable-pip-version-check --editable ".[notebooks]"
	$(PY) -m jupyterlab notebooks

test-slow: $(VENV)/.installed
	$(PY) -m pytest -m slow

clean:
	rm -rf $(VENV) outputs
