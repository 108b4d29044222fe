//! A place among tokens, and what can be read from there: words, symbols, strings, lists of items.
#![forbid(unsafe_code)]

use serde_json::Value;

use crate::request::statement::SyntaxError;
use crate::request::statement::token::{Kind, Token, tokens};

/// The tokens of a text, and the next one.
pub struct Cursor<'a> {
    pub text: &'a str,
    pub tokens: Vec<Token>,
    /// Index of the next token.
    pub at: usize,
    backslashes: bool,
}

impl<'a> Cursor<'a> {
    /// At the beginning of `text`. Errors: as [`tokens`].
    pub fn new(text: &'a str, backslashes: bool) -> Result<Self, SyntaxError> {
        Ok(Cursor { text, tokens: tokens(text, backslashes)?, at: 0, backslashes })
    }

    /// `(key = value, …)`, keys in lower case, with their positions.
    pub fn items(&mut self) -> Result<Vec<(String, Value, usize)>, SyntaxError> {
        self.symbol('(')?;
        let mut items: Vec<(String, Value, usize)> = Vec::new();
        loop {
            let at = self.position();
            let key = self.word("a name")?.to_lowercase();
            if items.iter().any(|(known, ..)| *known == key) {
                return Err(SyntaxError::new(at, &format!("{} appears more than once", key.to_uppercase())));
            }
            self.symbol('=')?;
            items.push((key, self.value()?, at));
            if !self.take_symbol(',') {
                self.symbol(')')?;
                return Ok(items);
            }
        }
    }

    pub fn value(&mut self) -> Result<Value, SyntaxError> {
        let what = "a string, a number, TRUE, FALSE, or a list of strings";
        if self.take_symbol('(') {
            let mut list = Vec::new();
            loop {
                list.push(Value::String(self.string("a string")?));
                if !self.take_symbol(',') {
                    self.symbol(')')?;
                    return Ok(Value::Array(list));
                }
            }
        }
        if self.take_word("TRUE") {
            return Ok(Value::Bool(true));
        }
        if self.take_word("FALSE") {
            return Ok(Value::Bool(false));
        }
        if self.kind() == Some(Kind::String) {
            return self.string(what).map(Value::String);
        }
        let negative = self.take_symbol('-');
        let number = (self.kind() == Some(Kind::Number)).then(|| self.next_text().parse::<i64>().ok()).flatten();
        let Some(number) = number else { return Err(self.expected(what)) };
        self.at += 1;
        Ok(Value::from(if negative { -number } else { number }))
    }

    pub fn kind(&self) -> Option<Kind> {
        self.tokens.get(self.at).map(|token| token.kind)
    }

    pub fn text_of(&self, index: usize) -> &str {
        self.tokens.get(index).and_then(|token| self.text.get(token.span.clone())).unwrap_or_default()
    }

    pub fn next_text(&self) -> &str {
        self.text_of(self.at)
    }

    /// Returns the place where the next token begins, or the text ends.
    pub fn position(&self) -> usize {
        self.tokens.get(self.at).map_or(self.text.len(), |token| token.span.start)
    }

    pub fn is_word(&self, index: usize, word: &str) -> bool {
        self.tokens.get(index).is_some_and(|token| token.kind == Kind::Word) && self.text_of(index).eq_ignore_ascii_case(word)
    }

    pub fn take_word(&mut self, word: &str) -> bool {
        let found = self.is_word(self.at, word);
        self.at += usize::from(found);
        found
    }

    pub fn take_symbol(&mut self, symbol: char) -> bool {
        let found = self.kind() == Some(Kind::Symbol(symbol));
        self.at += usize::from(found);
        found
    }

    pub fn symbol(&mut self, symbol: char) -> Result<(), SyntaxError> {
        if self.take_symbol(symbol) { Ok(()) } else { Err(self.expected(&format!("\"{symbol}\""))) }
    }

    pub fn word(&mut self, what: &str) -> Result<String, SyntaxError> {
        if self.kind() != Some(Kind::Word) {
            return Err(self.expected(what));
        }
        let word = self.next_text().to_owned();
        self.at += 1;
        Ok(word)
    }

    /// The value of a string in single quotes.
    pub fn string(&mut self, what: &str) -> Result<String, SyntaxError> {
        if self.kind() != Some(Kind::String) {
            return Err(self.expected(what));
        }
        let quoted = self.next_text();
        if self.backslashes && quoted.contains('\\') {
            return Err(SyntaxError::new(self.position(), "a string outside of the query must not hold a backslash"));
        }
        let value = quoted.get(1..quoted.len() - 1).unwrap_or_default().replace("''", "'");
        self.at += 1;
        Ok(value)
    }

    pub fn expected(&self, what: &str) -> SyntaxError {
        let found = match self.tokens.get(self.at) {
            Some(_) => format!("\"{}\"", self.next_text().chars().take(40).collect::<String>()),
            None => "the end of the statement".to_owned(),
        };
        SyntaxError::new(self.position(), &format!("expected {what}, found {found}"))
    }
}
