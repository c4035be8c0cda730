# shellcheck shell=bash
# A small Debian system of another release in a folder, for what this system's own release is too
# old to offer.

# debian_tar NAME SUITE PACKAGE,...: prints the path of a tar of such a system, made once.
debian_tar() {
    local name="$1" suite="$2" packages="$3"
    local tar="$K1OPS_CACHE/debian/$name.tar" work
    if [ ! -f "$tar" ]; then
        need_commands "Installing debootstrap" debootstrap
        if [ ! -e /usr/share/keyrings/debian-archive-keyring.gpg ]; then
            install_packages "Installing Debian's keys" debian-archive-keyring
        fi
        mkdir -p "$K1OPS_CACHE/debian"
        # Device nodes and setuid files are made in it, which a cache folder on a nodev mount refuses.
        work="$(as_root mktemp -d /var/tmp/k1ops-debian.XXXXXX)"
        if ! attempt "Fetching Debian $suite with $packages (about a minute)" \
            as_root debootstrap --variant=minbase "--include=$packages" "$suite" "$work"; then
            as_root rm -rf --one-file-system "$work"
            exit 1
        fi
        as_root rm -rf "$work/var/cache/apt/archives" "$work/var/lib/apt/lists"
        as_root mkdir -p "$work/var/cache/apt/archives/partial" "$work/var/lib/apt/lists/partial"
        as_root tar -C "$work" -cf - . >"$tar.partial"
        as_root rm -rf --one-file-system "$work"
        mv "$tar.partial" "$tar"
    fi
    printf '%s\n' "$tar"
}

# Debian 13 with its Java, which both the set-up and the test bed take from.
trixie_java_tar() {
    debian_tar trixie-java21 trixie ca-certificates,curl,openjdk-21-jre-headless
}
