//! The server's own `pg_dump`: found by version, run without a secret on its command line, and
//! believed only with exit code 0 *and* its end marker.
