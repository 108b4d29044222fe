//! `s3_export.verify` and `verify_async`: whatever somebody has done to an export in the bucket is told.

use std::time::{Duration, Instant};

use postgres::Row;

use super::fixture::{
    Action, Bucket, Database, Exported, Gateway, Integration, Session, StandIn, ended, literal, refused, status, wait_for,
};
use super::roles::RoleIntegration;

fn call(exported: &Exported, integration: &str, arguments: &str) -> String {
    format!("s3_export.verify({}, {}{arguments})", literal(&exported.manifest), literal(integration))
}

fn rows(client: &mut Session, exported: &Exported, arguments: &str) -> Vec<Row> {
    client.query(&format!("SELECT * FROM {}", call(exported, "local", arguments)), &[]).unwrap()
}

/// The name of the object, the problem and the extent of the comparison of each row that is not ok, in order.
fn problems(client: &mut Session, exported: &Exported, arguments: &str) -> Vec<String> {
    let mut told = Vec::new();
    for row in rows(client, exported, arguments) {
        let (problem, detail): (Option<&str>, Option<&str>) = (row.get("problem"), row.get("detail"));
        assert_eq!((problem.is_none(), detail.is_none()), (row.get("ok"), row.get("ok")), "{row:?}");
        if let Some(problem) = problem {
            let (file, checked): (&str, Option<&str>) = (row.get("file"), row.get("checked"));
            let name = file.rsplit_once('/').unwrap().1.replace(&exported.export_id.to_string(), "ID");
            told.push(format!("{name}: {problem}, {}", checked.unwrap_or("nothing")));
        }
    }
    told.sort();
    told
}

const DEEP: &str = ", deep => true";

#[test]
fn a_sound_export_of_each_shape_is_whole() {
    let db = Database::new("verify_sound");
    let mut client = db.client();
    for (arguments, files) in [
        ("output_chunk_size => 2", 3),
        ("format => 'csv', output_chunk_size => 2", 3),
        ("format => 'parquet', output_chunk_size => 2", 3),
        ("compression => 'gzip'", 1),
        ("format => 'csv', compression => 'zstd'", 1),
        ("partition_by => '{a}'", 5),
        ("partition_by => '{a}', include_query_id => true", 5),
        ("include_query_id => true, output_chunk_size => 4", 2),
        ("options => '{\"single_file\": \"all.json\"}'", 1),
        ("options => '{\"single_file\": \"all.json\", \"manifest_name\": \"m.json\", \"success_marker\": \"_SUCCESS\"}'", 1),
        ("options => '{\"run_key\": \"nightly\"}'", 1),
    ] {
        let exported = db.export_in(&mut client, "SELECT generate_series(1, 5) AS a", arguments).unwrap();
        for (deep, checked) in [("", "checksum"), (DEEP, "content")] {
            let found = rows(&mut client, &exported, deep);
            assert_eq!(problems(&mut client, &exported, deep), Vec::<String>::new(), "{arguments}");
            assert_eq!(found.len(), files + 1, "{arguments}");
            assert_eq!(found[0].get::<_, &str>("file"), exported.manifest);
            let bytes: i64 = found[1..].iter().map(|row| row.get::<_, i64>("bytes")).sum();
            assert_eq!(bytes, exported.bytes, "{arguments}");
            assert!(found[1..].iter().all(|row| row.get::<_, &str>("checked") == checked), "{arguments}: {checked}");
        }
    }
    let empty = db.export_in(&mut client, "SELECT 1 AS a WHERE false", "").unwrap();
    assert_eq!(client.text(&format!("SELECT bool_and(ok)::text FROM {}", call(&empty, "local", ""))), "true");
}

#[test]
fn a_file_of_several_parts_is_read_whole() {
    let db = Database::new("verify_parts");
    let mut client = db.client();
    let query = "SELECT i, repeat(md5(i::text), 200) AS t FROM generate_series(1, 3000) AS i";
    let exported = db.export_in(&mut client, query, "options => '{\"single_file\": \"all.json\"}'").unwrap();
    assert!(exported.bytes > 2 * (8 << 20));
    assert_eq!(problems(&mut client, &exported, DEEP), Vec::<String>::new());
    // In the last part, of the same size, and with the mark that the export has set.
    let url = client.text(&format!("SELECT file FROM {} OFFSET 1", call(&exported, "local", "")));
    let key = db.bucket.key(&url).to_owned();
    let mut body = db.bucket.get(&key).to_vec();
    let last = body.len() - 5;
    body[last] ^= 1;
    db.bucket.put_marked(&key, &body, exported.export_id);
    assert_eq!(problems(&mut client, &exported, ""), Vec::<String>::new(), "the size is the same");
    assert_eq!(problems(&mut client, &exported, DEEP), ["all.json: other checksum, content"]);
    db.bucket.put(&key, &body);
    assert_eq!(problems(&mut client, &exported, DEEP), ["all.json: not of this export, nothing"]);
}

