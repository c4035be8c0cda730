# shellcheck shell=bash
# The Conductor boot JAR in a place where k1ops finds it. k1ops can fetch the JAR itself; on machines
# whose only way out is a Maven mirror that mvn is configured for, it has to be there already.

K1OPS_CONDUCTOR_VERSION=3.32.1
K1OPS_CONDUCTOR_SHA256=f3699a34bb72c35c10469a063392e5de4900bc4568c8a4357a711186d6269d3f

conductor_jar_in_maven() {
    local version="$K1OPS_CONDUCTOR_VERSION"
    printf '%s\n' "$HOME/.m2/repository/org/conductoross/conductor-server/$version/conductor-server-$version-boot.jar"
}

conductor_jar_is_there() {
    local jar
    [ -s "$(conductor_jar_in_maven)" ] && return 0
    for jar in "$K1OPS_CACHE"/jars/*"$K1OPS_CONDUCTOR_VERSION"*.jar; do
        [ -s "$jar" ] && return 0
    done
    return 1
}

ensure_conductor_jar() {
    local jar
    conductor_jar_is_there && return
    need_commands "Installing Maven" mvn:maven
    logged "Fetching Conductor $K1OPS_CONDUCTOR_VERSION (458 MB)" \
        mvn -B -ntp dependency:get -Dtransitive=false \
        "-Dartifact=org.conductoross:conductor-server:$K1OPS_CONDUCTOR_VERSION:jar:boot"
    jar="$(conductor_jar_in_maven)"
    [ -s "$jar" ] || return 0 # a Maven with a local repository elsewhere: k1ops will ask mvn again
    if ! echo "$K1OPS_CONDUCTOR_SHA256  $jar" | sha256sum --check --status; then
        rm -f "$jar"
        die "the fetched Conductor JAR does not have the expected SHA-256" \
            "It was removed. Check the Maven mirror, then run this again."
    fi
}
