# shellcheck shell=bash
# OpenSSH's server for the tests, which start it on a free port with keys of their own. Installed, Debian's package would
# start it as a service; so where there is none it is only unpacked.

ensure_sshd() {
    local folder="$K1OPS_TOOLS/openssh-server"
    need_commands "Installing the SSH client" ssh:openssh-client ssh-keygen:openssh-client openssl
    if [ ! -x /usr/sbin/sshd ] && [ ! -x "$K1OPS_TOOLS/bin/sshd" ]; then
        refresh_package_lists
        logged "Fetching OpenSSH's server" unpack_sshd "$folder"
        if ldd "$folder/usr/sbin/sshd" | grep -q "not found"; then
            install_packages "Installing what OpenSSH's server needs" libwrap0
        fi
        ln -sf "$folder/usr/sbin/sshd" "$K1OPS_TOOLS/bin/sshd"
    fi
    # Run by root, it wants a user to be while it does not know who has come.
    if [ "$(id -u)" -eq 0 ] && ! getent passwd sshd >/dev/null; then
        useradd --system --home-dir /run/sshd --shell /usr/sbin/nologin sshd
    fi
}

unpack_sshd() {
    rm -rf "$1"
    mkdir -p "$1"
    cd "$1" || return
    apt-get download openssh-server
    dpkg -x openssh-server_*.deb .
    rm -f openssh-server_*.deb
}