#[test]
fn whatever_somebody_has_done_to_the_files_is_told() {
    let db = Database::new("verify_changes");
    let mut client = db.client();
    for checksum in ["crc32", "sha256", "none"] {
        db.create(&Integration { name: checksum, ..Integration::local() });
        client.execute("UPDATE s3_export.integrations SET checksum = name WHERE name = $1", &[&checksum]).unwrap();
        let prefix = db.prefix();
        let call = db.call(&prefix, "SELECT generate_series(1, 60) AS a", "output_chunk_size => 10");
        let exported = db.exported(&mut client, &call.replace("'local'", &literal(checksum)), &prefix).unwrap();
        let key = |number: u32| format!("{prefix}/{}-{number:06}.json", exported.export_id);
        db.bucket.delete(&key(1));
        let body = db.bucket.get(&key(2)).to_vec();
        db.bucket.put(&key(2), &body[1..]);
        let mut flipped = db.bucket.get(&key(3)).to_vec();
        flipped[7] ^= 1;
        db.bucket.put(&key(3), &flipped);
        db.bucket.put(&key(7), b"too many");
        db.bucket.put(&format!("{prefix}/{}-000001.json", uuid::Uuid::now_v7()), b"another export's");
        let shallow =
            ["ID-000001.json: missing, nothing", "ID-000002.json: other size, size", "ID-000007.json: not listed, nothing"];
        assert_eq!(problems(&mut client, &exported, ""), shallow, "{checksum}");
        let deep = match checksum {
            // There is nothing to compare the bytes with.
            "none" => shallow.to_vec(),
            _ => [&shallow[..2], &["ID-000003.json: other checksum, content"], &shallow[2..]].concat(),
        };
        assert_eq!(problems(&mut client, &exported, DEEP), deep, "{checksum}");
    }
}

/// A file too many may lie in any partition.
#[test]
fn a_file_too_many_is_found_in_a_partition_and_in_the_export_s_own_folder() {
    let db = Database::new("verify_partition");
    let mut client = db.client();
    for arguments in ["partition_by => '{a}'", "partition_by => '{a}', include_query_id => true", "include_query_id => true"] {
        let exported = db.export_in(&mut client, "SELECT generate_series(1, 3) AS a", arguments).unwrap();
        let url = client.text(&format!("SELECT file FROM {} WHERE file LIKE '%000001.json'", call(&exported, "local", "")));
        let key = db.bucket.key(&url).replace("a=1", "a=9").replace("000001.json", "000009.json");
        db.bucket.put(&key, b"x");
        let told = problems(&mut client, &exported, "");
        assert!(told.len() == 1 && told[0].ends_with("000009.json: not listed, nothing"), "{arguments}: {told:?}");
    }
}

/// A stand-in for AWS, which keeps checksums as Amazon does, and obeys the policy of the session.
#[test]
fn a_checksum_that_the_store_keeps_finds_a_flipped_byte_without_reading_it() {
    let db = Database::new("verify_checksums");
    let mut client = db.client();
    let stand_in = StandIn::ministack();
    RoleIntegration::of(stand_in.clone()).create(&db);
    let bucket = Bucket::of(&stand_in, "exports");
    for checksum in ["crc32", "sha256"] {
        client.execute("UPDATE s3_export.integrations SET checksum = $1 WHERE name = 'role'", &[&checksum]).unwrap();
        let prefix = db.prefix();
        let export =
            db.call(&prefix, "SELECT generate_series(1, 3) AS a", "output_chunk_size => 1").replace("'local'", "'role'");
        let row = client.query_one(&format!("SELECT *, export_id::text AS id FROM {export}"), &[]).unwrap();
        let exported = Exported::from_row(&row, &prefix);
        let mut told = |deep: &str| {
            let columns = "coalesce(problem, 'ok') || ' ' || coalesce(checked, 'nothing')";
            let call = call(&exported, "role", deep);
            client.text(&format!("SELECT string_agg({columns}, ', ' ORDER BY file) FROM {call} WHERE file LIKE '%json'"))
        };
        assert_eq!(told(""), "ok checksum, ok checksum, ok checksum");
        assert_eq!(told(DEEP), "ok content, ok content, ok content");
        let key = format!("{prefix}/{}-000002.json", exported.export_id);
        let mut body = bucket.get(&key).to_vec();
        body[3] ^= 1;
        bucket.put_checked(&key, &body, checksum);
        assert_eq!(told(""), "ok checksum, other checksum checksum, ok checksum", "{checksum}");
        bucket.empty(&prefix);
    }
}

