# shellcheck shell=bash
# Azure Blob Storage for the tests: Azurite, which is Microsoft's own, with Microsoft's client, which knows
# nothing of k1ops.

K1OPS_AZURITE_VERSION=3.35.0
K1OPS_AZURE_CLIENT_VERSION=12.28.0

ensure_azure_server() {
    local folder="$K1OPS_TOOLS/azurite-$K1OPS_AZURITE_VERSION"
    need_commands "Installing Node.js" node:nodejs npm
    if [ ! -e "$folder/complete" ]; then
        rm -rf "$folder"
        mkdir -p "$folder"
        logged "Installing the Azure Blob Storage server Azurite" npm install --silent --no-fund --no-audit \
            --omit=dev --omit=optional --ignore-scripts --prefix "$folder" \
            "azurite@$K1OPS_AZURITE_VERSION" "@azure/storage-blob@$K1OPS_AZURE_CLIENT_VERSION"
        touch "$folder/complete"
    fi
    ln -sfn "$folder/node_modules/.bin/azurite-blob" "$K1OPS_TOOLS/bin/azurite-blob"
}
