# shellcheck shell=bash
# What judges the files for clusters: Helm itself, and a program that decodes manifests and dashboards by the
# types of Kubernetes and Grafana. Both are built once into the project's cache.

K1OPS_HELM_VERSION=v3.19.5
K1OPS_MANIFESTS_SOURCE="$K1OPS_ROOT/scripts/manifests"

ensure_cluster_tools() {
    # Without a container, which would need an engine: this is asked for before there is one.
    go_fits || install_go
    go_program helm helm.sh/helm/v3/cmd/helm "$K1OPS_HELM_VERSION"
    ln -sfn "$K1OPS_TOOLS/helm-$K1OPS_HELM_VERSION" "$K1OPS_TOOLS/bin/helm"
    ensure_manifests_checker
}

ensure_manifests_checker() {
    local built
    built="$K1OPS_TOOLS/manifests-$(cat "$K1OPS_MANIFESTS_SOURCE"/* | sha256sum | cut -c1-16)"
    if [ ! -x "$built" ]; then
        logged "Building the checker of manifests (some minutes, once)" build_manifests_checker "$built"
    fi
    ln -sfn "$built" "$K1OPS_TOOLS/bin/k1ops-manifests"
}

build_manifests_checker() {
    cd "$K1OPS_MANIFESTS_SOURCE" || exit
    GOTOOLCHAIN=auto CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o "$1.new" .
    mv "$1.new" "$1"
}
