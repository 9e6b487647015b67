# The private environment of this project, for the scripts beside this file; sourced by them (bash).
#
# `prepare_environment EXTRAS` makes .venv in the project's root if it is missing or stale, and installs
# the package into it with these extras ("" for none), *editable*: a later edit of the Python sources needs
# no second installation. What an installation depends on is kept as a stamp, so that nothing is done
# when nothing has changed.
# `prepare_mpmetrics` makes, within that, an environment of its own for mpmetrics, which benchmarks and tests compare
# the package with, and which needs an old prometheus_client.
# Sets: root (the project's root), python (the environment's interpreter), mpmetrics_python (that one's).

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
environment=$root/.venv
python=$environment/bin/python
mpmetrics_python=$environment/mpmetrics/bin/python

fail() {
    printf '%s: %s\n' "$(basename -- "$0")" "$1" >&2
    exit 1
}

prepare_environment() {
    local extras=$1 stamp=$environment/shmstats-installed${1:+-$1}
    # Whoever comes second waits for the first. The lock goes with the descriptor, which nobody inherits.
    exec 9<"$root/scripts"
    if command -v flock >/dev/null; then flock 9; fi
    if ! is_sound; then make_environment; fi
    if [ "$(cat -- "$stamp" 2>/dev/null)" != "$(state "$extras")" ]; then
        install_package "$extras"
        state "$extras" >"$stamp"
    fi
    exec 9<&-
}

# What the installation depends on, apart from sources that are used as they are.
state() {
    printf '%s\n' "$root" "$1" "CC=${CC-}" "SHMSTATS_WERROR=${SHMSTATS_WERROR-}"
    "$python" -c 'import sys; print(sys.version)' 9<&-
    (
        cd -- "$root"
        cksum setup.cfg setup.py shmstats/_version.py shmstats/*/*.[ch]
        ls shmstats/core/_cells.*.so shmstats/integrations/_exchange.*.so 2>/dev/null || true
    )
}

is_recent() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

# Whether the environment is there, runs, and was made at this place.
is_sound() {
    is_recent "$python" && [ "$(cat -- "$environment/shmstats-root" 2>/dev/null)" = "$root" ]
}

# The environment that is active may be the one that would be replaced, or be made of it: that is the user's.
check_none_is_active() {
    local active=${VIRTUAL_ENV-}
    if [ -n "$active" ] && [ -d "$active" ]; then active=$(cd -- "$active" && pwd -P); fi
    case $active/ in
    "$root"/*) fail "the environment $active is active and would be replaced: leave it first, by 'deactivate'" ;;
    esac
}

make_environment() {
    local base
    if [ -e "$environment" ]; then check_none_is_active; fi
    base=$(find_python)
    echo "Making a private environment in $environment ($("$base" --version))" >&2
    rm -rf -- "$environment"
    if "$base" -c 'import venv, ensurepip' 2>/dev/null; then
        quietly "$base" -m venv "$environment"
    elif "$base" -c 'import venv, pip' 2>/dev/null; then
        quietly "$base" -m venv --without-pip "$environment"
    else
        fail "$base can make no environment: it has neither ensurepip nor pip (Debian: apt install python3-venv)"
    fi
    printf '%s\n' "$base" >"$environment/shmstats-base"
    printf '%s\n' "$root" >"$environment/shmstats-root"
}

# The interpreter to make the environment with: $PYTHON, else the first one that is recent enough.
find_python() {
    local candidate seen=""
    for candidate in ${PYTHON:+"$PYTHON"} python3 python3.14 python3.13 python3.12 python3.11 python; do
        if is_recent "$candidate"; then
            command -v -- "$candidate"
            return
        fi
        if [ "$candidate" = "${PYTHON-}" ]; then fail "PYTHON=$PYTHON is not a Python of version 3.11 or later"; fi
        seen=${seen:-$("$candidate" --version 2>/dev/null || true)}
    done
    fail "needs Python 3.11 or later; found ${seen:-none}. Set PYTHON to one that is not in PATH"
}

# find_pythons [LEFT_OUT]: one interpreter for each minor version from 3.11 on, but for one. The newest may be Debian's.
find_pythons() {
    local candidate version newest=3.14 seen=" ${1-} "
    for candidate in python3.1{1,2,3,4} "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.*/bin/python; do
        if ! is_recent "$candidate"; then continue; fi
        version=$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        case $seen in *" $version "*) continue ;; esac
        seen+="$version "
        command -v -- "$candidate"
    done
    case $seen in *" $newest "*) return ;; esac
    "$root/scripts/fetch_python" "$newest" || echo "there is no Python $newest to be had" >&2
}

install_package() {
    echo "Installing the package${1:+ with [$1]} into $environment" >&2
    # With editable_mode=compat the sources' directory is a plain entry of sys.path: nothing to run at each start.
    (cd -- "$root" && pip_install --use-pep517 --config-settings editable_mode=compat --editable ".${1:+[$1]}")
}

pip_install() {
    local pip=("$python" -m pip)
    if ! "$python" -c 'import pip' 2>/dev/null; then
        pip=("$(cat -- "$environment/shmstats-base")" -m pip --python "$python")
    fi
    quietly "${pip[@]}" install --disable-pip-version-check --no-input "$@"
}

# Status 1 where it cannot be made: there may be no network, or no compiler.
prepare_mpmetrics() (
    environment=$environment/mpmetrics python=$mpmetrics_python
    exec 9<"$root/scripts"
    if command -v flock >/dev/null; then flock 9; fi
    if is_sound && "$python" -c 'import mpmetrics' 2>/dev/null; then return; fi
    make_environment
    echo "Installing mpmetrics into $environment" >&2
    pip_install 'mpmetrics >= 0.1' 'prometheus-client < 0.22'
)

# Run a command; show what it says only if it fails.
quietly() {
    local said status=0
    said=$("$@" 2>&1 9<&-) || status=$?
    if [ "$status" -ne 0 ]; then
        printf '%s\n' "$said" >&2
        fail "this command failed with exit code $status: $*"
    fi
}
