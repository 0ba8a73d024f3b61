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

# find_compiler: print the name of a C++ compiler; fail where there is none.
find_compiler() {
  local name
  for name in ${CXX:+"$CXX"} g++ clang++; do
    if command -v "$name" >/dev/null; then
      echo "$name"
      return
    fi
  done
  return 1
}

# compile_kernels NOTE COMPILER [OPTION...]: compile kernels/ and install it with pip's OPTIONs, where its sources, the
# compiler or Python have changed since the file NOTE was written; fail, with the reason in NOTE.log, where that fails.
compile_kernels() {
  local note=$1 compiler=$2 wanted
  shift 2
  wanted=$(.venv/bin/python - "$PWD" "$("$compiler" --version | head -n 1)" "$@" <<'PYTHON'
import hashlib, pathlib, sys

root = pathlib.Path("kernels")
files = [root / "CMakeLists.txt", root / "pyproject.toml", *sorted(root.glob("src/*")), *sorted(root.glob("python/*/*.py"))]
print(hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest(), *sys.version.split(), *sys.argv[1:])
PYTHON
  )
  if [ "$(cat "$note" 2>/dev/null)" = "$wanted" ]; then
    return
  fi
  rm -f "$note"
  say "compiling the kernels with $compiler (half a minute; again only when they change)"
  CXX=$compiler .venv/bin/python -m pip install -qq "$@" ./kernels >"$note.log" 2>&1 || return 1
  echo "$wanted" >"$note"
}

# install_kernels: have the kernels in .venv where there is a C++ compiler. All else works without them, so what
# keeps them away is said and no more; but in CI, what does not compile is an error.
install_kernels() {
  local compiler
  if ! compiler=$(find_compiler); then
    say "no C++ compiler: the kernels are left out, and devices train in NumPy (apt install g++)"
  elif ! compile_kernels .venv/installed-kernels "$compiler"; then
    if [ "${CI:-}" = true ]; then
      cat .venv/installed-kernels.log >&2
      die "the kernels do not compile"
    fi
    # Those of older sources must not stand in for them.
    .venv/bin/python -m pip uninstall -qq -y fedthings-kernels >/dev/null 2>&1 || true
    say "the kernels do not compile (.venv/installed-kernels.log says why): they are left out, and devices train in NumPy"
  fi
}
