# shellcheck shell=bash
# Programs from Python packages, each in an environment of its own.

# python_environment DIR LABEL PACKAGE...: PACKAGEs in an environment in DIR, which is made once.
python_environment() {
    local dir="$1" label="$2"
    shift 2
    # What was broken off is made anew.
    if [ -e "$dir/complete" ]; then return; fi
    need_commands "Installing Python" python3
    python3 -c 'import ensurepip, venv' 2>/dev/null || install_packages "Installing Python's venv" python3-venv
    rm -rf "$dir"
    logged "$label" fill_python_environment "$dir" "$@"
}

fill_python_environment() {
    local dir="$1"
    shift
    python3 -m venv "$dir"
    "$dir/bin/pip" install --quiet --disable-pip-version-check "$@"
    touch "$dir/complete"
}
