#!/bin/sh
# Makes the virtual environment $1 with Python 3.11 or 3.12, unless a finished one is there.
set -eu
venv=$1

if [ -e "$venv/.unfinished" ]; then
    echo "An earlier set-up of $venv was interrupted: starting it anew."
    rm -rf "$venv"
fi
[ -x "$venv/bin/python" ] && "$venv/bin/python" -m pip --version >/dev/null 2>&1 && exit 0

for python in python3 python3.12 python3.11; do
    # Run it: a version manager leaves commands behind that only print an error.
    if "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] not in [(3, 11), (3, 12)])' \
        >/dev/null 2>&1; then
        echo "Making $venv with $($python --version) (several minutes and 6 GB)."
        mkdir -p "$venv"
        touch "$venv/.unfinished"
        "$python" -m venv "$venv"
        exit 0
    fi
done
echo "Python 3.11 or 3.12 with venv is needed, as python3, python3.12 or python3.11; python3 is" \
    "$(python3 --version 2>&1 || true). On Debian: apt-get install python3-venv." >&2
exit 1
