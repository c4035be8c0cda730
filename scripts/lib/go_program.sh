# shellcheck shell=bash
# Programs that are built from the Go module proxy, once for each version. Sourced by what needs one.

# Older ones do not know how to fetch the toolchain that a module asks for.
K1OPS_OLDEST_GO=1.21

go_fits() {
    local version
    have go || return 1
    version="$(go env GOVERSION 2>/dev/null)"
    [ -n "$version" ] && version_at_least "${version#go}" "$K1OPS_OLDEST_GO"
}

# go_program NAME PACKAGE VERSION LDFLAGS: builds $K1OPS_TOOLS/NAME-VERSION unless it is there.
go_program() {
    local name="$1" version="$3" built="$K1OPS_TOOLS/$1-$3"
    [ -x "$built" ] && return
    if go_fits; then
        logged "Building $name $version (some minutes, once)" build_go_program "$@"
    else
        build_go_program_in_container "$@"
    fi
}

# A module with exclude or replace directives cannot be had with `go install`; as a dependency of an
# empty module it can.
go_recipe() {
    cat <<RECIPE
set -eu
cd "\$1"
export GOTOOLCHAIN=auto
go mod init build
GOFLAGS=-mod=mod go get $2@$3
CGO_ENABLED=0 GOFLAGS=-mod=mod go build -trimpath -ldflags '-s -w ${4:-}' -o program $2
RECIPE
}

build_go_program() {
    local work
    work="$(mktemp -d "/var/tmp/k1ops-$1.XXXXXX")"
    go_recipe "$@" >"$work/recipe"
    if ! sh "$work/recipe" "$work"; then
        rm -rf "$work"
        exit 1
    fi
    install -m 0755 "$work/program" "$K1OPS_TOOLS/$1-$3"
    rm -rf "$work"
}

# Debian 12's Go is too old; Debian 13's, in a container, is not. The container trusts whom this
# machine trusts and goes out the way this machine does.
build_go_program_in_container() {
    local work
    ensure_debian_image trixie
    work="$(mktemp -d "/var/tmp/k1ops-$1.XXXXXX")"
    go_recipe "$@" >"$work/recipe"
    logged "Building $1 $3 in a container (some minutes, once)" \
        docker run --rm --network host -v "$work:/work" \
        -v "${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}:/certificates.crt:ro" \
        -e SSL_CERT_FILE=/certificates.crt -e HTTP_PROXY -e HTTPS_PROXY -e NO_PROXY \
        -e GOPROXY -e GOSUMDB -e GOFLAGS=-buildvcs=false -e DEBIAN_FRONTEND=noninteractive \
        "$K1OPS_TESTBED_PREFIX/debian:trixie" sh -euc '
            apt-get update -q
            apt-get install -y -q --no-install-recommends golang-go ca-certificates
            sh /work/recipe /work'
    install -m 0755 "$work/program" "$K1OPS_TOOLS/$1-$3"
    as_root rm -rf "$work"
}
