//! Sealed credentials and the key ring: a secret opens only where it belongs, and shows nowhere.

use std::fs;

use super::fixture::{Database, Integration, ServerFile, Session, messages, refused};

const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

fn key_file(db: &Database, content: &str, mode: u32) -> ServerFile {
    ServerFile::new(db.environment().run_dir.join(format!("{}.keys", db.name)), content, mode)
}

fn use_key_file(client: &mut Session, file: &ServerFile) {
    client.batch_execute(&format!("SET s3_export.key_file = '{}'", file.path())).unwrap();
}

#[test]
fn set_credentials_replaces_them() {
    let db = Database::new("replace");
    let local = Integration::local();
    let mut client = db.client();
    client.batch_execute("SELECT s3_export.set_credentials('local', 'K', 'wrong')").unwrap();
    db.refuse("SELECT 1 AS a", "").sqlstate("28000");
    let set = "SELECT s3_export.set_credentials('local', $1, $2)::text";
    client.query(set, &[&local.access_key_id, &local.secret_access_key]).unwrap();
    assert_eq!(db.export("SELECT 1 AS a").documents, 1);
    for arguments in ["NULL, 'K', 'S'", "'local', NULL, 'S'", "'local', 'K', NULL"] {
        refused(client.batch_execute(&format!("SELECT s3_export.set_credentials({arguments})"))).sqlstate("22004");
    }
    refused(client.batch_execute("SELECT s3_export.set_credentials('absent', 'K', 'S')")).sqlstate("42704");
    assert_eq!(db.export("SELECT 1 AS a").documents, 1);
}

