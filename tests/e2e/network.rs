//! Addresses that requests may go to, and certificates that are believed.

use std::collections::BTreeSet;
use std::net::TcpListener;

use super::fixture::{Action, Database, Gateway, Integration, ServerFile, Session, literal, refused};

/// Makes an integration for this endpoint, as who is connected.
fn create(client: &mut Session, endpoint: &str) -> Result<(), postgres::Error> {
    let local = Integration::local();
    client.batch_execute(&format!(
        "SELECT s3_export.create_integration('there', access_key_id => {}, secret_access_key => {}, endpoint => '{endpoint}',
             path_style => true, allowed_locations => '{{s3://exports}}')",
        literal(&local.access_key_id),
        literal(&local.secret_access_key)
    ))
}

fn export(db: &Database, client: &mut Session) -> Result<i64, postgres::Error> {
    db.export_by(client, "there", "SELECT generate_series(1, 2500) AS a").map(|exported| exported.documents)
}

#[test]
fn an_https_endpoint_needs_a_certificate_that_is_trusted() {
    let db = Database::new("tls");
    let (gateway, certificate) = Gateway::over_tls(&Integration::local().endpoint, false);
    create(&mut db.client(), &gateway.secure_endpoint()).unwrap();
    let one_row = db.export_by(&mut db.client(), "there", "SELECT 1 AS a");
    refused(one_row).sqlstate("08001").message("certificate is not trusted").detail("UnknownIssuer").hint("ca_file");
    assert_eq!(gateway.connections(), 1, "what is not trusted is not tried again");
    let file = ServerFile::of(&db, "pem", &certificate);
    let mut client = db.client();
    client.batch_execute(&format!("SET s3_export.ca_file = '{}'", file.path())).unwrap();
    assert_eq!(export(&db, &mut client).unwrap(), 2500);
    let put = gateway.requests().into_iter().find(|request| request.head.starts_with("PUT")).unwrap();
    assert_eq!(put.header("x-amz-content-sha256"), Some("UNSIGNED-PAYLOAD"));
    assert!(put.header("x-amz-checksum-crc32").is_some());
    // Another name than the certificate's.
    client
        .batch_execute(&format!(
            "UPDATE s3_export.integrations SET endpoint = '{}' WHERE name = 'there'",
            gateway.endpoint().replace("http:", "https:")
        ))
        .unwrap();
    let local = Integration::local();
    let set = "SELECT s3_export.set_credentials('there', $1, $2)::text";
    client.query(set, &[&local.access_key_id, &local.secret_access_key]).unwrap();
    refused(export(&db, &mut client)).sqlstate("08001").detail("not valid for name");
}

/// The certificate that `openssl req -x509` makes is an authority's and its server's own.
#[test]
fn a_self_signed_certificate_of_an_authority_is_believed_where_the_ca_file_holds_it() {
    let db = Database::new("tls_own");
    let (gateway, certificate) = Gateway::over_tls(&Integration::local().endpoint, true);
    let mut client = db.client();
    create(&mut client, &gateway.secure_endpoint()).unwrap();
    refused(export(&db, &mut client)).sqlstate("08001").message("certificate is not trusted").hint("ca_file");
    let file = ServerFile::of(&db, "pem", &certificate);
    client.batch_execute(&format!("SET s3_export.ca_file = '{}'", file.path())).unwrap();
    assert_eq!(export(&db, &mut client).unwrap(), 2500);
    // Another's does not do.
    let (_, other) = Gateway::over_tls(&Integration::local().endpoint, true);
    let file = ServerFile::of(&db, "other.pem", &other);
    client.batch_execute(&format!("SET s3_export.ca_file = '{}'", file.path())).unwrap();
    refused(export(&db, &mut client)).sqlstate("08001").message("certificate is not trusted");
    // A port that speaks plain http is asked once.
    let local = Integration::local();
    let endpoint = local.endpoint.replace("http:", "https:");
    Integration { name: "plain", endpoint, ..local }.create(&mut client).unwrap();
    refused(db.export_by(&mut client, "plain", "SELECT 1 AS a")).sqlstate("08001").hint("plain http");
}

