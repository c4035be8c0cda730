# shellcheck shell=bash
# The images that the tests run: the official ones where they can be pulled, else stand-ins built
# from Debian's packages that behave like them in what the stack uses. A stand-in never takes an
# official image's name.

K1OPS_TESTBED_PREFIX=k1ops-testbed
K1OPS_TESTBED_RECIPES="$K1OPS_ROOT/scripts/testbed.d"

K1OPS_GATEWAY_VERSION=v7.15.6
K1OPS_KEYCLOAK_VERSION=26.4.7

declare -A OFFICIAL_IMAGE=(
    [postgres]=postgres:15-alpine
    [redis]=redis:7-alpine
    [haproxy]=haproxy:3.0-alpine
    [java]=eclipse-temurin:21-jre
    [elasticsearch]=docker.elastic.co/elasticsearch/elasticsearch:7.17.15
    [gateway]=quay.io/oauth2-proxy/oauth2-proxy:$K1OPS_GATEWAY_VERSION-alpine
    [prometheus]=prom/prometheus:v3.5.0
    [postgres_exporter]=prometheuscommunity/postgres-exporter:v0.18.1
    [redis_exporter]=oliver006/redis_exporter:v1.74.0-alpine
    [node_exporter]=prom/node-exporter:v1.9.1
)
declare -A STAND_IN=(
    [postgres]=$K1OPS_TESTBED_PREFIX/postgres:15
    [redis]=$K1OPS_TESTBED_PREFIX/redis:7
    [haproxy]=$K1OPS_TESTBED_PREFIX/haproxy:2.6
    [java]=$K1OPS_TESTBED_PREFIX/java:21
    [elasticsearch]=$K1OPS_TESTBED_PREFIX/elasticsearch:7.17.15
    [gateway]=$K1OPS_TESTBED_PREFIX/oauth2-proxy:$K1OPS_GATEWAY_VERSION
    [prometheus]=$K1OPS_TESTBED_PREFIX/prometheus:2.42
    [postgres_exporter]=$K1OPS_TESTBED_PREFIX/postgres-exporter:0.11
    [redis_exporter]=$K1OPS_TESTBED_PREFIX/redis-exporter:1.45
    [node_exporter]=$K1OPS_TESTBED_PREFIX/node-exporter:1.5
    # Keycloak with a realm for the tests, which no official image has.
    [issuer]=$K1OPS_TESTBED_PREFIX/keycloak:$K1OPS_KEYCLOAK_VERSION
)
TESTBED_PARTS=(postgres redis haproxy java elasticsearch gateway prometheus postgres_exporter redis_exporter
    node_exporter issuer)

# A registry that did not answer once is not asked again in this run.
REGISTRY_ANSWERS=

load_images() {
    mapfile -t LOCAL_IMAGES < <(
        docker images --format '{{.Repository}}:{{.Tag}} {{.ID}}' | cut -d' ' -f1)
}

image_is_local() {
    local image
    for image in "${LOCAL_IMAGES[@]}"; do [ "$image" = "$1" ] && return 0; done
    return 1
}

# Prints the image that stands for a part on this machine, or fails.
image_of() {
    local image
    for image in "${OFFICIAL_IMAGE[$1]:-}" "${STAND_IN[$1]}"; do
        if image_is_local "$image"; then
            printf '%s\n' "$image"
            return 0
        fi
    done
    return 1
}

ensure_images() {
    local part
    load_images
    for part in "${TESTBED_PARTS[@]}"; do
        image_is_local "${OFFICIAL_IMAGE[$part]:-}" && continue
        stand_in_is_current "$part" && continue
        # A machine that has had to build one will not reach the registry today either.
        if ! image_is_local "${STAND_IN[$part]}" && pull_official "$part"; then continue; fi
        build_stand_in "$part"
        load_images
    done
}

pull_official() {
    local image="${OFFICIAL_IMAGE[$1]:-}"
    [ -n "$image" ] || return 1
    if [ -z "$REGISTRY_ANSWERS" ]; then
        # Its description is small: asking for it tells a slow registry from one out of reach.
        REGISTRY_ANSWERS=no
        if timeout 20 docker manifest inspect "$image" >>"$K1OPS_LOG" 2>&1; then REGISTRY_ANSWERS=yes; fi
    fi
    if [ "$REGISTRY_ANSWERS" = no ]; then
        say "$image cannot be pulled here; it gets a stand-in"
        return 1
    fi
    attempt "Pulling $image" docker pull --quiet "$image"
}

# What a stand-in is made of, as one number: changed recipes are built anew.
recipe_digest() {
    (cd "$K1OPS_TESTBED_RECIPES" && find "$1" -type f -print0 | sort -z | xargs -0 sha256sum) |
        sha256sum | cut -c1-16
}

stand_in_is_current() {
    image_is_local "${STAND_IN[$1]}" &&
        [ "$(docker image inspect --format '{{index .Config.Labels "k1ops.testbed.recipe"}}' \
            "${STAND_IN[$1]}")" = "$(recipe_digest "$1")" ]
}

# ensure_debian_image SUITE
ensure_debian_image() {
    local image="$K1OPS_TESTBED_PREFIX/debian:$1" tar
    image_is_local "$image" && return
    case "$1" in
        trixie) tar="$(trixie_java_tar)" ;;
        *) tar="$(debian_tar "$1" "$1" ca-certificates,curl)" ;;
    esac
    logged "Importing Debian $1" docker import "$tar" "$image"
    load_images
}

build_stand_in() {
    local part="$1" context="$K1OPS_TESTBED_RECIPES/$1" suite work
    suite="$(sed -n "s|^FROM $K1OPS_TESTBED_PREFIX/debian:||p" "$context/Dockerfile")"
    if [ -n "$suite" ]; then ensure_debian_image "$suite"; fi
    case "$part" in
        elasticsearch | issuer | gateway)
            work="$(mktemp -d "/var/tmp/k1ops-$part.XXXXXX")"
            cp -r "$context/." "$work"
            context="$work"
            "fetch_$part" "$work"
            ;;
    esac
    # The classic builder: an engine of the distribution comes without buildx.
    logged "Building ${STAND_IN[$part]}" env DOCKER_BUILDKIT=0 docker build \
        --label "k1ops.testbed.recipe=$(recipe_digest "$part")" --tag "${STAND_IN[$part]}" "$context"
    if [ -n "${work:-}" ]; then rm -rf "$work"; fi
}

fetch_elasticsearch() {
    ensure_java_stand_in
    logged "Fetching Elasticsearch's jars" mvn -B -ntp -q -f "$1/pom.xml" \
        dependency:copy-dependencies "-DoutputDirectory=$1/lib"
}

fetch_issuer() {
    ensure_java_stand_in
    logged "Fetching Keycloak" mvn -B -ntp -q dependency:copy \
        "-Dartifact=org.keycloak:keycloak-quarkus-dist:$K1OPS_KEYCLOAK_VERSION:tar.gz" \
        "-DoutputDirectory=$1" -Dmdep.stripVersion=true
}

fetch_gateway() {
    go_program oauth2-proxy github.com/oauth2-proxy/oauth2-proxy/v7 "$K1OPS_GATEWAY_VERSION"
    cp "$K1OPS_TOOLS/oauth2-proxy-$K1OPS_GATEWAY_VERSION" "$1/oauth2-proxy"
}

# Built on where the official Java was pulled as well.
ensure_java_stand_in() {
    need_commands "Installing Maven" mvn:maven
    if ! stand_in_is_current java; then build_stand_in java; fi
}
