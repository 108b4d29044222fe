//! Each encoder by itself, a thousand values a measurement, into a buffer that has grown already.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use s3_export_core::text::buffer::JsonBuffer;
use s3_export_core::text::cursor::Append;
use s3_export_core::text::interval::{Interval, write_iso8601};
use s3_export_core::text::{datetime, inet, jsonb, number, numeric};
use std::hint::black_box;

const VALUES: u64 = 1000;

fn each(criterion: &mut Criterion, name: &str, mut write: impl FnMut(&mut JsonBuffer, u64)) {
    let mut group = criterion.benchmark_group("encode");
    group.throughput(Throughput::Elements(VALUES));
    let mut out = JsonBuffer::new();
    group.bench_function(name, |bencher| {
        bencher.iter(|| {
            out.truncate(0);
            for value in 0..VALUES {
                write(&mut out, black_box(value));
            }
            black_box(out.len())
        });
    });
    group.finish();
}

/// As Postgres stores it: a short header, and base-10000 digits.
fn numeric(header: u16, digits: &[u16]) -> Vec<u8> {
    std::iter::once(&header).chain(digits).flat_map(|word| word.to_ne_bytes()).collect()
}

/// `{"id": "0123456789", "ok": true}`, as Postgres stores it.
fn stored_object() -> Vec<u8> {
    let words: [u32; 5] = [0x2000_0002, 0x8000_0002, 2, 10, 0x3000_0000];
    words.iter().flat_map(|word| word.to_ne_bytes()).chain(*b"idok0123456789").collect()
}

fn encoders(criterion: &mut Criterion) {
    each(criterion, "integer", |out, value| number::integer(out, (value * 7919).cast_signed()));
    each(criterion, "bigint", |out, value| number::integer(out, (value * 1_234_567_890_123_457).cast_signed()));
    each(criterion, "double", |out, value| number::float8(out, (value as f64).sqrt()).unwrap_or(()));
    let (price, long) = (numeric(0x8101, &[3, 1415, 9200]), numeric(0x8a03, &[1, 2345, 6789, 1234, 5678, 9012, 3456]));
    each(criterion, "numeric(12,2)", |out, _| numeric::numeric(out, black_box(&price)).unwrap_or(()));
    each(criterion, "numeric of 28 digits", |out, _| numeric::numeric(out, black_box(&long)).unwrap_or(()));
    each(criterion, "date", |out, value| datetime::write_date(out, value as i32 * 7));
    each(criterion, "time", |out, value| datetime::write_time(out, value.cast_signed() * 86_400_001));
    each(criterion, "timestamp", |out, value| datetime::write_timestamp(out, value.cast_signed() * 123_456_789_123, b'T'));
    each(criterion, "interval", |out, value| {
        write_iso8601(out, &Interval { months: 1, days: 2, microseconds: value.cast_signed() * 1_000_001 }, true);
    });
    each(criterion, "inet", |out, value| {
        inet::write_ipv4(out, &[2, 32, 10, 0, (value >> 8) as u8, value as u8]);
    });
    let texts = [
        ("text of 1", "N"),
        ("text of 26", "carefully final deposits d"),
        ("text of 40 in two scripts", "naïve café, 雪が降る, and more of it"),
        ("text with escapes", "line one\nline \"two\" \\ three\tfour"),
    ];
    for (name, text) in texts {
        each(criterion, name, |out, _| _ = out.checked_string(black_box(text.as_bytes())));
    }
    let (kilobyte, bytes) = ("x".repeat(1024), vec![0xa5; 1024]);
    each(criterion, "text of 1024", |out, _| _ = out.checked_string(black_box(kilobyte.as_bytes())));
    each(criterion, "bytea of 1024", |out, _| out.base64(black_box(&bytes)));
    let object = stored_object();
    each(criterion, "jsonb", |out, _| jsonb::write(out, black_box(&object)).unwrap_or(()));
}

criterion_group!(benches, encoders);
criterion_main!(benches);
