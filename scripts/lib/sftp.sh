# shellcheck shell=bash
# An SFTP server for the tests, which asks for a key: OpenSSH's own sftp-server, and AsyncSSH in Python before it, so
# that no SSH daemon is installed as a service.

K1OPS_ASYNCSSH_VERSION=2.22.0

ensure_sftp_server() {
    local environment="$K1OPS_TOOLS/asyncssh-$K1OPS_ASYNCSSH_VERSION"
    need_commands "Installing the SSH client" ssh:openssh-client ssh-keygen:openssh-client
    [ -x /usr/lib/openssh/sftp-server ] || install_packages "Installing OpenSSH's sftp-server" openssh-sftp-server
    python_environment "$environment" "Installing the SSH server AsyncSSH" "asyncssh==$K1OPS_ASYNCSSH_VERSION"
    printf '#!/bin/sh\nexec "%s/bin/python3" "$@"\n' "$environment" >"$K1OPS_TOOLS/bin/asyncssh-python.new"
    chmod +x "$K1OPS_TOOLS/bin/asyncssh-python.new"
    mv "$K1OPS_TOOLS/bin/asyncssh-python.new" "$K1OPS_TOOLS/bin/asyncssh-python"
}
