//! A column of each type: random values as SQL expressions, and how to tell that our JSON is the value.

use proptest::prelude::*;

use super::shapes::{geography, geometry};
use crate::fixture::literal;

pub struct Column {
    pub name: &'static str,
    pub of_type: &'static str,
    pub values: fn() -> BoxedStrategy<String>,
    /// SQL that is true if `$ours`, the JSON, is `$theirs`, the value; never asked for NULL.
    pub wrapped: &'static str,
    /// The same for plain JSON.
    pub plain: &'static str,
}

/// Postgres's own JSON, in a session with UTC and ISO forms.
const ORACLE: &str = "$ours::jsonb = to_jsonb($theirs)";

/// A column that is written the same in both forms.
const fn same(name: &'static str, of_type: &'static str, values: fn() -> BoxedStrategy<String>, is: &'static str) -> Column {
    Column { name, of_type, values, wrapped: is, plain: is }
}

/// A column whose plain form is Postgres's own.
const fn column(
    name: &'static str,
    of_type: &'static str,
    values: fn() -> BoxedStrategy<String>,
    wrapped: &'static str,
) -> Column {
    Column { name, of_type, values, wrapped, plain: ORACLE }
}

pub const COLUMNS: &[Column] = &[
    same("bool", "boolean", || any::<bool>().prop_map(|value| value.to_string()).boxed(), ORACLE),
    same("int2", "smallint", || any::<i16>().prop_map(number).boxed(), ORACLE),
    same("int4", "int", || any::<i32>().prop_map(number).boxed(), ORACLE),
    same("int8", "bigint", || any::<i64>().prop_map(number).boxed(), ORACLE),
    same("oid", "oid", || any::<u32>().prop_map(number).boxed(), "number($ours)::oid = $theirs"),
    Column {
        name: "float8",
        of_type: "float8",
        values: || float8().prop_map(quoted_number).boxed(),
        wrapped: "float8send(number_of($ours)::float8) = float8send($theirs)",
        plain: "float8send(($ours#>>'{}')::float8) = float8send($theirs)",
    },
    Column {
        name: "float4",
        of_type: "float4",
        values: || any::<f32>().prop_map(quoted_number).boxed(),
        wrapped: "float4send(number_of($ours)::float4) = float4send($theirs)",
        plain: "float4send(($ours#>>'{}')::float4) = float4send($theirs)",
    },
    Column {
        name: "numeric",
        of_type: "numeric",
        values: numeric,
        wrapped: "number_of($ours) = $theirs::text",
        plain: "$ours#>>'{}' = $theirs::text",
    },
    same("text", "text", || text().prop_map(|text| literal(&text)).boxed(), "string($ours) = $theirs"),
    same(
        "char7",
        "char(7)",
        || text().prop_map(|text| format!("{}::char(7)", literal(&text))).boxed(),
        "string($ours)::char(7) = $theirs AND char_length(string($ours)) = 7",
    ),
    same(
        "name",
        "name",
        || text().prop_map(|text| format!("{}::name", literal(&text))).boxed(),
        "string($ours) = $theirs::text",
    ),
    same("byte", "\"char\"", || "[\\x01-\\x7f]".prop_map(|text| literal(&text)).boxed(), "string($ours)::\"char\" = $theirs"),
    same("uuid", "uuid", || any::<u128>().prop_map(|value| format!("'{value:032x}'")).boxed(), "string($ours)::uuid = $theirs"),
    same(
        "mood",
        "mood",
        || prop::sample::select(&["'calm'", "'say \"no\"'", "'grün'"]).prop_map(str::to_owned).boxed(),
        ORACLE,
    ),
    same("inet", "inet", inet, "string($ours)::inet = $theirs"),
    Column {
        name: "bytea",
        of_type: "bytea",
        values: bytea,
        wrapped: "bytes_of($ours) = $theirs",
        plain: "decode(string($ours), 'base64') = $theirs",
    },
    column(
        "date",
        "date",
        || {
            let days = prop_oneof![-2_451_545..=2_145_031_947, -740_000..-720_000, 0..20_000, 2_921_900..2_921_980];
            or_infinite(days.prop_map(|days| format!("'2000-01-01'::date + {days}")).boxed())
        },
        "string_of($ours, 'date', $theirs BETWEEN '0001-01-01' AND '9999-12-31')::date = $theirs",
    ),
    column("time", "time", time, "string_of($ours, 'time', $theirs < '24:00')::time = $theirs"),
    column(
        "timestamp",
        "timestamp",
        || or_infinite(microseconds().prop_map(|n| format!("'2000-01-01'::timestamp + {}", span(n))).boxed()),
        "string_of($ours, 'datetime', $theirs BETWEEN '0001-01-01' AND '9999-12-31 23:59:59.999999')::timestamp = $theirs",
    ),
    column(
        "timestamptz",
        "timestamptz",
        moment,
        "moment_of($ours) = $theirs AND (wrapped($ours, 'timestamp') IS NOT NULL) = isfinite($theirs)",
    ),
    same("timetz", "timetz", timetz, "string($ours)::timetz = $theirs"),
    column("span", "interval", interval, "is_interval($ours, $theirs)"),
    same(
        "json",
        "json",
        || json().prop_map(|json| literal(&format!("{json:#}"))).boxed(),
        "$ours::text = translate($theirs::text, E'\\n', '')",
    ),
    same("jsonb", "jsonb", || json().prop_map(|json| literal(&json.to_string())).boxed(), "$ours::text = $theirs::text"),
    same("ints", "int[]", ints, ORACLE),
    same("texts", "text[]", texts, ORACLE),
    column("moments", "moments", moments, "moments_of($ours) = $theirs::timestamptz[]"),
    column("reading", "reading", reading, "reading_of($ours) = $theirs"),
    column("readings", "reading_domain[]", readings, "readings_of($ours) = $theirs::reading[]"),
    same(
        "range",
        "tstzrange",
        || (moment(), moment()).prop_map(|(a, b)| format!("tstzrange(least({a}, {b}), greatest({a}, {b}), '[)')")).boxed(),
        "string($ours)::tstzrange = $theirs",
    ),
    same(
        "money",
        "money",
        || any::<i64>().prop_map(|cents| format!("({cents} / 100.0)::money")).boxed(),
        "string($ours)::money = $theirs",
    ),
    same(
        "point",
        "point",
        || (float8(), float8()).prop_map(|(x, y)| format!("point({}, {})", quoted_number(x), quoted_number(y))).boxed(),
        "point_send(string($ours)::point) = point_send($theirs)",
    ),
    same("bits", "varbit", || "B'[01]{0,40}'".boxed(), "string($ours)::varbit = $theirs"),
    Column {
        name: "geometry",
        of_type: "geometry",
        values: geometry,
        wrapped: "is_geometry($ours, $theirs)",
        plain: "is_plain_geometry($ours, $theirs)",
    },
    Column {
        name: "geography",
        of_type: "geography",
        values: geography,
        wrapped: "is_geometry($ours, $theirs::geometry)",
        plain: "is_plain_geometry($ours, $theirs::geometry)",
    },
];

