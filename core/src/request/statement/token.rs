//! Tokens of SQL, as far as it takes to find what stands outside of strings, comments and parentheses. The rules are those of
//! Postgres's scanner (`src/backend/parser/scan.l`).
#![forbid(unsafe_code)]

use std::ops::Range;

use crate::request::statement::SyntaxError;

/// Kind of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A keyword or a name without quotes.
    Word,
    /// A name in double quotes.
    QuotedName,
    /// A string in single quotes, without a prefix.
    String,
    /// A string of another kind: `E'…'`, `U&'…'`, `B'…'`, `$tag$…$tag$`.
    OtherString,
    /// Digits, and what belongs to them.
    Number,
    /// One character of anything else.
    Symbol(char),
}

/// A token and where it stands, in bytes.
#[derive(Debug, Clone)]
pub struct Token {
    /// Kind of the token.
    pub kind: Kind,
    /// Its bytes.
    pub span: Range<usize>,
}

/// The tokens of `text`. `backslashes`: plain strings have backslash escapes too (`standard_conforming_strings` is off).
/// Errors: for what begins and does not end.
pub fn tokens(text: &str, backslashes: bool) -> Result<Vec<Token>, SyntaxError> {
    let mut scanner = Scanner { text, at: 0, backslashes };
    let mut tokens = Vec::new();
    while let Some(token) = scanner.next()? {
        tokens.push(token);
    }
    Ok(tokens)
}

struct Scanner<'a> {
    text: &'a str,
    at: usize,
    backslashes: bool,
}

impl Scanner<'_> {
    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn next(&mut self) -> Result<Option<Token>, SyntaxError> {
        self.skip_blanks()?;
        let start = self.at;
        let Some(first) = self.rest().chars().next() else { return Ok(None) };
        let kind = match first {
            '\'' => {
                self.at += 1;
                self.string_body(start, self.backslashes)?;
                Kind::String
            }
            '"' => {
                self.at += 1;
                self.until_quote(start, '"', "quoted identifier")?;
                Kind::QuotedName
            }
            '$' => self.dollar(start)?,
            _ if first.is_ascii_digit() => {
                self.take_while(|character| character.is_ascii_alphanumeric() || character == '.' || character == '_');
                Kind::Number
            }
            _ if begins_name(first) => self.word_or_string(start)?,
            _ => {
                self.at += first.len_utf8();
                Kind::Symbol(first)
            }
        };
        Ok(Some(Token { kind, span: start..self.at }))
    }

    fn take_while(&mut self, mut holds: impl FnMut(char) -> bool) {
        let length = self.rest().find(|character| !holds(character)).unwrap_or(self.rest().len());
        self.at += length;
    }

    /// Blanks and comments.
    fn skip_blanks(&mut self) -> Result<(), SyntaxError> {
        loop {
            self.take_while(|character| " \t\n\r\x0b\x0c".contains(character));
            if self.rest().starts_with("--") {
                self.take_while(|character| character != '\n' && character != '\r');
            } else if self.rest().starts_with("/*") {
                self.comment()?;
            } else {
                return Ok(());
            }
        }
    }

    /// Comments nest.
    fn comment(&mut self) -> Result<(), SyntaxError> {
        let (start, mut depth) = (self.at, 0_u32);
        loop {
            let rest = self.rest();
            if rest.starts_with("/*") {
                depth += 1;
                self.at += 2;
            } else if rest.starts_with("*/") {
                depth -= 1;
                self.at += 2;
            } else if let Some(character) = rest.chars().next() {
                self.at += character.len_utf8();
            } else {
                return Err(SyntaxError::new(start, "unterminated /* comment"));
            }
            if depth == 0 {
                return Ok(());
            }
        }
    }

    /// After its opening quote.
    fn string_body(&mut self, start: usize, backslashes: bool) -> Result<(), SyntaxError> {
        if !backslashes {
            return self.until_quote(start, '\'', "quoted string");
        }
        loop {
            self.take_while(|character| character != '\'' && character != '\\');
            let rest = self.rest();
            if rest.starts_with("''") {
                self.at += 2;
            } else if rest.starts_with('\'') {
                self.at += 1;
                return Ok(());
            } else if let Some(escaped) = rest.chars().nth(1) {
                self.at += 1 + escaped.len_utf8();
            } else {
                return Err(SyntaxError::new(start, "unterminated quoted string"));
            }
        }
    }

    /// Whether a string goes on after blanks with a line break; then it is after the quote.
    fn continues_string(&mut self) -> Result<bool, SyntaxError> {
        let end = self.at;
        self.skip_blanks()?;
        let blanks = self.text.get(end..self.at).unwrap_or_default();
        if blanks.contains(['\n', '\r']) && self.rest().starts_with('\'') {
            self.at += 1;
            return Ok(true);
        }
        self.at = end;
        Ok(false)
    }

    /// To the end of what began with that quote, which stands for itself when doubled.
    fn until_quote(&mut self, start: usize, quote: char, what: &str) -> Result<(), SyntaxError> {
        loop {
            self.take_while(|character| character != quote);
            if self.rest().is_empty() {
                return Err(SyntaxError::new(start, &format!("unterminated {what}")));
            }
            self.at += 1;
            if !self.rest().starts_with(quote) {
                return Ok(());
            }
            self.at += 1;
        }
    }

    /// A string in dollars, a parameter, or a dollar.
    fn dollar(&mut self, start: usize) -> Result<Kind, SyntaxError> {
        self.at += 1;
        let rest = self.rest();
        let tag_length = match rest.chars().next() {
            Some(first) if begins_name(first) => {
                rest.find(|character| !continues_name(character) || character == '$').unwrap_or(rest.len())
            }
            _ => 0,
        };
        if !rest.get(tag_length..).unwrap_or_default().starts_with('$') {
            return Ok(Kind::Symbol('$'));
        }
        self.at += tag_length + 1;
        let delimiter = self.text.get(start..self.at).unwrap_or_default();
        match self.rest().find(delimiter) {
            Some(length) => {
                self.at += length + delimiter.len();
                Ok(Kind::OtherString)
            }
            None => Err(SyntaxError::new(start, "unterminated dollar-quoted string")),
        }
    }

    /// A prefix of a string counts only if the quote follows at once.
    fn word_or_string(&mut self, start: usize) -> Result<Kind, SyntaxError> {
        let rest = self.rest();
        let prefix = |text: &str| rest.get(..text.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(text));
        if prefix("e'") {
            self.at += 2;
            self.string_body(start, true)?;
            // What goes on after a line break is of the same kind.
            while self.continues_string()? {
                self.string_body(start, true)?;
            }
            return Ok(Kind::OtherString);
        }
        if prefix("b'") || prefix("x'") || prefix("n'") {
            let backslashes = self.backslashes && prefix("n'");
            self.at += 2;
            self.string_body(start, backslashes)?;
            return Ok(Kind::OtherString);
        }
        if prefix("u&'") {
            self.at += 3;
            self.string_body(start, false)?;
            return Ok(Kind::OtherString);
        }
        if prefix("u&\"") {
            self.at += 3;
            self.until_quote(start, '"', "quoted identifier")?;
            return Ok(Kind::OtherString);
        }
        self.take_while(continues_name);
        Ok(Kind::Word)
    }
}

