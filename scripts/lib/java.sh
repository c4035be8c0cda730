# shellcheck shell=bash
# A Java that Conductor 3.32.1 runs on (21 or later). Looked for where k1ops itself looks; only a
# machine that has none gets one.

K1OPS_JAVA_WANTED=21

# java_major HOME: the feature version, from the file every JDK and JRE carries, or by asking.
java_major() {
    local version
    [ -x "$1/bin/java" ] || return 1
    version="$(sed -n 's/^JAVA_VERSION="\([0-9]*\).*/\1/p' "$1/release" 2>/dev/null || true)"
    if [ -z "$version" ]; then
        version="$("$1/bin/java" -version 2>&1 | sed -n '1s/.*version "\([0-9]*\).*/\1/p')"
    fi
    [ -n "$version" ] && printf '%s\n' "$version"
}

# Prints the home of the first fitting Java.
find_java() {
    local home major on_path
    local -a homes=()
    if [ -n "${JAVA_HOME:-}" ]; then homes+=("$JAVA_HOME"); fi
    if on_path="$(command -v java)"; then
        homes+=("$(dirname "$(dirname "$(readlink -f "$on_path")")")")
    fi
    homes+=(/usr/lib/jvm/*)
    for home in "${homes[@]}"; do
        if major="$(java_major "$home")" && [ "$major" -ge "$K1OPS_JAVA_WANTED" ]; then
            printf '%s\n' "$home"
            return 0
        fi
    done
    return 1
}

ensure_java() {
    local package
    find_java >/dev/null && return
    for package in openjdk-25-jre-headless openjdk-21-jre-headless; do
        if have apt-get && package_exists "$package"; then
            install_packages "Installing Java" "$package"
            break
        fi
    done
    find_java >/dev/null && return
    # shellcheck source=scripts/lib/debian_root.sh
    . "$K1OPS_ROOT/scripts/lib/debian_root.sh"
    # shellcheck source=scripts/lib/java_from_trixie.sh
    . "$K1OPS_ROOT/scripts/lib/java_from_trixie.sh"
    install_java_from_trixie
    find_java >/dev/null || die "no Java $K1OPS_JAVA_WANTED or later could be installed" \
        "Install one by hand and set JAVA_HOME, then run this again."
}
