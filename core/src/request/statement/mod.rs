//! Rockset's statement, pasted whole:
//!
//! ```text
//! INSERT INTO 's3://bucket/prefix'
//!   INTEGRATION = 'name'   or   CREDENTIALS = (AWS_ROLE = 'arn:…', AWS_EXTERNAL_ID = '…')
//!   [FORMAT = (TYPE = 'JSON', …)]
//! SELECT … [PARTITION BY column, …] [HINT(s3_sync_op_output_chunk_size = 2000)] [;]
//! ```
//!
//! Only what stands around the query is read here. The query is a range of the statement, which Postgres is given as it is
//! written; it ends where, outside of strings, comments and parentheses, one of the last two clauses or a final semicolon begins.
#![forbid(unsafe_code)]

mod cursor;
mod token;

use std::ops::Range;

use serde_json::{Map, Value};

use self::cursor::Cursor;
use self::token::Kind;
use crate::request::options::OPTIONS;
use crate::request::{Arguments, PermissionArguments};

/// A statement's arguments, and where its query is.
#[derive(Debug)]
pub struct Statement {
    /// Text of the message.
    pub arguments: Arguments,
    /// The query's bytes in it.
    pub query: Range<usize>,
}

/// Syntax error of a statement, with its place.
#[derive(Debug, PartialEq, Eq)]
pub struct SyntaxError {
    /// In bytes from its beginning.
    pub at: usize,
    /// Lower case, no full stop.
    pub message: String,
    /// Whole sentences.
    pub hint: Option<String>,
}

impl SyntaxError {
    fn new(at: usize, message: &str) -> Self {
        SyntaxError { at, message: message.to_owned(), hint: None }
    }

    fn hint(self, hint: &str) -> Self {
        SyntaxError { hint: Some(hint.to_owned()), ..self }
    }
}

/// Rockset's hint for `output_chunk_size`, the only one.
const CHUNK_SIZE_HINT: &str = "s3_sync_op_output_chunk_size";

/// Keys of FORMAT beside the options.
const FORMAT_KEYS: [&str; 6] =
    ["compression", "include_query_id", "output_chunk_bytes", "output_chunk_size", "type", "wrap_types"];

/// Reads `text`. `backslashes`: plain strings have backslash escapes too.
pub fn parse(text: &str, backslashes: bool) -> Result<Statement, SyntaxError> {
    Cursor::new(text, backslashes)?.statement()
}

/// Arguments that the clauses before and after the query give.
#[derive(Default)]
struct Clauses {
    integration: Option<String>,
    credentials: Option<(String, String)>,
    format: Option<Vec<(String, Value, usize)>>,
    partition_by: Option<Vec<String>>,
    hints: Option<Vec<(String, Value, usize)>>,
}

