#!/bin/sh
# One step of the installation into the virtual environment $1. `make setup` runs the three in order, and
# docker/Dockerfile makes a layer of each, so that the two cannot drift apart.
#   torch
#   project <extras of setup.py>
#   detectron2 [<pip requirement>]   without one: the pure-Python build of requirements/detectron2.txt
set -eu
python=$1/bin/python
step=$2
pip() {
    "$python" -m pip --disable-pip-version-check "$@"
}

case $step in
torch)
    pip install --quiet -c requirements/constraints.txt 'setuptools<81' wheel
    pip install -c requirements/constraints.txt torch torchvision
    ;;
project)
    pip install -c requirements/constraints.txt -e ".[$3]"
    ;;
detectron2)
    # Two names for the same files: neither may be left over from an earlier set-up
    pip uninstall --quiet --yes sal-detectron2 detectron2 2>/dev/null || true
    if [ -n "${3-}" ]; then
        pip install --no-deps --no-build-isolation "$3"
    else
        pip install --quiet --no-deps --only-binary=:all: --python-version 3.10 --upgrade \
            --target "$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
            -r requirements/detectron2.txt
    fi
    ;;
*)
    echo "There is no step '$step'." >&2
    exit 2
    ;;
esac
