# shellcheck shell=bash
# Packages from the distribution, installed only when something they bring is missing, and what can
# be said about versions.

export DEBIAN_FRONTEND=noninteractive

apt_get() {
    # Another apt may be running (unattended upgrades on a fresh machine): wait for it.
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=600 "$@"
}

refresh_package_lists() {
    local newest
    newest="$(find /var/lib/apt/lists -maxdepth 1 -name '*_Packages*' -mmin -1440 -print -quit 2>/dev/null || true)"
    if [ -z "$newest" ]; then
        logged "Refreshing the package lists" apt_get update
    fi
}

# install_packages TEXT PACKAGE...
install_packages() {
    local text="$1"
    shift
    have apt-get || die "$* must be installed, and this system has no apt-get" \
        "Install the equivalent of '$*' with your package manager, then run this again."
    refresh_package_lists
    if ! attempt "$text ($*)" apt_get install --no-install-recommends "$@"; then
        # Lists that are hours old can name files that are no longer there.
        logged "Refreshing the package lists" apt_get update
        logged "$text ($*), second try" apt_get install --no-install-recommends "$@"
    fi
}

# True if the distribution offers the package.
package_exists() {
    refresh_package_lists
    [ -n "$(apt-cache show --no-all-versions "$1" 2>/dev/null)" ]
}

# need_commands TEXT COMMAND[:PACKAGE]...: installs the packages of the commands that are missing.
need_commands() {
    local text="$1" entry
    local -a missing=()
    shift
    for entry in "$@"; do
        have "${entry%%:*}" || missing+=("${entry##*:}")
    done
    if [ ${#missing[@]} -gt 0 ]; then
        install_packages "$text" "${missing[@]}"
    fi
}

# version_at_least HAVE WANT
version_at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }
