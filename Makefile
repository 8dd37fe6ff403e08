# make demo: set up, then train, evaluate and draw a detector on the embedded data set
# make test: set up, then run the tests
# DETECTRON2=<pip requirement> takes Detectron2 from elsewhere, for example
#   make setup DETECTRON2='git+https://github.com/facebookresearch/detectron2.git@<commit>'

VENV ?= .venv
DETECTRON2 ?=
CONFIG ?= configs/Digits-LT/igam.yaml
OUTPUT ?= output/digits_lt_igam

PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
# One stamp for each source of Detectron2, so that another source sets up again
READY := $(VENV)/.ready-$(firstword $(shell printf %s '$(DETECTRON2)' | cksum))

# Raised by Detectron2 and fvcore when they are imported; nothing a user of this project can mend
export PYTHONWARNINGS := ignore::FutureWarning:torch.jit._script,ignore::UserWarning:detectron2.model_zoo.model_zoo

.PHONY: setup demo test lint format clean

setup: $(READY)

$(READY): setup.py requirements/constraints.txt requirements/detectron2.txt requirements/make_venv.sh
	@sh requirements/make_venv.sh $(VENV)
	@rm -f $(VENV)/.ready-* && touch $(VENV)/.unfinished
	$(PIP) install --quiet -c requirements/constraints.txt 'setuptools<81' wheel
	$(PIP) install -c requirements/constraints.txt -e '.[demo,dev,detectron2]'
	@$(PIP) uninstall --quiet --yes sal-detectron2 detectron2 2>/dev/null || true
ifeq ($(DETECTRON2),)
	$(PIP) install --quiet --no-deps --only-binary=:all: --python-version 3.10 --upgrade \
	  --target "$$($(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
	  -r requirements/detectron2.txt
else
	$(PIP) install --no-deps --no-build-isolation '$(DETECTRON2)'
endif
	$(PY) -W ignore -c 'import torch, torchvision, igam_d2.engine; print("ready: torch", torch.__version__)'
	@rm $(VENV)/.unfinished && touch $@

demo: setup
	$(PY) tools/prepare_digits_lt.py
	$(PY) train_net.py --config-file $(CONFIG) OUTPUT_DIR $(OUTPUT)
	$(PY) tools/report.py $(OUTPUT)

test: setup
	$(PY) -m pytest

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

format: setup
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache
