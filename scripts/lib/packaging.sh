# shellcheck shell=bash
# What a release is made with, built once into the project's cache.

K1OPS_CARGO_DEB_VERSION=3.8.0
K1OPS_CARGO_CYCLONEDX_VERSION=0.5.9

# ensure_cargo_tool NAME VERSION
ensure_cargo_tool() {
    local mark="$K1OPS_TOOLS/$1-$2"
    if [ -e "$mark" ] && [ -x "$K1OPS_TOOLS/bin/$1" ]; then return; fi
    logged "Building $1 (some minutes, once)" cargo install --quiet --locked --force \
        --root "$K1OPS_TOOLS" --version "$2" "$1"
    touch "$mark"
}

ensure_deb_packaging() {
    need_commands "Installing Debian's packaging tools" dpkg-deb:dpkg dpkg-shlibdeps:dpkg-dev lintian
    ensure_cargo_tool cargo-deb "$K1OPS_CARGO_DEB_VERSION"
}

ensure_cyclonedx() { ensure_cargo_tool cargo-cyclonedx "$K1OPS_CARGO_CYCLONEDX_VERSION"; }
