# shellcheck shell=bash
# Docker Compose v2, and v1 where the distribution still has it. k1ops works with both.

K1OPS_COMPOSE_VERSION=v2.39.4
K1OPS_COMPOSE_GO=1.23

ensure_compose_v2() {
    local plugins="${DOCKER_CONFIG:-$HOME/.docker}/cli-plugins"
    compose_v2_answers && return
    if have apt-get && package_exists docker-compose-v2; then
        install_packages "Installing Compose v2" docker-compose-v2
        compose_v2_answers && return
    fi
    if [ ! -x "$K1OPS_TOOLS/compose-$K1OPS_COMPOSE_VERSION" ]; then
        if go_fits; then
            logged "Building Compose $K1OPS_COMPOSE_VERSION (some minutes, once)" build_compose
        else
            build_compose_in_container
        fi
    fi
    mkdir -p "$plugins"
    install -m 0755 "$K1OPS_TOOLS/compose-$K1OPS_COMPOSE_VERSION" "$plugins/docker-compose"
    compose_v2_answers || die "the built Compose plugin does not run"
}

compose_v2_answers() {
    # The file first: asking the client costs a start of client and plugin.
    local dir
    for dir in "${DOCKER_CONFIG:-$HOME/.docker}/cli-plugins" /usr/local/lib/docker/cli-plugins \
        /usr/local/libexec/docker/cli-plugins /usr/lib/docker/cli-plugins \
        /usr/libexec/docker/cli-plugins; do
        if [ -x "$dir/docker-compose" ]; then
            docker compose version --short >/dev/null 2>&1 && return 0
        fi
    done
    return 1
}

go_fits() {
    local version
    have go || return 1
    version="$(go env GOVERSION 2>/dev/null)"
    [ -n "$version" ] && version_at_least "${version#go}" "$K1OPS_COMPOSE_GO"
}

# The module cannot be had with `go install` because of its exclude directives; as a dependency of
# an empty module it can.
compose_recipe() {
    cat <<RECIPE
set -eu
cd "\$1"
go mod init composebuild
GOFLAGS=-mod=mod go get github.com/docker/compose/v2/cmd@$K1OPS_COMPOSE_VERSION
CGO_ENABLED=0 GOFLAGS=-mod=mod go build -trimpath \\
    -ldflags '-s -w -X github.com/docker/compose/v2/internal.Version=$K1OPS_COMPOSE_VERSION' \\
    -o docker-compose github.com/docker/compose/v2/cmd
RECIPE
}

build_compose() {
    local work
    work="$(mktemp -d /var/tmp/k1ops-compose.XXXXXX)"
    compose_recipe >"$work/recipe"
    if ! sh "$work/recipe" "$work"; then
        rm -rf "$work"
        exit 1
    fi
    install -m 0755 "$work/docker-compose" "$K1OPS_TOOLS/compose-$K1OPS_COMPOSE_VERSION"
    rm -rf "$work"
}

# Debian 12's Go is too old; Debian 13's, in a container, is not. The container trusts whom this
# machine trusts and goes out the way this machine does.
build_compose_in_container() {
    local work
    ensure_debian_image trixie
    work="$(mktemp -d /var/tmp/k1ops-compose.XXXXXX)"
    compose_recipe >"$work/recipe"
    logged "Building Compose $K1OPS_COMPOSE_VERSION in a container (some minutes, once)" \
        docker run --rm --network host -v "$work:/work" \
        -v "${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}:/certificates.crt:ro" \
        -e SSL_CERT_FILE=/certificates.crt -e HTTP_PROXY -e HTTPS_PROXY -e NO_PROXY \
        -e GOPROXY -e GOSUMDB -e GOFLAGS=-buildvcs=false -e DEBIAN_FRONTEND=noninteractive \
        "$K1OPS_TESTBED_PREFIX/debian:trixie" sh -euc '
            apt-get update -q
            apt-get install -y -q --no-install-recommends golang-go ca-certificates
            sh /work/recipe /work'
    install -m 0755 "$work/docker-compose" "$K1OPS_TOOLS/compose-$K1OPS_COMPOSE_VERSION"
    as_root rm -rf "$work"
}

# Prints the command of a Compose v1, where there is one.
compose_v1() {
    local path
    path="$(command -v docker-compose)" || return 1
    # Newer distributions call version 2 by this name.
    grep -qI python "$path" 2>/dev/null || return 1
    printf '%s\n' "$path"
}

ensure_compose_v1() {
    compose_v1 >/dev/null && return
    have docker-compose && return
    have apt-get || return 0
    refresh_package_lists
    if [[ "$(apt-cache policy docker-compose)" == *"Candidate: 1."* ]]; then
        install_packages "Installing Compose v1" docker-compose
    fi
}
