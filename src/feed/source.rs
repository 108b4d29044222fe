//! The column that a feed's mark goes by: which it is, and whether it is what the mark relies on.
#![forbid(unsafe_code)]

use pgrx::pg_sys;
use s3_export_core::error::{Code, Error, Result};
use s3_export_core::marks::Kind;
use serde_json::{Value, json};

use crate::feed::setup::statements;
use crate::pg::sql;

/// A column of a table.
#[derive(Debug, Clone)]
pub struct Column {
    /// The table, with its schema, quoted as SQL wants it.
    pub table: String,
    /// OIDs of the table and of all tables that inherit from it, partitions among them.
    pub family: Vec<u32>,
    /// OID of the sequence that feeds the column.
    pub sequence: Option<pg_sys::Oid>,
}

/// Looks up `table.column` as the current user's session does. Errors: 22023, 42703, 42704.
pub fn resolve(column: &str) -> Result<(String, String)> {
    let unusable = || {
        Error::new(Code::InvalidParameter, format!("mark_column must be table.column, not \"{column}\""))
            .hint("Write the name of the table, with its schema if need be, a dot, and the name of the column.")
    };
    let parsed = sql::read_as_session(
        "SELECT pg_catalog.convert_to(pg_catalog.to_jsonb(pg_catalog.parse_ident(pg_catalog.convert_from($1, 'UTF8')))::pg_catalog.text, 'UTF8')",
        column,
    )?;
    let parts: Vec<String> = parsed
        .as_ref()
        .and_then(Value::as_array)
        .map(|parts| parts.iter().filter_map(Value::as_str).map(str::to_owned).collect())
        .unwrap_or_default();
    let (name, table) = parts.split_last().filter(|(_, table)| !table.is_empty()).ok_or_else(unusable)?;
    let quoted: Vec<String> = table.iter().map(|part| format!("\"{}\"", part.replace('"', "\"\""))).collect();
    let found = sql::read_as_session(
        "SELECT pg_catalog.convert_to(pg_catalog.to_jsonb(pg_catalog.to_regclass(pg_catalog.convert_from($1, 'UTF8'))::pg_catalog.oid::pg_catalog.int8)::pg_catalog.text, 'UTF8')",
        &quoted.join("."),
    )?;
    let oid = found
        .as_ref()
        .and_then(Value::as_u64)
        .ok_or_else(|| Error::new(Code::Undefined, format!("table {} of mark_column does not exist", quoted.join("."))))?;
    let named = sql::read_latest(
        "SELECT convert_to(to_jsonb(format('%I.%I', n.nspname, c.relname))::text, 'UTF8')
         FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = ($argument ->> 'oid')::oid",
        &json!({ "oid": oid }),
    )?;
    let named = named.as_ref().and_then(Value::as_str).ok_or_else(unusable)?;
    Ok((named.to_owned(), name.clone()))
}

