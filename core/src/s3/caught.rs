//! A panic in a library's code, as a value.
//!
//! The SDK panics at values that it does not expect. What can be known is refused before; this is for the rest: the user is told
//! what was being done, and the other exports of the transaction go on to be taken back.
#![forbid(unsafe_code)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::Poll;

/// A panic, whose message is in the server's log.
#[derive(Debug, PartialEq, Eq)]
pub struct Panicked;

/// Runs `work`, which is dropped when it panics.
pub async fn caught<T>(mut work: Pin<Box<impl Future<Output = T> + ?Sized>>) -> Result<T, Panicked> {
    // What a panic leaves half-done is the work's own, and nobody polls it again.
    std::future::poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context))) {
        Ok(Poll::Ready(value)) => Poll::Ready(Ok(value)),
        Ok(Poll::Pending) => Poll::Pending,
        Err(_) => Poll::Ready(Err(Panicked)),
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_a_value() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let panicking = async {
            tokio::task::yield_now().await;
            panic!("on purpose")
        };
        assert_eq!(runtime.block_on(caught(Box::pin(async { 7 }))), Ok(7));
        assert_eq!(runtime.block_on(caught::<u8>(Box::pin(panicking))), Err(Panicked));
    }
}
