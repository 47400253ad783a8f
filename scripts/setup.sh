# Sourced by the other scripts: makes .venv and installs into it, once a set of requirements. Usage: set_up FILE
# Set PYTHON to choose an interpreter (3.10 to 3.13).

python_for_venv() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10 python}; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "error: no Python 3.10 to 3.13 found; install one, or name it: PYTHON=/path/to/python3 bash $0" >&2
    return 2
}

install_into_venv() {
    if .venv/bin/uv --version >/dev/null 2>&1; then
        .venv/bin/uv pip install --quiet --python .venv/bin/python "$@"
    else
        .venv/bin/python -m pip install --quiet --disable-pip-version-check "$@"
    fi
}

set_up() {
    local requirements=$1 python stamp
    stamp=".venv/.installed-$(cat "$requirements" requirements*.txt | cksum | cut -d' ' -f1)"
    [ -e "$stamp" ] && return 0
    if ! .venv/bin/python -c '' 2>/dev/null; then
        python=$(python_for_venv) || return 2
        echo "making .venv with $("$python" --version)"
        if ! "$python" -m venv --clear .venv; then
            echo "error: $python cannot make virtual environments; install its venv module (Debian: python3-venv)" >&2
            return 2
        fi
    fi
    echo "installing $requirements (PyTorch is several GB; once)"
    .venv/bin/python -c 'import pip' 2>/dev/null || .venv/bin/python -m ensurepip >/dev/null # a venv made by uv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check uv==0.13.8 2>/dev/null ||
        echo "uv is not to be had here, going on with pip (slower)"
    if ! install_into_venv -r "$requirements"; then
        [ "$requirements" = requirements.txt ] && return 2
        echo "warning: pydensecrf2 needs a C++ compiler; going on without it, its tests will be skipped" >&2
        grep -v '^pydensecrf2' "$requirements" >.venv/without-compiler.txt
        sed -i.bak 's|^-r requirements|-r ../requirements|' .venv/without-compiler.txt
        install_into_venv -r .venv/without-compiler.txt || return 2
        return 0 # no stamp: the next run tries again
    fi
    touch "$stamp"
}