/// Looks up the column, and checks all that the mark relies on, in the table and in all tables that inherit from it. Errors: 42703,
/// 42704, 42501 where the current user may not read the column, 42804, 55000.
pub fn check(kind: Kind, table: &str, name: &str) -> Result<Column> {
    let found = sql::read_latest(
        "WITH RECURSIVE family (oid, depth) AS (
             SELECT to_regclass($argument ->> 'table')::oid, 0
             UNION ALL SELECT i.inhrelid, f.depth + 1 FROM pg_inherits AS i JOIN family AS f ON f.oid = i.inhparent)
         SELECT convert_to(jsonb_agg(jsonb_build_object('oid', c.oid::bigint, 'is_table', c.relkind IN ('r', 'p'),
             'name', format('%I.%I', n.nspname, c.relname), 'is_temporary', c.relpersistence = 't',
             'column', a.attname, 'type', format_type(a.atttypid, NULL), 'is_not_null', a.attnotnull,
             'is_readable', has_column_privilege(c.oid, a.attnum, 'SELECT'),
             'default', pg_get_expr(d.adbin, d.adrelid),
             'sequence', coalesce(
                 (SELECT s.oid::bigint FROM pg_depend AS p JOIN pg_class AS s ON s.oid = p.refobjid AND s.relkind = 'S'
                  WHERE p.classid = 'pg_attrdef'::regclass AND p.objid = d.oid AND p.refclassid = 'pg_class'::regclass LIMIT 1),
                 (SELECT s.oid::bigint FROM pg_depend AS p JOIN pg_class AS s ON s.oid = p.objid AND s.relkind = 'S'
                  WHERE p.classid = 'pg_class'::regclass AND p.refclassid = 'pg_class'::regclass AND p.refobjid = c.oid
                        AND p.refobjsubid = a.attnum AND p.deptype = 'i' LIMIT 1)),
             'is_next', pg_get_expr(d.adbin, d.adrelid) ~ '^nextval[(]''([^'']|'''')+''::regclass[)]$',
             'has_trigger', EXISTS (
                 SELECT FROM pg_trigger AS t JOIN pg_proc AS p ON p.oid = t.tgfoid
                 WHERE t.tgrelid = c.oid AND NOT t.tgisinternal AND t.tgenabled IN ('O', 'A') AND t.tgqual IS NULL
                       AND cardinality(t.tgattr::int2[]) = 0 AND t.tgtype & 1 = 1 AND t.tgtype & 2 = 2 AND t.tgtype & 16 = 16
                       AND strpos(p.prosrc, 'pg_current_xact_id') > 0)) ORDER BY f.depth, c.oid)::text, 'UTF8')
         FROM family AS f
         JOIN pg_class AS c ON c.oid = f.oid
         JOIN pg_namespace AS n ON n.oid = c.relnamespace
         LEFT JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attname = $argument ->> 'column' AND a.attnum > 0 AND NOT a.attisdropped
         LEFT JOIN pg_attrdef AS d ON d.adrelid = c.oid AND d.adnum = a.attnum",
        &json!({ "table": table, "column": name }),
    )?;
    let family = found.as_ref().and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let Some((first, children)) = family.split_first() else {
        return Err(Error::new(Code::Undefined, format!("table {table} of mark_column does not exist")));
    };
    let not_ready = |what: String| {
        Error::new(Code::NotReady, what)
            .detail(format!("A mark \"{}\" relies on it.", kind.name()))
            .hint(format!("These statements set up such a column: {}", statements(kind, table, name)))
    };
    if !is(first, "is_table") {
        return Err(Error::new(Code::WrongType, format!("{table} of mark_column is no table")));
    }
    if is(first, "is_temporary") {
        return Err(Error::new(Code::WrongType, format!("{table} of mark_column is a temporary table")));
    }
    let column = format!("column \"{name}\" of {table}");
    if text(first, "column").is_none() {
        return Err(Error::new(Code::UndefinedColumn, format!("{column} does not exist")));
    }
    if !is(first, "is_readable") {
        return Err(Error::new(Code::Privilege, format!("permission denied for {column}")));
    }
    let (types, wanted): (&[&str], &str) = match kind {
        Kind::Xid => (&["xid8"], "xid8"),
        Kind::Sequence => (&["bigint", "integer", "smallint"], "bigint, integer or smallint"),
        Kind::Time => (&["timestamp with time zone"], "timestamp with time zone"),
    };
    let type_name = text(first, "type").unwrap_or_default();
    if !types.contains(&type_name) {
        let message = format!("{column} has the type {type_name}, and a mark \"{}\" needs {wanted}", kind.name());
        return Err(Error::new(Code::WrongType, message));
    }
    let sequence = oid(first, "sequence").filter(|_| kind == Kind::Sequence);
    if let Some(what) = lacks(kind, name, first, sequence, false) {
        return Err(not_ready(what));
    }
    for child in children {
        if !is(child, "is_table") {
            let child = text(child, "name").unwrap_or_default();
            return Err(Error::new(Code::WrongType, format!("{child}, a child of {table} of mark_column, is no table")));
        }
        if let Some(what) = lacks(kind, name, child, sequence, true) {
            return Err(Error::new(Code::NotReady, what).detail(format!(
                "A mark \"{}\" relies on it, in each table that inherits from {table} as well.",
                kind.name()
            )));
        }
    }
    if let Some(sequence) = sequence {
        check_sequence(sequence)?;
    }
    let family = family.iter().filter_map(|table| oid(table, "oid")).map(pg_sys::Oid::to_u32).collect();
    Ok(Column { table: table.to_owned(), family, sequence })
}

fn text<'a>(table: &'a Value, key: &str) -> Option<&'a str> {
    table.get(key).and_then(Value::as_str)
}

fn is(table: &Value, key: &str) -> bool {
    table.get(key).and_then(Value::as_bool) == Some(true)
}

fn oid(table: &Value, key: &str) -> Option<pg_sys::Oid> {
    let oid = table.get(key).and_then(Value::as_u64).and_then(|oid| u32::try_from(oid).ok());
    oid.map(pg_sys::Oid::from)
}

/// Returns what one of the tables lacks of what the mark relies on. A child needs no default: a row that comes by the parent has the
/// parent's. `sequence`: the parent's.
fn lacks(kind: Kind, name: &str, table: &Value, sequence: Option<pg_sys::Oid>, is_child: bool) -> Option<String> {
    let table_name = text(table, "name").unwrap_or_default();
    let column = format!("column \"{name}\" of {table_name}");
    if !is(table, "is_not_null") {
        return Some(format!("{column} may be NULL"));
    }
    let default = text(table, "default");
    let has_default = |known: &[&str]| default.map_or(is_child, |default| known.contains(&default));
    match kind {
        Kind::Xid if !has_default(&["pg_current_xact_id()"]) => {
            Some(format!("{column} does not have the default pg_current_xact_id()"))
        }
        Kind::Xid if !is(table, "has_trigger") => {
            Some(format!("{table_name} has no trigger BEFORE UPDATE that sets \"{name}\" to pg_current_xact_id()"))
        }
        Kind::Sequence if sequence.is_none() => Some(format!("{column} is fed by no sequence")),
        Kind::Sequence if default.is_some() && !is(table, "is_next") => {
            Some(format!("{column} has another default than nextval of its sequence"))
        }
        // An identity has no default; one of a partition is its parent's.
        Kind::Sequence
            if is_child && (default.is_some() || oid(table, "sequence").is_some()) && oid(table, "sequence") != sequence =>
        {
            Some(format!("{column} is not fed by the sequence of its parent"))
        }
        Kind::Time if !has_default(&TIMES) => Some(format!("{column} does not have the default now()")),
        _ => None,
    }
}

/// Errors: 55000 when a row has the id of a transaction that this cluster has not begun: the rows are another cluster's, and each run
/// would take them for new.
pub fn refuse_foreign_ids(table: &str, name: &str) -> Result<()> {
    let column = format!("\"{}\"", name.replace('"', "\"\""));
    let found = sql::read_latest(
        &format!(
            "SELECT convert_to(to_jsonb(t.{column}::text)::text, 'UTF8') FROM {table} AS t
             WHERE t.{column} >= pg_snapshot_xmax(pg_current_snapshot()) AND $argument IS NOT NULL LIMIT 1"
        ),
        &json!({}),
    )?;
    match found.as_ref().and_then(Value::as_str) {
        None => Ok(()),
        Some(id) => Err(Error::new(Code::NotReady, format!("{table} has rows of another cluster"))
            .detail(format!("Column {column} has the id {id}, of a transaction that this cluster has not begun."))
            .hint(format!("UPDATE {table} SET {column} = pg_current_xact_id(); makes all rows new."))),
    }
}

/// Defaults that give the start of the transaction or a later time, as `pg_get_expr` prints them.
const TIMES: [&str; 5] =
    ["now()", "transaction_timestamp()", "CURRENT_TIMESTAMP", "statement_timestamp()", "clock_timestamp()"];

/// Errors: 55000 for a sequence whose values do not come in order: sessions keep values for later, it goes down or around, or a crash
/// sets it back.
fn check_sequence(sequence: pg_sys::Oid) -> Result<()> {
    let found = sql::read_latest(
        "SELECT convert_to(jsonb_build_object('name', s.seqrelid::regclass::text, 'cache', s.seqcache, 'is_up', s.seqincrement > 0,
             'cycles', s.seqcycle, 'is_logged', c.relpersistence = 'p')::text, 'UTF8')
         FROM pg_sequence AS s JOIN pg_class AS c ON c.oid = s.seqrelid WHERE s.seqrelid = ($argument ->> 'oid')::oid",
        &json!({ "oid": sequence.to_u32() }),
    )?;
    let found = found.ok_or_else(|| Error::new(Code::Undefined, "the sequence of mark_column does not exist"))?;
    let is = |key: &str| found.get(key).and_then(Value::as_bool) == Some(true);
    let why = if found.get("cache").and_then(Value::as_u64) != Some(1) {
        "Sessions keep values of the sequence for later, so that values do not come in order."
    } else if !is("is_up") {
        "The sequence counts down."
    } else if is("cycles") {
        "The sequence begins anew at its end."
    } else if !is("is_logged") {
        "The sequence is not logged, so that it begins anew after a crash."
    } else {
        return Ok(());
    };
    let name = found.get("name").and_then(Value::as_str).unwrap_or_default();
    let hint = if is("is_logged") {
        format!("ALTER SEQUENCE {name} CACHE 1 NO CYCLE INCREMENT 1;")
    } else {
        "ALTER TABLE … SET LOGGED makes the table and its sequence safe.".to_owned()
    };
    Err(Error::new(Code::NotReady, format!("sequence {name} cannot be followed")).detail(why).hint(hint))
}
