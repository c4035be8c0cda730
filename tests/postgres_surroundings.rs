//! What a database stands in, on a real server that may lack it: roles, locale, settings and
//! tablespaces.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may stop at the first surprise"
)]

#[path = "support/logical.rs"]
mod logical;
mod support;

use k1ops::archive::Manifest;
use logical::{Beside, assert_same_text, pg_dump, restore, take, take_as};
use support::{ScratchDatabase, on_server, postgres_url, scratch_database};

/// Roles of this process, dropped together with this value; declare it before the databases that
/// use them.
struct Roles(Vec<String>);

impl Roles {
    /// Each is told by its first word, with the attributes that follow.
    fn create(test: &str, all: &[&str]) -> Self {
        let mut roles = Self(Vec::new());
        for role in all {
            let (word, attributes) = role.split_once(' ').unwrap_or((role, ""));
            let name = format!("{word}_{test}_{}", std::process::id());
            on_server(&format!("CREATE ROLE {name} {attributes}"));
            roles.0.push(name);
        }
        roles
    }

    fn drop_all(&self) {
        for name in &self.0 {
            on_server(&format!("DROP ROLE IF EXISTS {name}"));
        }
    }

    /// Everything that the server knows of them, but for what is said of `without`.
    fn known(&self, without: &str) -> Vec<String> {
        let list = self.0.join("','");
        let server = ScratchDatabase {
            name: format!("k1ops_none_{}", self.0[0]),
            url: postgres_url(),
        };
        let known = server.column(&format!(
            "SELECT concat_ws(' ', rolname, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin,
                 rolreplication, rolbypassrls, rolconnlimit, extract(epoch FROM rolvaliduntil),
                 shobj_description(r.oid, 'pg_authid'), s.setconfig)
             FROM pg_roles r LEFT JOIN pg_db_role_setting s ON s.setrole = r.oid AND s.setdatabase = 0
             WHERE rolname IN ('{list}')
             UNION ALL
             SELECT format('%s in %s %s', m.rolname, g.rolname, a.admin_option) FROM pg_auth_members a
             JOIN pg_roles m ON m.oid = a.member JOIN pg_roles g ON g.oid = a.roleid
             WHERE m.rolname IN ('{list}') ORDER BY 1"
        ));
        known
            .into_iter()
            .filter(|line| without.is_empty() || !line.contains(without))
            .collect()
    }
}

impl Drop for Roles {
    fn drop(&mut self) {
        self.drop_all();
    }
}

fn drop_database(database: &ScratchDatabase) {
    on_server(&format!("DROP DATABASE {} WITH (FORCE)", database.name));
}

