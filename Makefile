# make demo    a caption becomes a picture, on the shipped weights    (DEVICE=cuda make demo: on a GPU)
# make test    the tests
# Both create .venv on first use and reuse it after. Constraints for pip, if any: PIP_CONSTRAINT=file make test

PYTHON ?= python3
DEVICE ?= cpu
VENV := .venv
PY := $(VENV)/bin/python
export HF_HUB_OFFLINE ?= 1

.PHONY: demo test test-slow clean

$(VENV)/.installed: setup.cfg pyproject.toml
	@echo "Setting up $(VENV) (once; this downloads PyTorch) ..."
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check --editable ".[test]"
	@touch $@

demo: $(VENV)/.installed
	$(PY) -m sample.demo --device $(DEVICE) --out outputs/demo

test: $(VENV)/.installed
	$(PY) -m pytest

test-slow: $(VENV)/.installed
	$(PY) -m pytest -m slow

clean:
	rm -rf $(VENV) outputs
