# shellcheck shell=bash
# mdBook, built once into the project's cache.

K1OPS_MDBOOK_VERSION=0.5.4

ensure_mdbook() {
    if [ "$(mdbook --version 2>/dev/null)" = "mdbook v$K1OPS_MDBOOK_VERSION" ]; then return; fi
    logged "Building mdBook (some minutes, once)" cargo install --quiet --locked --force \
        --root "$K1OPS_TOOLS" --version "$K1OPS_MDBOOK_VERSION" --no-default-features --features search mdbook
}
