//! Millions of rows: all there, all JSON, in memory that does not grow with them; and in parallel.

use super::fixture::{Database, Exported, Integration, PeakMemory, Proxy, Session, messages, wait_for};

/// Kilobytes of private memory that no export of plain rows may reach.
const MOST: u64 = 150 * 1024;

/// Rows are numbered from here, for numbers of one width.
const FIRST: i64 = 10_000_000;

/// Exports `rows` rows; gives the session back, and the backend's peak of private memory in kilobytes.
///
/// The network stands still until the buffer is full, so that the peak is that of a full buffer, however fast this
/// machine encodes and uploads.
fn export_rows(db: &Database, mut client: Session, proxy: &Proxy, rows: u32) -> (Session, Exported, u64) {
    let prefix = db.prefix();
    // Wide enough for a million rows to be more than the buffer holds, and all of one width, so that both runs fill it alike.
    let query = format!(
        "SELECT i, i % 2 = 0 AS b, md5(i::text) AS m, 'row ' || i AS t
         FROM (SELECT generate_series({FIRST} + 1, {FIRST} + {rows}) AS i) s"
    );
    let call = db.call(&prefix, &query, "").replace("'local'", "'proxied'");
    // Just-in-time compilation, of the larger query only, would load 50 MB of LLVM.
    client.batch_execute("SET jit = off; DROP TABLE IF EXISTS outcome").unwrap();
    proxy.hang();
    let memory = PeakMemory::of(client.pid);
    let running = client.start(&format!("CREATE TEMP TABLE outcome AS SELECT *, export_id::text AS id FROM {call}"));
    let mut witness = db.client();
    wait_for("a full buffer", || witness.sees_hanging(running.pid).then_some(()));
    proxy.release();
    let (mut client, outcome) = running.join();
    outcome.unwrap();
    let peak = memory.peak();
    let exported = Exported::from_row(&client.query_one("TABLE outcome", &[]).unwrap(), &prefix);
    (client, exported, peak)
}

/// Checks that the bucket holds what was reported, and that each line is one JSON object.
fn check(db: &Database, exported: &Exported, rows: i64) {
    assert_eq!((exported.documents, exported.files), (rows, rows / 1000));
    let files = db.bucket.files(&exported.prefix);
    assert_eq!(files.len() as i64, exported.files);
    assert_eq!(files.iter().map(|file| file.bytes).sum::<i64>(), exported.bytes);
    let mut number = FIRST;
    for file in &files {
        let body = db.bucket.get(&file.key);
        for line in body.split_inclusive(|&byte| byte == b'\n') {
            number += 1;
            let document: serde_json::Value = serde_json::from_slice(line).unwrap();
            assert_eq!(document["i"], number, "documents are in the order of the rows");
        }
    }
    assert_eq!(number, FIRST + rows);
    assert_eq!(db.bucket.manifest(&exported.prefix)["entries"].as_array().unwrap().len(), files.len());
}

#[test]
fn five_million_rows_need_no_more_memory_than_one_million_and_are_all_there() {
    let db = Database::new("millions");
    let proxy = Proxy::to(&db.environment().endpoint);
    db.create(&Integration { name: "proxied", endpoint: proxy.endpoint(), ..Integration::local() });
    // What the allocator keeps from a first export must not count for the second alone.
    let (client, ..) = export_rows(&db, db.client(), &proxy, 1_000_000);
    // The highest of five, so that both figures are the peak of as many rows.
    let (mut client, one, mut peak_of_one) = export_rows(&db, client, &proxy, 1_000_000);
    for _ in 0..4 {
        let (same_client, _, peak) = export_rows(&db, client, &proxy, 1_000_000);
        (client, peak_of_one) = (same_client, peak_of_one.max(peak));
    }
    let (_, five, peak_of_five) = export_rows(&db, client, &proxy, 5_000_000);
    check(&db, &one, 1_000_000);
    check(&db, &five, 5_000_000);
    println!("peak private memory: {peak_of_one} kB for 1 million rows, {peak_of_five} kB for 5 million");
    assert!(peak_of_one.max(peak_of_five) < MOST, "{peak_of_one} kB, {peak_of_five} kB");
    let share = peak_of_five as f64 / peak_of_one as f64;
    // Peaks vary from run to run; that the larger export happened to need less is no fault.
    assert!(share <= 1.1, "{peak_of_one} kB, {peak_of_five} kB");
}

#[test]
fn a_parallel_plan_is_used_within_an_export() {
    let db = Database::new("parallel");
    let mut client = db.client();
    client
        .batch_execute(
            "CREATE TABLE t AS SELECT generate_series(1, 200000) AS i; ANALYZE t;
             LOAD 'auto_explain';
             SET auto_explain.log_min_duration = 0; SET auto_explain.log_analyze = on;
             SET auto_explain.log_nested_statements = on; SET auto_explain.log_level = notice;
             SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0",
        )
        .unwrap();
    let exported = db.export_in(&mut client, "SELECT i FROM t WHERE i % 100 = 0", "").unwrap();
    assert_eq!(exported.documents, 2000);
    let plans = messages(&client.notices());
    let launched = plans.lines().filter_map(|line| line.trim().strip_prefix("Workers Launched: ")).any(|count| count != "0");
    assert!(launched, "{plans}");
}