#[test]
fn bad_input_is_refused_before_any_request() {
    let db = Database::new("verify_input");
    let mut client = db.client();
    let exported = db.export("SELECT 1 AS a");
    let mut refuse = |arguments: &str| refused(client.query(&format!("SELECT * FROM s3_export.verify({arguments})"), &[]));
    let manifest = literal(&exported.manifest);
    for (arguments, sqlstate) in [
        ("NULL, 'local'".to_owned(), "22004"),
        (format!("{manifest}, NULL"), "22004"),
        (format!("{manifest}, 'local', NULL"), "22004"),
        (format!("{manifest}, 'nobody'"), "42704"),
        ("'', 'local'".to_owned(), "22023"),
        ("'s3://exports', 'local'".to_owned(), "22023"),
        ("'s3://exports/', 'local'".to_owned(), "22023"),
        ("'s3://exports/x/', 'local'".to_owned(), "22023"),
        ("'https://exports/x', 'local'".to_owned(), "22023"),
        ("'s3://exports/a/../x', 'local'".to_owned(), "22023"),
        ("'s3://other-bucket/x', 'local'".to_owned(), "42501"),
        ("'s3://exports/no/such.manifest', 'local'".to_owned(), "42704"),
    ] {
        refuse(&arguments).sqlstate(sqlstate);
    }
    db.bucket.put("verify/other.json", b"{\"secret\": 1}");
    refuse("'s3://exports/verify/other.json', 'local'").sqlstate("55000").message("no manifest").hides("secret");
    let mut client = db.client();
    for (arguments, sqlstate) in
        [("'s3://other-bucket/x', 'local'", "42501"), ("'x', 'local'", "22023"), ("NULL, 'local'", "22004")]
    {
        refused(client.query(&format!("SELECT s3_export.verify_async({arguments})"), &[])).sqlstate(sqlstate);
    }
    assert_eq!(client.text("SELECT count(*)::text FROM s3_export.jobs"), "0");
}

#[test]
fn a_member_verifies_what_its_integrations_allow_and_nobody_else_does() {
    let db = Database::new("verify_roles");
    let team = db.role("team", &[]);
    let member = db.role("member", &["s3_export_member", &team]);
    let stranger = db.role("stranger", &["s3_export_member"]);
    let admin = db.role("admin", &["s3_export_admin"]);
    let plain = db.role("plain", &[&team]);
    let prefix = db.prefix();
    let mut superuser = db.client();
    db.create(&Integration { name: "team", usage_role: &team, ..Integration::local() });
    let allowed = db.bucket.uri(&format!("{prefix}/team"));
    superuser
        .execute("UPDATE s3_export.integrations SET allowed_locations = ARRAY[$1] WHERE name = 'team'", &[&allowed])
        .unwrap();
    let export = |client: &mut Session, prefix: &str, integration: &str| {
        let call = db.call(prefix, "SELECT 1 AS a", "").replace("'local'", &literal(integration));
        db.exported(client, &call, prefix).unwrap()
    };
    let own = export(&mut db.client_as(&member), &format!("{prefix}/team/x"), "team");
    let beside = export(&mut superuser, &format!("{prefix}/team2"), "local");
    let count = |role: &str, exported: &Exported| {
        db.client_as(role).query(&format!("SELECT * FROM {}", call(exported, "team", "")), &[]).map(|rows| rows.len())
    };
    assert_eq!(count(&member, &own).unwrap(), 2);
    refused(count(&member, &beside)).sqlstate("42501");
    refused(count(&stranger, &own)).sqlstate("42704");
    refused(count(&admin, &own)).sqlstate("42704");
    refused(count(&plain, &own)).sqlstate("42501");
    let async_call = format!("SELECT s3_export.verify_async({}, 'team')::text", literal(&own.manifest));
    let mut client = db.client_as(&member);
    let id = client.text(&async_call);
    assert_eq!(ended(&mut client, &id).unwrap().get::<_, String>("status"), "COMPLETED");
    for (role, sqlstate) in [(&stranger, "42704"), (&admin, "42704"), (&plain, "42501")] {
        refused(db.client_as(role).query(&async_call, &[])).sqlstate(sqlstate);
    }
    superuser.batch_execute("UPDATE s3_export.integrations SET enabled = false WHERE name = 'team'").unwrap();
    refused(count(&member, &own)).sqlstate("55000");
}