#[test]
fn a_ca_file_that_cannot_be_used() {
    let db = Database::new("ca_file");
    let mut client = db.client();
    let text = ServerFile::of(&db, "pem", "hello");
    for (path, why) in [("/nowhere/ca.pem", "No such file"), (text.path(), "It holds no certificate")] {
        client.batch_execute(&format!("SET s3_export.ca_file = '{path}'")).unwrap();
        refused(db.export_in(&mut client, "SELECT 1 AS a", "")).sqlstate("F0000").message("CA file").detail(why);
    }
    client.batch_execute("SET s3_export.ca_file = ''").unwrap();
    db.export_in(&mut client, "SELECT 1 AS a", "").unwrap();
    let mut member = db.client_as(&db.role("member", &["s3_export_member"]));
    db.export_in(&mut member, "SELECT 1 AS a", "").unwrap();
    refused(member.batch_execute("SET s3_export.ca_file = '/x'")).sqlstate("42501");
}

#[test]
fn extra_ca_files_are_trusted_beside_the_systems_or_the_ca_file() {
    let db = Database::new("extra_ca");
    let gateways: Vec<_> = (0..2).map(|_| Gateway::over_tls(&Integration::local().endpoint, true)).collect();
    let mut client = db.client();
    let mut files = Vec::new();
    for (number, (gateway, certificate)) in gateways.iter().enumerate() {
        let name = format!("tls{number}");
        Integration { name: &name, endpoint: gateway.secure_endpoint(), ..Integration::local() }.create(&mut client).unwrap();
        files.push(ServerFile::of(&db, &format!("{number}.pem"), certificate));
    }
    let (first, second) = (files[0].path(), files[1].path());
    let both = format!("{first} , {second}");
    for (ca_file, extra, works) in
        [("", first, [true, false]), ("", &both, [true, true]), (second, first, [true, true]), (first, "", [true, false])]
    {
        client
            .batch_execute(&format!("SET s3_export.ca_file = '{ca_file}'; SET s3_export.extra_ca_files = '{extra}'"))
            .unwrap();
        for (number, works) in works.into_iter().enumerate() {
            match db.export_by(&mut client, &format!("tls{number}"), "SELECT 1 AS a") {
                Ok(exported) => assert!(works && exported.documents == 1, "{ca_file} {extra} {number}"),
                refusal => {
                    assert!(!works, "{ca_file} {extra} {number}: {refusal:?}");
                    refused(refusal).sqlstate("08001").message("certificate is not trusted").hint("extra_ca_files");
                }
            }
        }
    }
    // The file that is wrong is named, and none is passed over.
    let (text, empty) = (ServerFile::of(&db, "text", "hello"), ServerFile::of(&db, "empty", ""));
    let cut = ServerFile::of(&db, "cut", &gateways[0].1.replace("-----END", "!!!"));
    client.batch_execute("SET s3_export.ca_file = ''").unwrap();
    for path in ["/nowhere/extra.pem", text.path(), empty.path(), cut.path()] {
        client.batch_execute(&format!("SET s3_export.extra_ca_files = '{first},{path}'")).unwrap();
        refused(db.export_in(&mut client, "SELECT 1 AS a", "")).sqlstate("F0000").message(path).hint("extra_ca_files");
    }
    client.batch_execute(&format!("SET s3_export.extra_ca_files = '{first},'")).unwrap();
    refused(db.export_in(&mut client, "SELECT 1 AS a", "")).sqlstate("F0000");
}

