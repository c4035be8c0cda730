# shellcheck shell=bash
# A Rust toolchain that can build the project: whichever cargo is there if it is new enough, else
# one from rustup.

K1OPS_CARGO_BIN="${CARGO_HOME:-$HOME/.cargo}/bin"
case ":$PATH:" in
    *":$K1OPS_CARGO_BIN:"*) ;;
    *) export PATH="$PATH:$K1OPS_CARGO_BIN" ;;
esac

wanted_rust() { sed -n 's/^rust-version = "\(.*\)"/\1/p' "$K1OPS_ROOT/Cargo.toml"; }

rust_fits() {
    local version
    have cargo || return 1
    # From a folder without a rust-toolchain file, and never letting rustup fetch something here.
    version="$(RUSTUP_AUTO_INSTALL=0 cargo --version 2>/dev/null | cut -d' ' -f2)"
    [ -n "$version" ] && version_at_least "$version" "$(wanted_rust)"
}

install_rust() {
    local installer
    if have rustup; then
        logged "Updating Rust" rustup toolchain install stable --profile minimal \
            --component rustfmt --component clippy
        logged "Making the stable Rust the default" rustup default stable
        return
    fi
    need_commands "Installing curl" curl
    installer="$(mktemp)"
    logged "Downloading rustup" curl --proto '=https' --tlsv1.2 -fsSL --retry 3 \
        -o "$installer" https://sh.rustup.rs
    logged "Installing Rust" sh "$installer" -y --profile minimal --default-toolchain stable \
        --component rustfmt --component clippy
    rm -f "$installer"
    # A cargo of the distribution that is too old must not win over the new one.
    export PATH="$K1OPS_CARGO_BIN:$PATH"
}

ensure_rust() {
    rust_fits && return
    # An earlier run may have put the right one behind an old one of the distribution.
    export PATH="$K1OPS_CARGO_BIN:$PATH"
    hash -r
    rust_fits && return
    install_rust
    hash -r
    rust_fits || die "cargo is still older than $(wanted_rust)" \
        "Install Rust $(wanted_rust) or later by hand, then run this again."
}

# The test command needs the formatter and the linter too.
ensure_rust_checks() {
    if cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1; then
        return
    fi
    if have rustup; then
        logged "Installing rustfmt and clippy" rustup component add rustfmt clippy
    else
        install_packages "Installing rustfmt and clippy" rustfmt rust-clippy
    fi
}
