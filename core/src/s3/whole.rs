//! Whether the XML of an answer has come to its end.
//!
//! The SDK's parser takes a document whose elements are never closed. A listing that a proxy has cut off would so be taken for the
//! whole, and a list of failed deletions for an empty one.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aws_sdk_s3::config::interceptors::AfterDeserializationInterceptorContextRef;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;

/// Remembers of an answer whether its XML is closed.
#[derive(Debug, Clone, Default)]
pub struct Ending(Arc<AtomicBool>);

impl Ending {
    /// Whether the answer has come, and its XML ends with the end of its root.
    pub fn was_seen(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Intercept for Ending {
    fn name(&self) -> &'static str {
        "Ending"
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        self.0.store(context.response().body().bytes().is_some_and(is_closed), Ordering::Relaxed);
        Ok(())
    }
}

/// Whether the document's last tag ends its root element.
fn is_closed(xml: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(xml) else { return false };
    let Some(root) = root(text) else { return false };
    let end = text.trim_end().strip_suffix('>').map(str::trim_end);
    let Some(rest) = end else { return false };
    // An element without content: `<Root/>`.
    let is_empty = |rest: &str| rest.strip_suffix('/').is_some_and(|start| start.rfind('<') == text.find(&format!("<{root}")));
    rest.strip_suffix(root).is_some_and(|before| before.ends_with("</")) || is_empty(rest)
}

/// The name of the root element, with its prefix.
fn root(text: &str) -> Option<&str> {
    let mut rest = text.trim_start_matches('\u{feff}').trim_start();
    loop {
        let (opening, closing) = match rest {
            _ if rest.starts_with("<?") => ("<?", "?>"),
            _ if rest.starts_with("<!--") => ("<!--", "-->"),
            _ => break,
        };
        let after = rest.strip_prefix(opening)?;
        rest = after.split_once(closing)?.1.trim_start();
    }
    let name = rest.strip_prefix('<')?;
    let end = name.find(|character: char| character.is_whitespace() || matches!(character, '/' | '>'))?;
    name.get(..end).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::is_closed;

    #[test]
    fn a_document_is_whole_only_with_the_end_of_its_root() {
        let whole = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<!-- x --><A xmlns=\"http://a/\"><B>1</B><C></C></A>\n";
        assert!(is_closed(whole.as_bytes()));
        for length in 0..whole.trim_end().len() {
            assert!(!is_closed(&whole.as_bytes()[..length]), "{length}");
        }
        for whole in ["<A/>", "<A xmlns='x' />", "\u{feff}<x:A></x:A >", "<A>text</A>"] {
            assert!(is_closed(whole.as_bytes()), "{whole}");
        }
        for cut in ["<A><B/>", "<A><A/>", "<A></B>", "</A>", "hello", "{}", "<A>", "<html><body></body>", "<A><B></A"] {
            assert!(!is_closed(cut.as_bytes()), "{cut}");
        }
        assert!(!is_closed(b"<A>\xff</A>"));
    }
}