impl Cursor<'_> {
    fn statement(mut self) -> Result<Statement, SyntaxError> {
        const FORM: &str = "A statement begins INSERT INTO 's3://bucket/prefix' INTEGRATION = 'name' SELECT …";
        if self.tokens.is_empty() {
            return Err(SyntaxError::new(0, "the statement is empty").hint(FORM));
        }
        for keyword in ["INSERT", "INTO"] {
            if !self.take_word(keyword) {
                return Err(self.expected(keyword).hint(FORM));
            }
        }
        let uri = self.string("the uri, as 's3://bucket/prefix'")?;
        let mut clauses = Clauses::default();
        while !self.at_query() {
            self.clause_before_query(&mut clauses)?;
        }
        let begin = self.position();
        let end = self.query_end();
        let query = self.text.get(begin..end).unwrap_or_default().trim_end();
        let query = begin..begin + query.len();
        self.clauses_after_query(&mut clauses)?;
        let permission = match (clauses.integration, clauses.credentials) {
            (Some(integration), None) => PermissionArguments::Integration(Some(integration)),
            (None, Some((aws_role, aws_external_id))) => {
                PermissionArguments::Role { aws_role: Some(aws_role), aws_external_id: Some(aws_external_id) }
            }
            (Some(_), Some(_)) => return Err(SyntaxError::new(begin, "INTEGRATION and CREDENTIALS exclude each other")),
            (None, None) => {
                return Err(SyntaxError::new(begin, "INTEGRATION or CREDENTIALS is missing")
                    .hint("Write INTEGRATION = 'name' before the query."));
            }
        };
        let mut arguments = Arguments {
            uri: Some(uri),
            permission,
            query: self.text.get(query.clone()).map(str::to_owned),
            format: Some("json".to_owned()),
            compression: None,
            output_chunk_size: None,
            output_chunk_bytes: None,
            partition_by: clauses.partition_by,
            include_query_id: Some(false),
            wrap_types: Some(true),
            options: None,
        };
        let mut options = Map::new();
        for (key, value, at) in clauses.format.unwrap_or_default() {
            format_item(&mut arguments, &mut options, &key, value, at)?;
        }
        for (key, value, at) in clauses.hints.unwrap_or_default() {
            if key != CHUNK_SIZE_HINT {
                return Err(unknown("hint", &key, at, &[CHUNK_SIZE_HINT]));
            }
            once(&mut arguments.output_chunk_size, chunk_size(&value, at)?, "the number of documents a file", at)?;
        }
        arguments.options = Some(Value::Object(options).to_string());
        Ok(Statement { arguments, query })
    }

    fn clause_before_query(&mut self, clauses: &mut Clauses) -> Result<(), SyntaxError> {
        let at = self.position();
        if self.take_word("INTEGRATION") {
            self.symbol('=')?;
            once(&mut clauses.integration, self.string("the name of an integration, in single quotes")?, "INTEGRATION", at)
        } else if self.take_word("CREDENTIALS") {
            self.symbol('=')?;
            once(&mut clauses.credentials, self.credentials()?, "CREDENTIALS", at)
        } else if self.take_word("FORMAT") {
            self.symbol('=')?;
            once(&mut clauses.format, self.items()?, "FORMAT", at)
        } else {
            Err(self.expected("INTEGRATION, CREDENTIALS, FORMAT or the query"))
        }
    }

    fn credentials(&mut self) -> Result<(String, String), SyntaxError> {
        let at = self.position();
        let (mut role, mut external_id) = (None, None);
        for (key, value, at) in self.items()? {
            let Value::String(value) = value else {
                return Err(SyntaxError::new(at, &format!("{} must be a string", key.to_uppercase())));
            };
            match key.as_str() {
                "aws_role" => once(&mut role, value, "AWS_ROLE", at)?,
                "aws_external_id" => once(&mut external_id, value, "AWS_EXTERNAL_ID", at)?,
                _ => return Err(unknown("credential", &key, at, &["AWS_ROLE", "AWS_EXTERNAL_ID"])),
            }
        }
        match (role, external_id) {
            (Some(role), Some(external_id)) => Ok((role, external_id)),
            (None, _) => Err(SyntaxError::new(at, "AWS_ROLE is missing")),
            (_, None) => Err(SyntaxError::new(at, "AWS_EXTERNAL_ID is missing")),
        }
    }

    fn at_query(&self) -> bool {
        self.kind() == Some(Kind::Symbol('('))
            || ["SELECT", "WITH", "VALUES", "TABLE"].iter().any(|word| self.is_word(self.at, word))
    }

    /// Goes to where the query ends: the first token after it, or the end.
    fn query_end(&mut self) -> usize {
        let mut depth = 0_i32;
        while let Some(token) = self.tokens.get(self.at) {
            match token.kind {
                Kind::Symbol('(' | '[') => depth += 1,
                Kind::Symbol(')' | ']') => depth -= 1,
                Kind::Symbol(';') if depth == 0 && self.at + 1 == self.tokens.len() => break,
                Kind::Word if depth == 0 && (self.is_partition_clause() || self.is_hint_clause()) => break,
                _ => {}
            }
            self.at += 1;
        }
        self.position()
    }

    fn is_partition_by(&self) -> bool {
        self.is_word(self.at, "PARTITION") && self.is_word(self.at + 1, "BY")
    }

    /// A column may be called `partition` and shown as `by`: the clause comes where a query may end, and either nothing but the
    /// other clause comes after its names, or what comes after BY could not follow an alias.
    fn is_partition_clause(&self) -> bool {
        if !self.is_partition_by() || !self.may_end_query(self.at) {
            return false;
        }
        let mut next = self.at + 2;
        while self.is_name(next) && self.is_symbol(next + 1, ',') {
            next += 2;
        }
        let is_whole =
            self.is_name(next) && (self.ends(next + 1) || self.is_word(next + 1, "HINT") && self.is_symbol(next + 2, '('));
        is_whole || !self.may_follow_alias(self.at + 2)
    }

    fn is_symbol(&self, index: usize, symbol: char) -> bool {
        self.tokens.get(index).is_some_and(|token| token.kind == Kind::Symbol(symbol))
    }

    fn is_name(&self, index: usize) -> bool {
        self.tokens.get(index).is_some_and(|token| matches!(token.kind, Kind::Word | Kind::QuotedName))
    }

    /// Whether the statement ends before that token.
    fn ends(&self, index: usize) -> bool {
        index >= self.tokens.len() || (self.is_symbol(index, ';') && index + 1 == self.tokens.len())
    }

    /// Whether a query may go on with that token after an alias of a column or of a table.
    fn may_follow_alias(&self, index: usize) -> bool {
        const AFTER_ALIAS: [&str; 20] = [
            "FROM",
            "INTO",
            "WHERE",
            "GROUP",
            "HAVING",
            "WINDOW",
            "UNION",
            "INTERSECT",
            "EXCEPT",
            "ORDER",
            "LIMIT",
            "OFFSET",
            "FETCH",
            "JOIN",
            "CROSS",
            "INNER",
            "LEFT",
            "RIGHT",
            "FULL",
            "NATURAL",
        ];
        self.is_symbol(index, ',') || AFTER_ALIAS.iter().any(|word| self.is_word(index, word))
    }

    /// A function may be called `hint`, and a column: the clause has a name and an equals sign in its parentheses, nothing but
    /// the other clause after them, and before it the end of a query.
    fn is_hint_clause(&self) -> bool {
        let is_name = self.tokens.get(self.at + 2).is_some_and(|token| token.kind == Kind::Word);
        let has_form = self.is_symbol(self.at + 1, '(') && is_name && self.is_symbol(self.at + 3, '=');
        if !self.is_word(self.at, "HINT") || !has_form || !self.may_end_query(self.at) {
            return false;
        }
        let Some(length) = self.tokens.iter().skip(self.at).position(|token| token.kind == Kind::Symbol(')')) else {
            return true;
        };
        let after = self.at + length + 1;
        self.ends(after) || (self.is_word(after, "PARTITION") && self.is_word(after + 1, "BY"))
    }

    /// Whether a query may end before that token.
    fn may_end_query(&self, index: usize) -> bool {
        const NO_END: [&str; 38] = [
            "SELECT",
            "WHERE",
            "AND",
            "OR",
            "NOT",
            "ON",
            "BY",
            "HAVING",
            "AS",
            "DISTINCT",
            "ALL",
            "CASE",
            "WHEN",
            "THEN",
            "ELSE",
            "IN",
            "LIKE",
            "ILIKE",
            "SIMILAR",
            "BETWEEN",
            "IS",
            "FROM",
            "JOIN",
            "LIMIT",
            "OFFSET",
            "USING",
            "UNION",
            "EXCEPT",
            "INTERSECT",
            "FILTER",
            "OVER",
            "VALUES",
            "WITH",
            "TABLE",
            "ONLY",
            "LATERAL",
            "ANY",
            "SOME",
        ];
        let Some(before) = index.checked_sub(1).and_then(|before| self.tokens.get(before)) else { return false };
        match before.kind {
            Kind::Symbol('*') => self.is_star(index - 1),
            Kind::Symbol(symbol) => matches!(symbol, ')' | ']'),
            Kind::Word => self.is_end_word(index - 1) || !NO_END.iter().any(|word| self.is_word(index - 1, word)),
            _ => true,
        }
    }

    /// Whether that star stands for all columns, rather than for a product.
    fn is_star(&self, index: usize) -> bool {
        let Some(before) = index.checked_sub(1) else { return false };
        [',', '.'].iter().any(|symbol| self.is_symbol(before, *symbol))
            || ["SELECT", "ALL", "DISTINCT"].iter().any(|word| self.is_word(before, word))
    }

    /// Whether that word ends a query, though others like it do not: an alias, a field, or the last word of a LIMIT or FETCH.
    fn is_end_word(&self, index: usize) -> bool {
        let Some(before) = index.checked_sub(1) else { return false };
        let follows = |words: &[&str]| words.iter().any(|word| self.is_word(before, word));
        follows(&["AS"])
            || self.is_symbol(before, '.')
            || (self.is_word(index, "ALL") && follows(&["LIMIT"]))
            || (self.is_word(index, "ONLY") && follows(&["ROW", "ROWS"]))
    }

    fn clauses_after_query(&mut self, clauses: &mut Clauses) -> Result<(), SyntaxError> {
        while self.at < self.tokens.len() {
            let at = self.position();
            if self.is_partition_by() {
                self.at += 2;
                once(&mut clauses.partition_by, self.names()?, "PARTITION BY", at)?;
            } else if self.take_word("HINT") {
                once(&mut clauses.hints, self.items()?, "HINT", at)?;
            } else if self.take_symbol(';') && self.at == self.tokens.len() {
                return Ok(());
            } else {
                return Err(self.expected("PARTITION BY, HINT or the end of the statement"));
            }
        }
        Ok(())
    }

    /// Columns' names, folded as Postgres folds them.
    fn names(&mut self) -> Result<Vec<String>, SyntaxError> {
        let mut names = Vec::new();
        loop {
            names.push(match self.kind() {
                Some(Kind::QuotedName) => {
                    let quoted = self.next_text();
                    let name = quoted.get(1..quoted.len() - 1).unwrap_or_default().replace("\"\"", "\"");
                    self.at += 1;
                    name
                }
                _ => self.word("the name of a column")?.to_ascii_lowercase(),
            });
            if !self.take_symbol(',') {
                return Ok(names);
            }
        }
    }
}