#[test]
fn attack_ssrf_to_the_metadata_service() {
    let db = Database::new("ssrf");
    for endpoint in
        ["http://169.254.169.254", "https://[fd00:ec2::254]", "http://[::ffff:169.254.169.254]", "http://100.100.100.200"]
    {
        let mut client = db.client();
        client.batch_execute("DELETE FROM s3_export.integrations WHERE name = 'there'").unwrap();
        create(&mut client, endpoint).unwrap();
        refused(export(&db, &mut client)).sqlstate("42501").message("may not connect").hint("No integration may");
        // Nor STS.
        client
            .batch_execute(&format!(
                "UPDATE s3_export.integrations SET endpoint = 'http://127.0.0.1:1', sts_endpoint = '{endpoint}',
                     aws_role = 'arn:aws:iam::012345678901:role/x' WHERE name = 'there';
                 SELECT s3_export.set_credentials('there', 'K', 'S')"
            ))
            .unwrap();
        refused(export(&db, &mut client)).sqlstate("42501").message("may not connect");
    }
}

#[test]
fn attack_ssrf_into_the_servers_network_by_an_administrator() {
    let db = Database::new("ssrf_private");
    let admin = db.role("admin", &["s3_export_admin", "s3_export_member"]);
    let (gateway, _) = Gateway::over_tls(&Integration::local().endpoint, false);
    for endpoint in [gateway.secure_endpoint(), "https://10.0.0.1".into(), "https://[::1]".into()] {
        let mut client = db.client_as(&admin);
        client.batch_execute("DELETE FROM s3_export.integrations").unwrap();
        create(&mut client, &endpoint).unwrap();
        refused(export(&db, &mut client)).sqlstate("42501").message("private network").hint("a superuser owns");
    }
    assert!(gateway.requests().is_empty());
}

#[test]
fn attack_ssrf_by_redirect() {
    let db = Database::new("ssrf_redirect");
    let inside = TcpListener::bind("127.0.0.1:0").unwrap();
    inside.set_nonblocking(true).unwrap();
    for status in ["301 Moved Permanently", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"] {
        let location = format!("http://{}/latest/meta-data/", inside.local_addr().unwrap());
        let head = format!("HTTP/1.1 {status}\r\nlocation: {location}");
        let gateway = Gateway::to(&Integration::local().endpoint, move |_| Action::Answer(head.clone(), String::new()));
        let mut client = db.client();
        client.batch_execute("DELETE FROM s3_export.integrations WHERE name = 'there'").unwrap();
        create(&mut client, &gateway.endpoint()).unwrap();
        refused(export(&db, &mut client));
        assert!(!gateway.requests().is_empty());
        assert!(inside.accept().is_err(), "{status} was followed");
    }
}

#[test]
fn headers_are_sent_only_when_the_integration_sets_them() {
    let db = Database::new("headers");
    let gateway =
        Gateway::to(&Integration::local().endpoint, |_| Action::Answer("HTTP/1.1 200 OK\r\netag: \"x\"".into(), String::new()));
    let mut client = db.client();
    create(&mut client, &gateway.endpoint()).unwrap();
    export(&db, &mut client).unwrap();
    let names = [
        "x-amz-server-side-encryption",
        "x-amz-server-side-encryption-aws-kms-key-id",
        "x-amz-server-side-encryption-bucket-key-enabled",
        "x-amz-storage-class",
        "x-amz-acl",
        "x-amz-expected-bucket-owner",
    ];
    assert!(gateway.requests().iter().all(|request| names.iter().all(|name| request.header(name).is_none())));
    let plain = gateway.requests().len();
    client
        .batch_execute(
            "UPDATE s3_export.integrations SET sse = 'aws:kms', kms_key_id = 'arn:aws:kms:eu-1:012345678901:key/a', storage_class = 'GLACIER_IR',
                 object_acl = 'bucket-owner-full-control', expected_bucket_owner = '012345678901' WHERE name = 'there'",
        )
        .unwrap();
    export(&db, &mut client).unwrap();
    let values = |request: &super::fixture::Request| -> Vec<String> {
        names.iter().map(|name| request.header(name).unwrap_or("-").to_owned()).collect()
    };
    let requests = gateway.requests();
    let sent =
        |part: &str| requests[plain..].iter().find(|request| request.head.lines().next().unwrap().contains(part)).unwrap();
    let all =
        ["aws:kms", "arn:aws:kms:eu-1:012345678901:key/a", "true", "GLACIER_IR", "bucket-owner-full-control", "012345678901"];
    // The first file's by the SDK, the others' from a template.
    let files: Vec<_> = requests[plain..].iter().filter(|request| request.step() == "put").collect();
    assert_eq!(files.len(), 3);
    assert!(files.iter().all(|file| values(file) == all));
    let names_in = |request: &super::fixture::Request| -> BTreeSet<String> {
        let names = request.head.lines().skip(1).filter_map(|line| Some(line.split_once(':')?.0.to_lowercase()));
        names.filter(|name| !name.starts_with("amz-sdk-")).collect()
    };
    assert!(files.iter().all(|file| names_in(file) == names_in(files[0])));
    let mut manifest = all;
    manifest[3] = "-";
    assert_eq!(values(sent(".manifest")), manifest);
}