/// Whoever may write to the location may write a manifest: by it nobody learns of objects elsewhere.
#[test]
fn attack_a_manifest_that_lists_keys_elsewhere_is_no_oracle() {
    let db = Database::new("verify_oracle");
    let gateway = Gateway::to(&Integration::local().endpoint, |_| Action::Forward);
    db.create(&Integration { name: "team", endpoint: gateway.endpoint(), ..Integration::local() });
    let (mut client, prefix) = (db.client(), db.prefix());
    let allowed = db.bucket.uri(&format!("{prefix}/team"));
    client.execute("UPDATE s3_export.integrations SET allowed_locations = ARRAY[$1] WHERE name = 'team'", &[&allowed]).unwrap();
    let (mine, victim) = (format!("{prefix}/team"), format!("{prefix}/vault"));
    let call_mine = db.call(&mine, "SELECT 1 AS a", "").replace("'local'", "'team'");
    let exported = db.exported(&mut client, &call_mine, &mine).unwrap();
    let secret = db.export_to(&mut client, &victim, "SELECT 'secret' AS a", "").unwrap();
    let body = String::from_utf8(db.bucket.get(db.bucket.key(&exported.manifest)).to_vec()).unwrap();
    let own_file = db.bucket.uri(&format!("{mine}/{}-000001.json", exported.export_id));
    let victims = db.bucket.uri(&format!("{victim}/{}-000001.json", secret.export_id));
    let missing = db.bucket.uri(&format!("{victim}/{}-000002.json", secret.export_id));
    let beside = db.bucket.uri(&format!("{mine}/readme.txt"));
    db.bucket.put(&format!("{mine}/readme.txt"), b"of somebody else");
    for target in [&victims, &missing, &beside, &format!("{allowed}/../vault/{}-000001.json", secret.export_id)] {
        db.bucket.put(db.bucket.key(&exported.manifest), body.replace(&own_file, target).as_bytes());
        let before = gateway.requests().len();
        let found = client.query(&format!("SELECT * FROM {}", call(&exported, "team", DEEP)), &[]).unwrap();
        let row = found.iter().find(|row| row.get::<_, &str>("file") == target).unwrap();
        assert!(!row.get::<_, bool>("ok") && row.get::<_, Option<i64>>("bytes").is_none(), "{row:?}");
        // The object of one's own folder may be the file that a user has named: its mark is looked at, and no more is told.
        let asked = gateway.requests()[before..].iter().filter(|request| request.head.contains("vault")).count();
        assert_eq!((asked, row.get::<_, &str>("problem")), (0, "not of this export"), "{row:?}");
    }
    // The whole manifest of another export, under this one's name.
    let copied = db.bucket.get(db.bucket.key(&secret.manifest));
    db.bucket.put(db.bucket.key(&exported.manifest), &copied);
    refused(client.query(&format!("SELECT * FROM {}", call(&exported, "team", "")), &[]))
        .sqlstate("55000")
        .message("another export");
}