fn number(value: impl ToString) -> String {
    format!("'{}'", value.to_string())
}

/// Rust's NaN and inf are Postgres's too.
fn quoted_number(value: impl std::fmt::LowerExp) -> String {
    format!("'{value:e}'::float8")
}

fn float8() -> BoxedStrategy<f64> {
    let special = [0.0, -0.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX, 5e-324, 1e23, 0.1 + 0.2, 1e15, 1e16];
    prop_oneof![any::<f64>(), -1000.0..1000.0, prop::sample::select(special.to_vec())].boxed()
}

fn numeric() -> BoxedStrategy<String> {
    let digits = "'-?[0-9]{1,40}(\\.[0-9]{1,30})?'";
    let special = prop::sample::select(&["'NaN'", "'Infinity'", "'-Infinity'"]).prop_map(str::to_owned);
    prop_oneof![4 => digits, 2 => "'-?[1-9]e-?[0-9]{1,3}'", 1 => special].boxed()
}

fn text() -> BoxedStrategy<String> {
    let any = any::<String>().prop_map(|text| text.replace('\0', ""));
    prop_oneof![any, "[\\x01-\\x7f]{0,40}", "[äß€😀\"\\\\/\n\r\t\u{2028} ]{0,20}"].boxed()
}

fn inet() -> BoxedStrategy<String> {
    let v4 = (any::<std::net::Ipv4Addr>(), 0..=32).prop_map(|(address, mask)| format!("'{address}/{mask}'"));
    let v6 = (any::<std::net::Ipv6Addr>(), 0..=128).prop_map(|(address, mask)| format!("'{address}/{mask}'"));
    prop_oneof![v4, v6].boxed()
}

fn bytea() -> BoxedStrategy<String> {
    any::<Vec<u8>>()
        .prop_map(|bytes| bytes.iter().fold("'\\x".to_owned(), |hex, byte| format!("{hex}{byte:02x}")) + "'")
        .boxed()
}

fn or_infinite(finite: BoxedStrategy<String>) -> BoxedStrategy<String> {
    let infinite = prop::sample::select(&["'infinity'", "'-infinity'"]).prop_map(str::to_owned);
    prop_oneof![8 => finite, 1 => infinite].boxed()
}

