# Sourced by scripts/demo and scripts/test: finds Python, makes .venv where there is none, installs into it.
# Needs bash and Python >= 3.11, nothing else.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PYTHONUTF8=1
# Arrays are small here and processes many: a thread each is fastest, and decides the bits (law 2).
export OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

say() { printf '%s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

# find_python: print the name of a Python >= 3.11.
find_python() {
  local name
  for name in python3 python3.14 python3.13 python3.12 python3.11 python; do
    if command -v "$name" >/dev/null && new_enough "$name"; then
      echo "$name"
      return
    fi
  done
  die "fedthings needs Python 3.11 or newer, and there is none on PATH: install it, such as with: apt install python3 python3-venv"
}

# make_venv: see that there is a .venv with a Python that is new enough.
make_venv() {
  if [ ! -x .venv/bin/python ]; then
    local python
    python=$(find_python)
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
      die "$python has no venv module, which .venv is made with: apt install python3-venv"
    say "making .venv with $("$python" --version)"
    rm -rf .venv
    "$python" -m venv .venv || die ".venv could not be made: apt install python3-venv"
  fi
  new_enough .venv/bin/python || die ".venv has $(.venv/bin/python --version 2>&1), older than 3.11: remove it, and try again"
}

# install EXTRA [REQUIREMENT...]: install the requirements one by one, then the project with EXTRA, where
# pyproject.toml has changed since it was last done.
install() {
  local extra=$1 wanted have
  shift
  wanted=$(.venv/bin/python -c 'import hashlib, sys; print(hashlib.sha256(open("pyproject.toml", "rb").read()).hexdigest(), *sys.argv[1:])' "$PWD" "$@")
  # The extra dev has all that the demo needs.
  for have in ".venv/installed-$extra" .venv/installed-dev; do
    if [ -f "$have" ] && [[ "$(cat "$have")" == "$wanted"* ]]; then
      return
    fi
  done
  say "installing fedthings[$extra] into .venv (once; it may take some minutes)"
  .venv/bin/python -m pip --version >/dev/null 2>&1 ||
    .venv/bin/python -m ensurepip >/dev/null 2>&1 ||
    die ".venv has no pip: remove .venv, apt install python3-venv, and try again"
  local requirement
  for requirement in "$@"; do
    .venv/bin/python -m pip install -qq "$requirement" || die "$requirement could not be installed"
  done
  .venv/bin/python -m pip install -qq --editable ".[$extra]" || die "fedthings[$extra] could not be installed"
  echo "$wanted" >".venv/installed-$extra"
}