/// A web server or a portal, which answers 200 to whatever it is sent.
#[test]
fn what_answers_a_put_without_an_etag_is_no_store() {
    let db = Database::new("no_store");
    let page = || Action::Answer("HTTP/1.1 200 OK\r\ncontent-type: text/html".into(), "<html>Welcome</html>".into());
    let portal =
        Gateway::to(
            &Integration::local().endpoint,
            move |request| {
                if request.head.starts_with("PUT") { page() } else { Action::Forward }
            },
        );
    create(&mut db.client(), &portal.endpoint()).unwrap();
    let mut client = db.client();
    let large = "SELECT repeat('x', 1000) AS a FROM generate_series(1, 20000)";
    for (query, arguments) in [
        ("SELECT 1 AS a", ""),
        ("SELECT generate_series(1, 5)", "output_chunk_size => 1"),
        (large, "output_chunk_size => 20000"),
    ] {
        let prefix = db.prefix();
        let call = db.call(&prefix, query, arguments).replace("'local'", "'there'");
        refused(db.exported(&mut client, &call, &prefix)).sqlstate("58030").message("is no S3 store").detail("has no ETag");
    }
}

/// Supabase has such an endpoint. Its store wants the path in the signature, and so the SDK signs it.
#[test]
fn an_endpoint_may_have_a_path_and_a_region_of_its_own() {
    let db = Database::new("endpoint_path");
    let store = Gateway::to(&Integration::local().endpoint, |_| {
        Action::Answer("HTTP/1.1 200 OK\r\netag: \"1\"\r\nx-amz-version-id: v".into(), String::new())
    });
    let mut client = db.client();
    client
        .batch_execute(&format!(
            "SELECT s3_export.create_integration('there', access_key_id => 'K', secret_access_key => 'S', path_style => true,
                 endpoint => '{}/storage/v1/s3', region => 'zg_RegionOne', allowed_locations => '{{s3://exports}}')",
            store.endpoint()
        ))
        .unwrap();
    assert_eq!(export(&db, &mut client).unwrap(), 2500);
    let requests = store.requests();
    // Two files are made by the SDK's template.
    assert_eq!(requests.len(), 4);
    for request in &requests {
        assert!(request.head.starts_with("PUT /storage/v1/s3/exports/"), "{}", request.head);
        assert!(request.header("authorization").unwrap().contains("/zg_RegionOne/s3/aws4_request"), "{}", request.head);
    }
    // The same by a plain statement, and not without an endpoint.
    client.batch_execute("UPDATE s3_export.integrations SET endpoint = 'https://x.example/a/b.c/', region = 'NL'").unwrap();
    for change in ["endpoint = NULL", "endpoint = 'https://x//y'", "region = E'NL\\n'"] {
        refused(client.batch_execute(&format!("UPDATE s3_export.integrations SET {change}"))).sqlstate("23514");
    }
    let create = "SELECT s3_export.create_integration('x', access_key_id => 'K', secret_access_key => 'S', \
                  allowed_locations => '{s3://exports}', region => 'RegionOne')";
    refused(client.batch_execute(create)).sqlstate("22023").message("invalid region").hint("endpoint");
}
