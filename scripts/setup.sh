#!/bin/sh
# Makes the environment that `make demo` (step 1 and 2) and `make test` (step 1 to 3) work in, and a
# second one for the packages that the strategies are compared with.
#
#   scripts/setup.sh venv      a virtual environment
#   scripts/setup.sh run       gradhelm with its server and page, and torch, in it
#   scripts/setup.sh dev       what the tests need besides
#   scripts/setup.sh oracles   in $VENV, made if need be: the server and those packages
#   scripts/setup.sh chromium  prints the browser that the page's tests drive
#
# Reads VENV, PYTHON, TORCH, PIP_ARGS and CHROMIUM (see `make help`). Says what it does and ends
# with one line when something is missing.
set -eu

VENV=${VENV:-.venv}
PYTHON=${PYTHON:-}
TORCH=${TORCH:-torch}
PIP_ARGS=${PIP_ARGS:-}
CHROMIUM=${CHROMIUM:-}
CONSTRAINTS=constraints-dev.txt

say() { printf '%s\n' "$*"; }

stop() {
    printf 'gradhelm: %s\n' "$*" >&2
    exit 1
}

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }
# Debian ships venv without ensurepip until python3-venv is installed.
can_make_venv() { "$1" -c 'import venv, ensurepip' >/dev/null 2>&1; }

# Each candidate is run, not only looked up: version managers leave names on the PATH that fail.
find_python() {
    without_venv=
    for candidate in ${PYTHON:-python3.13 python3.12 python3.11 python3}; do
        new_enough "$candidate" || continue
        if can_make_venv "$candidate"; then
            PYTHON=$candidate
            return
        fi
        without_venv=${without_venv:-$candidate}
    done
    if [ -n "$without_venv" ]; then
        stop "$without_venv has no venv module; install it (Debian, Ubuntu: apt-get install python3-venv)"
    elif [ -n "$PYTHON" ]; then
        stop "PYTHON=$PYTHON is not a working Python 3.11 or newer"
    fi
    stop "no Python 3.11 or newer found; install one, or name it: make demo PYTHON=/path/to/python3"
}

pip_install() {
    # A person sees the downloads move; a log gets only what goes wrong.
    quiet=--quiet
    if [ -t 1 ]; then quiet=; fi
    # shellcheck disable=SC2086  # PIP_ARGS holds several words
    "$VENV/bin/python" -m pip install --disable-pip-version-check $quiet -c "$CONSTRAINTS" \
        $PIP_ARGS "$@" || stop "pip could not install $* (its own words are above)"
}

make_venv() {
    if [ -x "$VENV/bin/python" ] && new_enough "$VENV/bin/python"; then return; fi
    find_python
    say "[1/$1] making $VENV with $PYTHON ($("$PYTHON" -c 'import platform; print(platform.python_version())'))"
    "$PYTHON" -m venv --clear "$VENV" || stop "$PYTHON could not make $VENV"
}

case ${1:-} in
venv)
    make_venv 3
    ;;
run)
    say "[2/3] installing gradhelm, its server, its page and $TORCH (minutes the first time)"
    pip_install -e '.[all]' "$TORCH"
    ;;
dev)
    say "[3/3] installing what the tests need"
    pip_install pip # dependency groups need pip 25.1
    pip_install --group dev
    ;;
oracles)
    make_venv 2
    say "[2/2] installing the packages that the strategies are compared with (minutes the first time)"
    pip_install pip
    pip_install -e '.[server]' "$TORCH" --group oracles
    # timm asks for torchvision, and that for a torch of its own; the tests read one file of it.
    pip_install --no-deps timm
    ;;
chromium)
    for candidate in ${CHROMIUM:+"$CHROMIUM"} chromium chromium-browser google-chrome \
        "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"; do
        if command -v "$candidate" >/dev/null 2>&1; then
            command -v "$candidate"
            exit 0
        fi
        if [ -n "$CHROMIUM" ]; then stop "CHROMIUM=$CHROMIUM is not a program"; fi
    done
    stop "no Chromium for the tests of the page; install one (Debian: apt-get install chromium), or CHROMIUM=/path/to/it"
    ;;
*)
    stop "usage: scripts/setup.sh venv|run|dev|oracles|chromium"
    ;;
esac
