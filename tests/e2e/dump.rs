//! pg_dump and restore: integrations come along, secrets never.

use super::fixture::{Database, Integration, refused};

#[test]
fn a_restored_database_exports_once_its_credentials_are_set_again() {
    let db = Database::new("dumped");
    let local = Integration::local();
    let (team, gone) = (db.role("team", &[]), db.role("gone", &[]));
    db.create(&Integration { name: "of-team", usage_role: &team, ..local.clone() });
    db.create(&Integration { name: "of-gone", usage_role: &gone, ..local.clone() });
    let dump = db.dump();
    let sealed = db.client().text("SELECT string_agg(encode(sealed, 'hex'), ' ') FROM s3_export.credentials");
    assert!(dump.contains("of-team") && dump.contains(&local.access_key_id));
    assert!(!dump.contains(&local.secret_access_key), "the dump shows the secret");
    assert!(sealed.split(' ').all(|blob| !dump.contains(blob)), "the dump holds sealed credentials");

    // A role that is missing on restore hides its row, and fails nothing.
    db.client().batch_execute(&format!("DROP ROLE {gone}")).unwrap();
    let restored = Database::empty("restored", "TEMPLATE template0");
    let said = restored.restore(&dump);
    assert!(said.contains(&format!("role \"{gone}\"")), "{said}");
    let mut client = restored.client();
    assert_eq!(client.text("SELECT string_agg(name, ',' ORDER BY name) FROM s3_export.integrations"), "local,of-gone,of-team");
    let same =
        "SELECT md5(string_agg(to_jsonb(i)::text, ',' ORDER BY name)) FROM s3_export.integrations AS i WHERE name <> 'of-gone'";
    assert_eq!(client.text(same), db.client().text(same));
    let analyst = restored.role("analyst", &["s3_export_member", &team]);
    let mut member = restored.client_as(&analyst);
    assert_eq!(member.text("SELECT string_agg(name, ',' ORDER BY name) FROM s3_export.integrations"), "local,of-team");

    refused(restored.export_in(&mut member, "SELECT 1 AS a", ""))
        .sqlstate("55000")
        .message("no credentials")
        .hint("set_credentials");
    let set = "SELECT s3_export.set_credentials('of-team', $1, $2)::text";
    client.query(set, &[&local.access_key_id, &local.secret_access_key]).unwrap();
    assert_eq!(restored.export_by(&mut member, "of-team", "SELECT 1 AS a").unwrap().documents, 1);
    // The role is there after all: its name, written once more, brings the row back.
    client.batch_execute(&format!("CREATE ROLE {gone}; GRANT {gone} TO {analyst}")).unwrap();
    assert_eq!(member.text("SELECT count(*) FROM s3_export.integrations WHERE name = 'of-gone'"), "0");
    client.batch_execute("UPDATE s3_export.integrations SET usage_role = usage_role WHERE name = 'of-gone'").unwrap();
    assert_eq!(member.text("SELECT count(*) FROM s3_export.integrations WHERE name = 'of-gone'"), "1");
}