/// From 2000, all that Postgres has, this century, and around the ends of what a wrapper can express.
fn microseconds() -> BoxedStrategy<i64> {
    const DAY: i64 = 86_400_000_000;
    prop_oneof![
        -211_813_488_000_000_000..9_223_371_331_200_000_000i64,
        0..20_000 * DAY,
        (-730_120 * DAY)..(-730_118 * DAY),
        2_921_938 * DAY..2_921_942 * DAY
    ]
    .boxed()
}

/// An interval of so many microseconds.
fn span(microseconds: i64) -> String {
    const HOUR: i64 = 3_600_000_000;
    let (hours, rest) = (microseconds / HOUR, microseconds % HOUR);
    format!("(make_interval(hours => {}) + make_interval(hours => {}, secs => {rest} / 1e6))", hours / 2, hours - hours / 2)
}

fn moment() -> BoxedStrategy<String> {
    let finite = microseconds().prop_map(|n| format!("('2000-01-01 00:00+00'::timestamptz + {})", span(n)));
    or_infinite(finite.boxed()).prop_map(|moment| format!("{moment}::timestamptz")).boxed()
}

fn time() -> BoxedStrategy<String> {
    let before_24 = "'([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,6})?'";
    prop_oneof![9 => before_24, 1 => Just("'24:00'".to_owned())].boxed()
}

fn timetz() -> BoxedStrategy<String> {
    (time(), "[+-](0[0-9]|1[0-5])(:[0-5][0-9]){0,2}")
        .prop_map(|(time, zone)| format!("'{}{zone}'", &time[1..time.len() - 1]))
        .boxed()
}

fn interval() -> BoxedStrategy<String> {
    let months = prop_oneof![Just(0), -40..40, any::<i32>()];
    let days = prop_oneof![Just(0), -40..40, any::<i32>()];
    let time = prop_oneof![Just(0), -10_000_000_000..10_000_000_000i64, any::<i64>()];
    (months, days, time)
        .prop_map(|(m, d, t)| format!("(make_interval(months => '{m}'::int, days => '{d}'::int) + {})", span(t)))
        .boxed()
}

fn json() -> BoxedStrategy<serde_json::Value> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(serde_json::Value::from),
        any::<i64>().prop_map(serde_json::Value::from),
        (-1e9..1e9).prop_map(serde_json::Value::from),
        text().prop_map(serde_json::Value::from),
        Just(serde_json::Value::Null),
    ];
    let tree = leaf.prop_recursive(3, 20, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(serde_json::Value::from),
            prop::collection::vec((text(), inner), 0..5).prop_map(|members| members.into_iter().collect()),
        ]
    });
    tree.boxed()
}

/// Arrays of one dimension or two, with NULLs.
fn array(elements: BoxedStrategy<String>, of_type: &'static str) -> BoxedStrategy<String> {
    let elements = prop_oneof![5 => elements, 1 => Just("NULL".to_owned())];
    let rows = (0..4usize, 0..4usize)
        .prop_flat_map(move |(rows, columns)| prop::collection::vec(prop::collection::vec(elements.clone(), columns), rows));
    rows.prop_map(move |rows| {
        let rows: Vec<_> = rows.iter().map(|row| format!("ARRAY[{}]::{of_type}[]", row.join(", "))).collect();
        if rows.len() == 1 { rows[0].clone() } else { format!("ARRAY[{}]::{of_type}[]", rows.join(", ")) }
    })
    .boxed()
}

fn ints() -> BoxedStrategy<String> {
    array(any::<i32>().prop_map(number).boxed(), "int")
}

fn texts() -> BoxedStrategy<String> {
    array(text().prop_map(|text| literal(&text)).boxed(), "text")
}

fn list(elements: BoxedStrategy<String>, of_type: &'static str) -> BoxedStrategy<String> {
    let elements = prop_oneof![5 => elements, 1 => Just("NULL".to_owned())];
    prop::collection::vec(elements, 0..5).prop_map(move |list| format!("ARRAY[{}]::{of_type}[]", list.join(", "))).boxed()
}

fn moments() -> BoxedStrategy<String> {
    list(moment(), "moment")
}

/// Composites, some of NULLs only. Their jsonb is never `null`, which JSON could not tell from NULL.
fn reading() -> BoxedStrategy<String> {
    let detail = json().prop_map(|json| if json.is_null() { "NULL".to_owned() } else { literal(&json.to_string()) });
    (prop::option::of(any::<i32>()), prop::option::of(moment()), detail)
        .prop_map(|(id, at, detail)| {
            let (id, at) = (id.map_or("NULL".to_owned(), number), at.unwrap_or("NULL".to_owned()));
            format!("ROW({id}, {at}, {detail})::reading")
        })
        .boxed()
}

fn readings() -> BoxedStrategy<String> {
    list(reading(), "reading_domain")
}