fn begins_name(character: char) -> bool {
    character.is_ascii_alphabetic() || character == '_' || !character.is_ascii()
}

fn continues_name(character: char) -> bool {
    begins_name(character) || character.is_ascii_digit() || character == '$'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Vec<Kind> {
        tokens(text, false).unwrap().into_iter().map(|token| token.kind).collect()
    }

    #[test]
    fn strings_names_and_comments_are_one_token_or_none() {
        use Kind::{Number, OtherString, QuotedName, String, Symbol, Word};
        for (text, expected) in [
            ("'it''s' -- no 'string'\n", vec![String]),
            ("'a\\' 'b'", vec![String, String]),
            (r"E'a\'b' e'''\\'", vec![OtherString, OtherString]),
            ("E'a'\n  '\\'b' 'c'", vec![OtherString, String]),
            ("$$a'b$$ $x$ $$ $x$", vec![OtherString, OtherString]),
            ("a$b$ $1", vec![Word, Symbol('$'), Number]),
            ("/* a /* b */ ' */ x", vec![Word]),
            ("\"a\"\"b\" U&\"x\" u&'x'", vec![QuotedName, OtherString, OtherString]),
            ("1.5e10 x1", vec![Number, Word]),
            ("a-b", vec![Word, Symbol('-'), Word]),
            ("a--b\n/**/c", vec![Word, Word]),
            ("é=日", vec![Word, Symbol('='), Word]),
        ] {
            assert_eq!(kinds(text), expected, "{text}");
        }
        assert_eq!(tokens(r"'a\'b'", true).unwrap().len(), 1);
    }

    #[test]
    fn what_does_not_end_is_an_error_where_it_begins() {
        for text in ["x 'a", "x \"a", "x $$a", "x $a$ $b$", "x /* /* */", r"x E'a\'", "x E'a\\"] {
            assert_eq!(tokens(text, false).unwrap_err().at, 2, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn tokens_lie_in_order_within_any_text(text: String, backslashes: bool) {
            if let Ok(tokens) = tokens(&text, backslashes) {
                let mut end = 0;
                for token in tokens {
                    proptest::prop_assert!(end <= token.span.start && token.span.start < token.span.end);
                    proptest::prop_assert!(text.get(token.span.clone()).is_some());
                    end = token.span.end;
                }
            }
        }
    }
}