#[test]
fn a_job_tells_of_the_first_problems_in_its_error() {
    let db = Database::new("verify_job");
    let (mut client, prefix) = (db.client(), db.prefix());
    let exported = db.export_to(&mut client, &prefix, "SELECT generate_series(1, 50) AS a", "output_chunk_size => 1").unwrap();
    let verify = format!("SELECT s3_export.verify_async({}, 'local', true)::text", literal(&exported.manifest));
    let id = client.text(&verify);
    let row = ended(&mut client, &id).unwrap();
    assert_eq!(
        (row.get::<_, String>("status").as_str(), row.get::<_, String>("uri")),
        ("COMPLETED", exported.manifest.clone())
    );
    let counts = (row.get::<_, i64>("documents"), row.get::<_, i64>("files"), row.get::<_, i64>("bytes"));
    assert_eq!(counts, (50, 50, exported.bytes));
    assert_eq!(row.get::<_, String>("manifest"), exported.manifest);
    let row = format!("SELECT verification::text || ' ' || query FROM s3_export.exports WHERE export_id = '{id}'");
    assert_eq!(
        client.text(&row),
        format!("{{\"deep\": true}} SELECT * FROM s3_export.verify('{}', 'local', deep => true)", exported.manifest)
    );
    for number in 1..=23 {
        db.bucket.delete(&format!("{prefix}/{}-{number:06}.json", exported.export_id));
    }
    let id = client.text(&verify);
    let refusal = refused(ended(&mut client, &id));
    refusal.sqlstate("XX001").message("23 problems").detail(": missing. There is no such object.").detail("There are 3 more.");
    assert_eq!(status(&mut client, &id), "ERROR");
    let lines =
        format!("SELECT count(*)::text FROM s3_export.exports, string_to_table(error_detail, E'\\n') WHERE export_id = '{id}'");
    assert_eq!(client.text(&lines), "21");
    assert_eq!(db.bucket.files(&prefix).len(), 27, "a verification writes and deletes nothing");
}

/// A gateway that answers looks at files late, and tells how many it had at once.
fn slow(db: &Database, name: &'static str) -> Gateway {
    let gateway = Gateway::to(&Integration::local().endpoint, |request| {
        if request.head.starts_with("HEAD") { Action::Hang } else { Action::Forward }
    });
    db.create(&Integration { name, endpoint: gateway.endpoint(), ..Integration::local() });
    gateway
}

#[test]
fn cancel_is_answered_in_a_session_and_in_a_job() {
    let db = Database::new("verify_cancel");
    let gateway = slow(&db, "slow");
    let exported = db.export("SELECT 1 AS a");
    let running = db.client().start(&format!("SELECT * FROM {}", call(&exported, "slow", "")));
    let (pid, mut witness) = (running.pid, db.client());
    wait_for("a look at a file", || gateway.requests().iter().any(|request| request.head.starts_with("HEAD")).then_some(()));
    let copy = "SELECT command || ' ' || (bytes_total > 0) FROM pg_stat_progress_copy WHERE pid = $1";
    assert_eq!(witness.query_one(copy, &[&pid]).unwrap().get::<_, String>(0), "COPY TO true");
    let shown = "SELECT count(*)::text FROM s3_export.exports WHERE status = 'RUNNING'";
    assert_eq!(witness.text(shown), "0", "a verification in a session is no export");
    let sent = Instant::now();
    witness.execute("SELECT pg_cancel_backend($1)", &[&pid]).unwrap();
    refused(running.join().1).sqlstate("57014");
    assert!(sent.elapsed() < Duration::from_millis(500), "{:?}", sent.elapsed());

    let before = gateway.requests().len();
    let id = witness.text(&format!("SELECT s3_export.verify_async({}, 'slow')::text", literal(&exported.manifest)));
    let looks = || gateway.requests()[before..].iter().any(|request| request.head.starts_with("HEAD"));
    wait_for("the job to look at a file", || looks().then_some(()));
    assert_eq!(witness.text(shown), "1");
    assert_eq!(witness.text(&format!("SELECT s3_export.cancel('{id}')::text")), "true");
    refused(ended(&mut witness, &id)).sqlstate("57014");
    assert_eq!(status(&mut witness, &id), "CANCELLED");
}

#[test]
fn many_files_are_verified_at_once() {
    let db = Database::new("verify_many");
    let (mut client, prefix) = (db.client(), db.prefix());
    let exported =
        db.export_to(&mut client, &prefix, "SELECT generate_series(1, 1000) AS a", "output_chunk_size => 1").unwrap();
    for deep in ["", DEEP] {
        let start = Instant::now();
        let count = client.text(&format!("SELECT count(*)::text FROM {} WHERE ok", call(&exported, "local", deep)));
        assert_eq!(count, "1001");
        println!("1,000 files{deep}: {:?}", start.elapsed());
    }
    client.batch_execute("BEGIN READ ONLY").unwrap();
    assert_eq!(rows(&mut client, &exported, " ").len(), 1001);
    let enqueue = format!("SELECT s3_export.verify_async({}, 'local')", literal(&exported.manifest));
    refused(client.query(&enqueue, &[])).sqlstate("25006");
}