/// A line break that was copied along with a key made the SDK panic, or looked like a fault of the network.
#[test]
fn keys_that_no_header_can_hold_are_refused_where_they_are_stored_and_named_where_they_are_used() {
    let db = Database::new("key_characters");
    let mut client = db.client();
    for arguments in
        ["E'K\\n', 'S'", "'K', E'S\\r\\n'", "'K', 'S', E'T\\x01'", "'', 'S'", "'K', ''", "'K', 'S', ''", "' K', 'S'"]
    {
        refused(client.batch_execute(&format!("SELECT s3_export.set_credentials('local', {arguments})"))).sqlstate("22023");
    }
    let json = ServerFile::of(&db, "json", r#"{"AccessKeyId": "QKEY\n", "SecretAccessKey": "S"}"#);
    refused(client.batch_execute(&format!("SELECT s3_export.set_credentials_from_file('local', '{}')", json.path())))
        .sqlstate("22023")
        .message("access_key_id");
    assert_eq!(db.export("SELECT 1 AS a").documents, 1, "they are as they were");
    // Written past the functions, or before they looked.
    client.batch_execute("UPDATE s3_export.integrations SET access_key_id = E'K\\n'").unwrap();
    db.refuse("SELECT 1 AS a", "").sqlstate("28000").message("cannot be used").hint("set_credentials");
    refused(client.batch_execute("SELECT * FROM s3_export.validate_integration('local')")).sqlstate("28000");
}

#[test]
fn without_a_key_file_nothing_is_stored_and_nothing_opens() {
    let db = Database::new("no_key_file");
    db.client().batch_execute(&format!("ALTER DATABASE {} SET s3_export.key_file = ''", db.name)).unwrap();
    let made = Integration { name: "new", ..Integration::local() }.create(&mut db.client());
    refused(made).sqlstate("55000").message("no key file").hint("openssl rand -base64 32").hint("s3_export.key_file");
    db.refuse("SELECT 1 AS a", "").sqlstate("55000").detail("sealed with key \"k1\"").hint("openssl rand -base64 32");
    assert_eq!(db.client().text("SELECT count(*) FROM s3_export.integrations"), "1");
}

#[test]
fn a_key_file_that_others_may_read_or_that_lies_in_the_data_directory() {
    let db = Database::new("bad_key_file");
    let mut client = db.client();
    let refuse = |client: &mut Session| refused(Integration { name: "new", ..Integration::local() }.create(client));
    for mode in [0o644, 0o640, 0o602] {
        let file = key_file(&db, &format!("k1 {KEY}\n"), mode);
        use_key_file(&mut client, &file);
        refuse(&mut client).sqlstate("F0000").message("could not use the key file").detail("0600").hides(KEY);
    }
    let inside = ServerFile::new(db.environment().data.join(format!("{}.keys", db.name)), &format!("k1 {KEY}\n"), 0o600);
    use_key_file(&mut client, &inside);
    refuse(&mut client).sqlstate("F0000").detail("data directory");
    let link = ServerFile(db.environment().run_dir.join(format!("{}.link", db.name)));
    std::os::unix::fs::symlink(&inside.0, &link.0).unwrap();
    use_key_file(&mut client, &link);
    refuse(&mut client).sqlstate("F0000").detail("data directory");
    client.batch_execute("SET s3_export.key_file = '/nowhere/keys'").unwrap();
    refuse(&mut client).sqlstate("F0000").detail("No such file");
    let malformed = key_file(&db, "k1 c2VjcmV0\n", 0o600);
    use_key_file(&mut client, &malformed);
    refuse(&mut client).sqlstate("F0000").detail("Line 1").hides("c2VjcmV0");
}

#[test]
fn a_new_key_seals_and_the_old_one_still_opens() {
    let db = Database::new("rotation");
    let mut client = db.client();
    let old = key_file(&db, &format!("old {KEY}\n"), 0o600);
    use_key_file(&mut client, &old);
    let create = |name, client: &mut Session| Integration { name, ..Integration::local() }.create(client).unwrap();
    create("first", &mut client);
    let export = |name: &str, client: &mut Session| {
        let call = db.call(&db.prefix(), "SELECT 1 AS a", "").replace("'local'", &format!("'{name}'"));
        client.batch_execute(&format!("SELECT {call}"))
    };
    let new_key = KEY.replace("AAEC", "ZZZZ");
    fs::write(&old.0, format!("# rotated\nold {KEY}\n\nnew {new_key}\n")).unwrap();
    create("second", &mut client);
    assert_eq!(
        client.text("SELECT string_agg(key_id, ',' ORDER BY name) FROM s3_export.credentials JOIN s3_export.integrations USING (integration_id)"),
        "old,k1,new"
    );
    export("first", &mut client).unwrap();
    export("second", &mut client).unwrap();
    fs::write(&old.0, format!("new {new_key}\n")).unwrap();
    refused(export("first", &mut client)).sqlstate("F0000").message("no key \"old\"").hint("set_credentials");
    export("second", &mut client).unwrap();
}

#[test]
fn reseal_moves_this_databases_credentials_to_the_newest_key() {
    let db = Database::new("reseal");
    let mut client = db.client();
    let ring = key_file(&db, &format!("old {KEY}\n"), 0o600);
    use_key_file(&mut client, &ring);
    // A name that a client's encoding may lack.
    let third = "third 日本";
    for name in ["first", "second", third] {
        Integration { name, ..Integration::local() }.create(&mut client).unwrap();
    }
    // What was sealed with `k1` and what does not open any more stay as they are.
    client.batch_execute("DELETE FROM s3_export.integrations WHERE name = 'local'").unwrap();
    client.batch_execute("UPDATE s3_export.integrations SET endpoint = 'http://127.0.0.1:1' WHERE name LIKE 'third%'").unwrap();
    let new_key = KEY.replace("AAEC", "ZZZZ");
    fs::write(&ring.0, format!("old {KEY}\nnew {new_key}\n")).unwrap();
    client.batch_execute("SET client_encoding = 'LATIN1'").unwrap();
    client.notices();
    assert_eq!(client.text("SELECT s3_export.reseal()"), "2");
    client.batch_execute("SET client_encoding = 'UTF8'").unwrap();
    let notices = messages(&client.notices());
    assert!(
        notices.contains("\"third \\u65e5\\u672c\" were left as they are") && notices.contains("another endpoint"),
        "{notices}"
    );
    assert_eq!(client.text("SELECT string_agg(key_id, ',' ORDER BY name) FROM s3_export.credentials JOIN s3_export.integrations USING (integration_id)"), "new,new,old");
    assert_eq!(client.text("SELECT s3_export.reseal()"), "0");
    fs::write(&ring.0, format!("new {new_key}\n")).unwrap();
    db.export_by(&mut client, "first", "SELECT 1 AS a").unwrap();
    // Without a key, nothing is done by halves.
    fs::write(&ring.0, format!("new {new_key}\nnewer {KEY}\n")).unwrap();
    refused(client.query("SELECT s3_export.reseal()", &[])).sqlstate("F0000").message("no key \"old\"");
    assert_eq!(client.text("SELECT count(*) FROM s3_export.credentials WHERE key_id = 'newer'"), "0");
    let mut admin = db.client_as(&db.role("admin", &["s3_export_admin", "s3_export_member"]));
    refused(admin.query("SELECT s3_export.reseal()", &[])).sqlstate("42501");
}

#[test]
fn credentials_are_read_from_a_file_of_the_servers() {
    let db = Database::new("from_file");
    let local = Integration::local();
    let mut client = db.client();
    let set = |client: &mut Session, path: &str| {
        client.query("SELECT s3_export.set_credentials_from_file('local', $1)::text", &[&path]).map(|_| ())
    };
    let ini = format!(
        "[exports]\naws_access_key_id = {}\naws_secret_access_key = {}\n",
        local.access_key_id, local.secret_access_key
    );
    let json = format!(
        r#"{{"AccessKey": {{"AccessKeyId": "{}", "SecretAccessKey": "{}"}}}}"#,
        local.access_key_id, local.secret_access_key
    );
    for (name, content) in [("ini", ini), ("json", json)] {
        client.batch_execute("SELECT s3_export.set_credentials('local', 'K', 'wrong')").unwrap();
        let file = ServerFile::of(&db, name, &content);
        set(&mut client, file.path()).unwrap();
        assert_eq!(db.export("SELECT 1 AS a").documents, 1);
    }
    let half = ServerFile::of(&db, "half", "aws_secret_access_key = s3cr3t-half\n");
    refused(set(&mut client, half.path())).sqlstate("58P01").detail("no access key").hides("s3cr3t-half");
    for (bad, sqlstate) in [("relative", "22023"), ("/nowhere/credentials", "58P01"), ("/dev/zero", "58P01"), ("/", "58P01")] {
        refused(set(&mut client, bad)).sqlstate(sqlstate);
    }
    // One's own integration is not enough to read the server's files.
    let mut admin = db.client_as(&db.role("admin", &["s3_export_admin"]));
    refused(set(&mut admin, half.path())).sqlstate("42501").detail("pg_read_server_files");
    let mut reader = db.client_as(&db.role("reader", &["pg_read_server_files"]));
    refused(set(&mut reader, half.path())).sqlstate("42501").message("permission denied for");
    // And files are not enough for somebody else's integration.
    let mut both = db.client_as(&db.role("both", &["s3_export_admin", "pg_read_server_files"]));
    let good = ServerFile::of(&db, "good", "aws_access_key_id=K\naws_secret_access_key=S\n");
    refused(set(&mut both, good.path())).sqlstate("42704");
}
