//! The settings: their bounds, and who may change them.

use super::fixture::{Cluster, Database, messages, refused};

/// Loads the library, which defines the settings.
const LOAD: &str = "LOAD '$libdir/s3_export'";

#[test]
fn each_setting_has_its_default_and_its_bounds() {
    let db = Database::new("bounds");
    let mut client = db.client();
    client.batch_execute(LOAD).unwrap();
    for (name, default, low, too_low, too_high) in [
        ("output_chunk_size", "1000", "1", "0", "2147483648"),
        ("buffer_memory", "128MB", "16MB", "16383kB", "3TB"),
        ("upload_concurrency", "160", "1", "0", "1025"),
        ("cleanup_timeout", "5s", "0", "-1", "25d"),
        ("commit_timeout", "1min", "1ms", "0", "25d"),
        ("max_exports", "0", "0", "-1", "1025"),
        ("max_exports_wait", "-1", "-1", "-2", "25d"),
        ("max_bandwidth", "0", "0", "-1", "3TB"),
    ] {
        let show = format!("SHOW s3_export.{name}");
        assert_eq!(client.text(&show), default);
        client.batch_execute(&format!("SET s3_export.{name} = '{low}'")).unwrap();
        assert_eq!(client.text(&show), low);
        for bad in [too_low, too_high, "x"] {
            refused(client.batch_execute(&format!("SET s3_export.{name} = '{bad}'"))).sqlstate("22023");
        }
        assert_eq!(client.text(&show), low);
    }
}

#[test]
fn a_user_may_set_the_chunk_size_and_nothing_else() {
    let db = Database::new("who_may_set");
    let role = db.role("user", &["s3_export_member"]);
    let mut client = db.client_as(&role);
    client.batch_execute("SELECT 1 FROM s3_export.integrations").unwrap();
    db.export_in(&mut client, "SELECT 1 AS a", "").unwrap();
    client.batch_execute("SET s3_export.output_chunk_size = 7").unwrap();
    for setting in
        ["buffer_memory = '16MB'", "upload_concurrency = 1", "cleanup_timeout = 0", "commit_timeout = 1", "key_file = '/x'"]
    {
        refused(client.batch_execute(&format!("SET s3_export.{setting}"))).sqlstate("42501");
    }
    refused(client.simple_query("SHOW s3_export.key_file")).sqlstate("42501");
    assert_eq!(client.text("SHOW s3_export.buffer_memory"), "128MB");
    let grant = format!("GRANT SET ON PARAMETER s3_export.buffer_memory TO {role}");
    let mut superuser = db.client();
    superuser.batch_execute(&format!("{LOAD}; {grant}")).unwrap();
    client.batch_execute("SET s3_export.buffer_memory = '16MB'").unwrap();
    superuser.batch_execute(&format!("REVOKE SET ON PARAMETER s3_export.buffer_memory FROM {role}")).unwrap();
}

/// Before the library is loaded, Postgres takes any value from anybody, and asks again when it is.
#[test]
fn what_was_set_before_the_library_was_loaded_is_checked_when_it_is() {
    let db = Database::new("placeholders");
    let mut client = db.client_as(&db.role("early", &["s3_export_member"]));
    client
        .batch_execute(
            "SET s3_export.key_file = '/tmp/evil'; SET s3_export.commit_timeout = 1; SET s3_export.output_chunk_size = 2",
        )
        .unwrap();
    let exported = db.export_in(&mut client, "SELECT generate_series(1, 4) AS i", "").unwrap();
    assert_eq!(exported.files, 2);
    assert_eq!(client.text("SHOW s3_export.commit_timeout"), "1min");
    assert!(messages(&client.notices()).contains("permission denied to set parameter \"s3_export.key_file\""));
}

/// Until the library is loaded, Postgres does not know that these are for superusers.
#[test]
fn settings_for_superusers_are_hidden_where_the_library_is_loaded_with_each_connection() {
    let db = Database::new("preloaded");
    let plain = db.role("plain", &[]);
    db.client().batch_execute(&format!("ALTER DATABASE {} SET session_preload_libraries = 's3_export'", db.name)).unwrap();
    let mut client = db.client_as(&plain);
    for setting in ["s3_export.key_file", "s3_export.inline_roles"] {
        refused(client.simple_query(&format!("SHOW {setting}"))).sqlstate("42501");
        refused(client.query(&format!("SELECT current_setting('{setting}', true)"), &[])).sqlstate("42501");
        assert_eq!(client.text(&format!("SELECT count(*) FROM pg_settings WHERE name = '{setting}'")), "0");
    }
    assert_eq!(client.text("SHOW s3_export.buffer_memory"), "128MB");
}

/// No SQL shows the environment's variable to anybody.
#[test]
fn the_key_file_may_be_named_by_the_servers_environment() {
    let db = Database::new("key_variable");
    db.client().batch_execute(&format!("ALTER DATABASE {} SET s3_export.key_file = ''", db.name)).unwrap();
    db.refuse("SELECT 1 AS a", "").sqlstate("55000").message("no key file").hint("S3_EXPORT_KEY_FILE");
    let keys = db.environment().run_dir.join("s3_export.keys");
    let cluster = Cluster::standby_with(&[("S3_EXPORT_KEY_FILE", keys.to_str().unwrap())]);
    let mut client = cluster.session(&db.name, "postgres");
    assert_eq!(db.export_in(&mut client, "SELECT 1 AS a", "").unwrap().documents, 1);
    assert_eq!(client.text("SHOW s3_export.key_file"), "");
}

#[test]
fn a_misspelt_setting_is_refused_once_the_library_is_loaded() {
    let db = Database::new("misspelt");
    let mut client = db.client();
    client.batch_execute(LOAD).unwrap();
    refused(client.batch_execute("SET s3_export.output_chunk_sise = 5")).sqlstate("42602");
}

/// Postgres gives a third of its descriptors for what it does not open itself; the rest of the wish is left out.
#[test]
fn more_connections_than_there_are_descriptors_are_fewer_connections() {
    let db = Database::new("descriptors");
    let mut client = db.client();
    client.batch_execute("SET s3_export.upload_concurrency = 1024").unwrap();
    let exported = db.export_in(&mut client, "SELECT generate_series(1, 500) AS a", "output_chunk_size => 1").unwrap();
    assert_eq!(exported.files, 500);
    assert!(super::fixture::descriptors(client.pid) < 100);
}
