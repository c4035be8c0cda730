# shellcheck shell=bash
# Docker Compose v2, and v1 where the distribution still has it. k1ops works with both.

K1OPS_COMPOSE_VERSION=v2.39.4

ensure_compose_v2() {
    local plugins="${DOCKER_CONFIG:-$HOME/.docker}/cli-plugins"
    compose_v2_answers && return
    if have apt-get && package_exists docker-compose-v2; then
        install_packages "Installing Compose v2" docker-compose-v2
        compose_v2_answers && return
    fi
    go_program compose github.com/docker/compose/v2/cmd "$K1OPS_COMPOSE_VERSION" \
        "-X github.com/docker/compose/v2/internal.Version=$K1OPS_COMPOSE_VERSION"
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
