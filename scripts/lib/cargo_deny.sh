# shellcheck shell=bash
# cargo-deny, built once into the project's cache, and what of it can be checked from here.

K1OPS_CARGO_DENY_VERSION=0.20.2

ensure_cargo_deny() {
    if [ "$(cargo-deny --version 2>/dev/null)" = "cargo-deny $K1OPS_CARGO_DENY_VERSION" ]; then
        return
    fi
    logged "Building cargo-deny (some minutes, once)" cargo install --quiet --locked --force \
        --root "$K1OPS_TOOLS" --version "$K1OPS_CARGO_DENY_VERSION" cargo-deny
}

deny_without_advisories() { cargo deny --locked --log-level error check licenses bans sources; }

# The advisories live in a database on the network, which not every machine reaches.
advisories_are_reachable() { timeout 120 cargo deny --locked fetch db >/dev/null 2>&1; }

deny_advisories() { cargo deny --locked --log-level error check --disable-fetch advisories; }
