# shellcheck shell=bash
# A WebDAV server for the tests: WsgiDAV, in Python.

K1OPS_WSGIDAV_VERSION=4.3.3
K1OPS_CHEROOT_VERSION=11.1.2

ensure_webdav_server() {
    local environment="$K1OPS_TOOLS/wsgidav-$K1OPS_WSGIDAV_VERSION"
    python_environment "$environment" "Installing the WebDAV server WsgiDAV" \
        "wsgidav==$K1OPS_WSGIDAV_VERSION" "cheroot==$K1OPS_CHEROOT_VERSION"
    ln -sfn "$environment/bin/wsgidav" "$K1OPS_TOOLS/bin/wsgidav"
}