/// Whether the archive says that it does not hold something with all these words.
fn says_left_out(manifest: &Manifest, words: &[&str]) -> bool {
    let has = |text: &str| words.iter().all(|word| text.contains(word));
    manifest.left_out.iter().any(|left| has(&left.what))
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_that_a_server_lacks_come_back_with_their_groups_and_settings() {
    let all = [
        "a LOGIN CONNECTION LIMIT 3 VALID UNTIL '2031-02-03 04:05:06+00'",
        "set NOINHERIT",
        "z BYPASSRLS REPLICATION CREATEDB",
        "zz CREATEROLE",
        "super SUPERUSER",
    ];
    let roles = Roles::create("back", &all);
    let [a, set, z, zz, superuser] = roles.0.as_slice() else {
        panic!("five roles");
    };
    let live = scratch_database();
    let name = &live.name;
    live.run(&format!(
        "CREATE TABLE t(i int); ALTER TABLE t OWNER TO {a};
         GRANT {z}, pg_read_all_stats TO {a}; GRANT {zz} TO {z} WITH ADMIN OPTION; GRANT {superuser} TO {a};
         ALTER ROLE {z} SET work_mem = '7MB'; ALTER ROLE {z} SET search_path = s, public;
         ALTER ROLE {z} SET \"k1.word\" = 'it''s'; COMMENT ON ROLE {z} IS 'the ''last''';
         ALTER ROLE {set} IN DATABASE {name} SET statement_timeout = '9s'"
    ));
    let before = roles.known(superuser);
    assert_eq!(before.len(), 7, "{before:?}");
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("a.tar");
    let manifest = take(&live.address(), &place).await;
    assert!(says_left_out(&manifest, &["membership", a, superuser]));
    let dump = pg_dump(&live.address());

    let address = live.address();
    drop_database(&live);
    roles.drop_all();
    let beside = Beside::of(&live, "restored");
    restore(&place, &address, beside.name()).await.unwrap();
    assert_eq!(roles.known(superuser), before);
    assert_same_text(&dump, &pg_dump(&beside.address()));
    assert!(
        !roles.known("").join(" ").contains(superuser),
        "nobody becomes a superuser by a restore"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_is_there_stays_as_it_is() {
    let roles = Roles::create("there", &["a LOGIN", "z"]);
    let (a, z) = (&roles.0[0], &roles.0[1]);
    let live = scratch_database();
    live.run(&format!(
        "CREATE TABLE t(i int); ALTER TABLE t OWNER TO {a}; GRANT {z} TO {a};
         ALTER ROLE {a} SET work_mem = '7MB'"
    ));
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("a.tar");
    take(&live.address(), &place).await;
    on_server(&format!(
        "REVOKE {z} FROM {a}; ALTER ROLE {a} NOLOGIN; ALTER ROLE {a} RESET work_mem"
    ));
    let before = roles.known("");
    let beside = Beside::of(&live, "restored");
    restore(&place, &live.address(), beside.name())
        .await
        .unwrap();
    assert_eq!(roles.known(""), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_superuser_is_among_the_roles_if_it_owns_something() {
    let roles = Roles::create("first", &["owner"]);
    let live = scratch_database();
    let (name, owner) = (&live.name, &roles.0[0]);
    on_server(&format!("ALTER DATABASE {name} OWNER TO {owner}"));
    let first = live.column("SELECT rolname FROM pg_roles WHERE oid = 10");
    let folder = tempfile::tempdir().unwrap();
    let has = |manifest: &Manifest| {
        let all = &manifest.postgres().unwrap().roles;
        all.iter().any(|role| role.name == first[0])
    };
    live.run("CREATE EXTENSION pg_trgm");
    let nothing = take(&live.address(), &folder.path().join("a.tar")).await;
    assert!(!has(&nothing), "what an extension made is not dumped");
    live.run("CREATE TABLE t(i int)");
    let table = take(&live.address(), &folder.path().join("b.tar")).await;
    assert!(has(&table));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_make_the_roles_is_told_so_and_makes_none_of_them() {
    let who = Roles::create("who", &["who LOGIN CREATEDB CREATEROLE PASSWORD 'hush'"]);
    let roles = Roles::create("refused", &["a", "b BYPASSRLS", "z"]);
    let [a, b, z] = roles.0.as_slice() else {
        panic!("three roles");
    };
    let live = scratch_database();
    live.run(&format!(
        "CREATE TABLE t(i int); ALTER TABLE t OWNER TO {b}; GRANT SELECT ON t TO {a}; GRANT {z} TO {b}"
    ));
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("a.tar");
    take(&live.address(), &place).await;
    drop_database(&live);
    roles.drop_all();

    let (before, after) = live.url.split_once('@').unwrap();
    let (scheme, _) = before.split_once("://").unwrap();
    let url = format!("{scheme}://{}:hush@{after}", who.0[0]);
    let beside = Beside::of(&live, "restored");
    let error = restore(&place, &support::address(&url), beside.name())
        .await
        .unwrap_err();
    let said = error.to_string();
    assert!(said.contains("bypassrls") && said.contains(b), "{said}");
    let hint = error.hint_text().unwrap_or_default();
    assert!(hint.contains("superuser"), "{hint}");
    assert_eq!(roles.known(""), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_sorts_as_it_did() {
    let live = scratch_database();
    let german = Beside::of(&live, "icu");
    on_server(&format!(
        "CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C.UTF-8'
         LOCALE_PROVIDER icu ICU_LOCALE 'de-AT-u-co-phonebk'",
        german.name()
    ));
    german
        .0
        .run("CREATE TABLE word AS SELECT unnest(ARRAY['Ofen', 'Öfen', 'Oger', 'ofen']) AS w");
    let folder = tempfile::tempdir().unwrap();
    let beside = Beside::of(&live, "restored");
    for (number, database) in [&german.0, &live].into_iter().enumerate() {
        let place = folder.path().join(format!("{number}.tar"));
        take(&database.address(), &place).await;
        restore(&place, &live.address(), beside.name())
            .await
            .unwrap();
        assert_same_text(&pg_dump(&database.address()), &pg_dump(&beside.address()));
        if number == 0 {
            let sorted = "SELECT w FROM word ORDER BY w";
            assert_eq!(beside.0.column(sorted), german.0.column(sorted));
        }
        drop_database(&beside.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locale_that_the_server_lacks_is_named() {
    let live = scratch_database();
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("a.tar");
    take_as(&live.address(), &place, |source| {
        source.collate = "xx_XX.UTF-8".into();
    })
    .await;
    let beside = Beside::of(&live, "restored");
    let error = restore(&place, &live.address(), beside.name())
        .await
        .unwrap_err();
    let hint = error.hint_text().unwrap_or_default();
    assert!(hint.contains("\"xx_XX.UTF-8\" for LC_COLLATE"), "{hint}");
    assert!(hint.contains("locale-gen"), "{hint}");
    assert!(!hint.contains("CREATEDB"), "{hint}");
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_of_the_database_do_not_govern_backup_and_restore() {
    let live = scratch_database();
    let name = &live.name;
    live.run(
        "CREATE TABLE t(a text[], every interval, path text DEFAULT 'a\\b', CHECK (path <> 'c\\'));
         INSERT INTO t VALUES (ARRAY['NULL', NULL, 'x'], '-1 day +02:03:04', 'd\\');
         CREATE MATERIALIZED VIEW seen AS SELECT current_setting('k1.word', true) AS word;
         SELECT lo_from_bytea(0, 'large')",
    );
    let settings = [
        "default_transaction_read_only = on",
        "default_transaction_isolation = serializable",
        "session_replication_role = replica",
        "standard_conforming_strings = off",
        "array_nulls = off",
        "row_security = off",
        "statement_timeout = '9s'",
        "lock_timeout = '9s'",
        "idle_session_timeout = '9s'",
        "k1.word = 'it'",
    ];
    for setting in settings {
        on_server(&format!("ALTER DATABASE {name} SET {setting}"));
    }
    on_server(&format!(
        "ALTER ROLE postgres IN DATABASE {name} SET default_transaction_read_only = on"
    ));
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("a.tar");
    take(&live.address(), &place).await;
    let dump = pg_dump(&live.address());
    let beside = Beside::of(&live, "restored");
    restore(&place, &live.address(), beside.name())
        .await
        .unwrap();
    assert_same_text(&dump, &pg_dump(&beside.address()));
    let seen = "SELECT word FROM seen";
    assert_eq!(beside.0.column(seen), ["it"], "settings are there in time");
    let of_role = "SELECT setconfig FROM pg_db_role_setting WHERE setrole = 10 AND setdatabase =
        (SELECT oid FROM pg_database WHERE datname = current_database())";
    assert_eq!(beside.0.column(of_role), live.column(of_role));
}

/// A tablespace, dropped together with this value; declare it before the databases that use it.
struct Tablespace(String);

impl Tablespace {
    fn create() -> Self {
        let name = format!("k1ops space {}", std::process::id());
        // The server's own folder, wherever it is; not in one transaction with the setting.
        let server = support::address(&postgres_url());
        let sql = format!("CREATE TABLESPACE \"{name}\" LOCATION ''");
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(async {
                let session = k1ops::adapters::postgres::Session::open(&server)
                    .await
                    .unwrap();
                let allow = "SET allow_in_place_tablespaces = on";
                session.batch_execute(allow).await.unwrap();
                session.batch_execute(&sql).await.unwrap();
            });
        })
        .join()
        .unwrap();
        Self(name)
    }

    fn drop_it(&self) {
        on_server(&format!("DROP TABLESPACE IF EXISTS \"{}\"", self.0));
    }
}

impl Drop for Tablespace {
    fn drop(&mut self) {
        self.drop_it();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tablespace_is_used_where_there_is_one() {
    let tablespace = Tablespace::create();
    let live = scratch_database();
    let space = &tablespace.0;
    live.run(&format!(
        "CREATE TABLE plain(i int); CREATE TABLE t(i int PRIMARY KEY, j int) TABLESPACE \"{space}\";
         CREATE INDEX t_j ON t(j) TABLESPACE \"{space}\"; INSERT INTO t VALUES (1, 2);
         CREATE FUNCTION f() RETURNS text LANGUAGE sql AS $$
SELECT '
SET default_tablespace = \"{space}\";
' $$"
    ));
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("a.tar");
    let manifest = take(&live.address(), &place).await;
    assert!(says_left_out(&manifest, &["tablespace", space]));
    let dump = pg_dump(&live.address());
    let beside = Beside::of(&live, "restored");
    let address = live.address();
    restore(&place, &address, beside.name()).await.unwrap();
    assert_same_text(&dump, &pg_dump(&beside.address()));

    drop_database(&beside.0);
    drop_database(&live);
    tablespace.drop_it();
    restore(&place, &address, beside.name()).await.unwrap();
    assert_eq!(beside.0.column("SELECT j FROM t"), ["2"]);
    let spaces = "SELECT DISTINCT reltablespace FROM pg_class WHERE oid >= 16384";
    assert_eq!(beside.0.column(spaces), ["0"]);
    assert!(beside.0.column("SELECT f()")[0].contains(space));
}
