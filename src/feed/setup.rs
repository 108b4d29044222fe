//! The statements that give a table a column for a mark.
#![forbid(unsafe_code)]

use s3_export_core::marks::Kind;

/// Returns the statements for a table, quoted as SQL wants it, and the name of the column.
pub fn statements(kind: Kind, table: &str, column: &str) -> String {
    let quoted = quote(column);
    match kind {
        Kind::Sequence => format!("ALTER TABLE {table} ADD COLUMN {quoted} bigint GENERATED ALWAYS AS IDENTITY;"),
        Kind::Time => format!("ALTER TABLE {table} ADD COLUMN {quoted} timestamptz NOT NULL DEFAULT now();"),
        Kind::Xid => {
            let bare = table.rsplit_once('.').map_or(table, |(_, bare)| bare).trim_matches('"').replace("\"\"", "\"");
            // A name of Postgres has 63 bytes at most, and one name stands for the function and the trigger.
            let name = quote(&format!("set_{bare}_{column}").chars().take(40).collect::<String>());
            format!(
                "ALTER TABLE {table} ADD COLUMN {quoted} xid8 NOT NULL DEFAULT pg_current_xact_id();\n\
                 CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$\n\
                 BEGIN\n    NEW.{quoted} := pg_catalog.pg_current_xact_id();\n    RETURN NEW;\nEND\n$$;\n\
                 CREATE TRIGGER {name} BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION {name}();\n\
                 CREATE INDEX ON {table} ({quoted});"
            )
        }
    }
}

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
