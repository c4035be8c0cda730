# shellcheck shell=bash
# Debian 12 has no Java 21. Debian 13's wants a newer C library than Debian 12's, so its JVM is
# taken out together with the libraries it needs, and its programs are pointed at those: the result
# is an ordinary JVM folder that runs without a chroot.

K1OPS_TRIXIE_JVM=/usr/lib/jvm/java-21-openjdk-trixie

install_java_from_trixie() {
    local tar work
    [ -x "$K1OPS_TRIXIE_JVM/bin/java" ] && return
    need_commands "Installing patchelf" patchelf
    tar="$(trixie_java_tar)"
    work="$(as_root mktemp -d /var/tmp/k1ops-java.XXXXXX)"
    logged "Making Java 21 usable on this system" unpack_trixie_java "$tar" "$work"
    as_root rm -rf --one-file-system "$work"
}

unpack_trixie_java() {
    local tar="$1" work="$2" libraries loader program
    as_root tar -C "$work" -xf "$tar"
    # Debian keeps the JVM's configuration in /etc behind absolute links: resolve them where they
    # lead somewhere, inside the other system. Dangling ones (documentation, optional files) go.
    # shellcheck disable=SC2016 # expands inside the other system
    as_root chroot "$work" sh -ec '
        cd /usr/lib/jvm
        home="$(echo java-21-openjdk-*)"
        find "$home" -xtype l -delete
        cp -aL "$home" /jvm'
    libraries="$K1OPS_TRIXIE_JVM/lib/system"
    as_root mkdir "$work/jvm/lib/system"
    # shellcheck disable=SC2016
    as_root sh -ec 'cp -aL "$1"/usr/lib/*-linux-gnu*/*.so* "$1/jvm/lib/system/"' _ "$work"
    loader="$(patchelf --print-interpreter "$work/jvm/bin/java")"
    # The system's own lookup would mix this machine's older libraries in. A search path of the old
    # kind (RPATH) on the program holds for everything it loads, however deep.
    for program in "$work"/jvm/bin/* "$work/jvm/lib/jspawnhelper" "$work/jvm/lib/jexec"; do
        patchelf --print-interpreter "$program" >/dev/null 2>&1 || continue
        as_root patchelf --set-interpreter "$libraries/$(basename "$loader")" "$program"
        as_root patchelf --force-rpath \
            --set-rpath "$libraries:$K1OPS_TRIXIE_JVM/lib:$K1OPS_TRIXIE_JVM/lib/server" "$program"
    done
    as_root mkdir -p "$(dirname "$K1OPS_TRIXIE_JVM")"
    as_root rm -rf "$K1OPS_TRIXIE_JVM"
    as_root cp -a "$work/jvm" "$K1OPS_TRIXIE_JVM.partial"
    as_root mv "$K1OPS_TRIXIE_JVM.partial" "$K1OPS_TRIXIE_JVM"
    "$K1OPS_TRIXIE_JVM/bin/java" -version
}