fn once<T>(clause: &mut Option<T>, value: T, name: &str, at: usize) -> Result<(), SyntaxError> {
    match clause.replace(value) {
        None => Ok(()),
        Some(_) => Err(SyntaxError::new(at, &format!("{name} appears more than once"))),
    }
}

fn unknown(what: &str, key: &str, at: usize, known: &[&str]) -> SyntaxError {
    SyntaxError::new(at, &format!("unknown {what} \"{key}\"")).hint(&format!("Known: {}.", known.join(", ")))
}

/// A key of FORMAT: an argument of `s3_export`, or an option.
fn format_item(
    arguments: &mut Arguments,
    options: &mut Map<String, Value>,
    key: &str,
    value: Value,
    at: usize,
) -> Result<(), SyntaxError> {
    let wrong = |takes: &str| SyntaxError::new(at, &format!("{} must be {takes}", key.to_uppercase()));
    let text = |value: &Value| value.as_str().map(str::to_lowercase).ok_or_else(|| wrong("a string"));
    let flag = |value: &Value| value.as_bool().ok_or_else(|| wrong("TRUE or FALSE"));
    match key {
        "type" => arguments.format = Some(text(&value)?),
        "compression" => arguments.compression = Some(text(&value)?),
        "include_query_id" => arguments.include_query_id = Some(flag(&value)?),
        "wrap_types" => arguments.wrap_types = Some(flag(&value)?),
        "output_chunk_size" => arguments.output_chunk_size = Some(chunk_size(&value, at)?),
        "output_chunk_bytes" => arguments.output_chunk_bytes = Some(value.as_i64().ok_or_else(|| wrong("a whole number"))?),
        _ if OPTIONS.iter().any(|option| option.name == key) => {
            options.insert(key.to_owned(), value);
        }
        _ => {
            let mut known: Vec<&str> = FORMAT_KEYS.into_iter().chain(OPTIONS.iter().map(|option| option.name)).collect();
            known.sort_unstable();
            return Err(unknown("format option", key, at, &known));
        }
    }
    Ok(())
}

fn chunk_size(value: &Value, at: usize) -> Result<i32, SyntaxError> {
    let size = value.as_i64().and_then(|size| i32::try_from(size).ok());
    size.ok_or_else(|| SyntaxError::new(at, "the number of documents a file must be a whole number up to 2147483647"))
}

#[cfg(test)]
mod tests;
