# make demo: set up, then train and evaluate a detector on the embedded data set, and report on it
# make test: set up, then run the tests; one config of each family is trained
# make test-all: run the tests, then train every config; before a change of configs or modeling lands
# DETECTRON2=<pip requirement> takes Detectron2 from elsewhere, for example
#   make setup DETECTRON2='git+https://github.com/facebookresearch/detectron2.git@<commit>'

VENV ?= .venv
DETECTRON2 ?=
CONFIG ?= configs/Digits-LT/igam.yaml
OUTPUT ?= output/digits_lt_igam

PY := $(VENV)/bin/python
INSTALL := sh requirements/install.sh $(VENV)
# One stamp for each source of Detectron2, so that another source sets up again
READY := $(VENV)/.ready-$(firstword $(shell printf %s '$(DETECTRON2)' | cksum))

# Raised by Detectron2 and fvcore when they are imported; nothing a user of this project can mend
export PYTHONWARNINGS := ignore::FutureWarning:torch.jit._script,ignore::UserWarning:detectron2.model_zoo.model_zoo

.PHONY: setup demo test test-all lint format clean

setup: $(READY)

$(READY): setup.py $(wildcard requirements/*)
	@sh requirements/make_venv.sh $(VENV)
	@rm -f $(VENV)/.ready-* && touch $(VENV)/.unfinished
	$(INSTALL) torch
	$(INSTALL) project demo,bench,dev,detectron2,swin
	$(INSTALL) detectron2 '$(DETECTRON2)'
	$(PY) -W ignore -c 'import torch, torchvision, igam_d2.engine; print("ready: torch", torch.__version__)'
	@rm $(VENV)/.unfinished && touch $@

demo: setup
	$(PY) tools/prepare_digits_lt.py
	$(PY) train_net.py --config-file $(CONFIG) OUTPUT_DIR $(OUTPUT)
	$(PY) tools/report.py $(OUTPUT)

test: setup
	$(PY) -m pytest

test-all: test
	$(PY) -m pytest -m all_configs -vv

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/hadolint docker/Dockerfile
	$(VENV)/bin/shellcheck .ci/run docker/*.sh requirements/*.sh

format: setup
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache
