//! A body that is handed over in frames, as the network takes them.
//!
//! Given whole, a body would count as sent at once, and the throttle could not tell an upload that is slow from one that stands
//! still.
#![forbid(unsafe_code)]

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use crate::s3::checksum::Checksum;
use crate::sync::lock;

/// Bytes a frame.
const FRAME: usize = 64 << 10;

/// Tells when the network last took a piece of a body, and whether the piece was the last.
#[derive(Debug, Clone, Default)]
pub struct Meter(Arc<Mutex<Moved>>);

#[derive(Debug, Default)]
struct Moved {
    at: Option<Instant>,
    has_ended: bool,
}

impl Meter {
    /// The network has taken a piece that another will follow.
    pub fn moved(&self) {
        *lock(&self.0) = Moved { at: Some(Instant::now()), has_ended: false };
    }

    /// The network has taken the last piece.
    pub fn ended(&self) {
        *lock(&self.0) = Moved { at: Some(Instant::now()), has_ended: true };
    }

    /// Whether the network has taken all of the body. The store makes no object of less.
    pub fn has_ended(&self) -> bool {
        lock(&self.0).has_ended
    }

    /// Whether the network has taken a piece since then.
    pub fn has_moved_since(&self, time: Instant) -> bool {
        lock(&self.0).at.is_some_and(|moved| moved >= time)
    }
}

/// The body of a request with what belongs to it.
#[derive(Clone, Copy)]
pub struct Payload<'a> {
    /// Contents of the body.
    pub bytes: &'a Bytes,
    /// Told of each frame that the network takes.
    pub meter: &'a Meter,
    /// Checksum of the contents, which a header carries.
    pub checksum: &'a Checksum,
}

impl Payload<'_> {
    /// Returns the body, for one attempt.
    pub fn in_frames(self) -> ByteStream {
        in_frames(self.bytes.clone(), self.meter)
    }
}

/// A body of these bytes, which the SDK can still hash and repeat. `meter`: told of each frame that the network takes.
fn in_frames(bytes: Bytes, meter: &Meter) -> ByteStream {
    if bytes.len() <= FRAME {
        meter.ended();
        return ByteStream::from(bytes);
    }
    let frames = Frames { left: bytes.clone(), meter: meter.clone() };
    // The contents are kept beside the frames: a signature over http covers them.
    ByteStream::new(SdkBody::from(bytes).map_preserve_contents(move |_| SdkBody::from_body_1_x(frames.clone())))
}

#[derive(Clone)]
struct Frames {
    left: Bytes,
    meter: Meter,
}

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left.is_empty() {
            return Poll::Ready(None);
        }
        let length = self.left.len().min(FRAME);
        let frame = self.left.split_to(length);
        if self.left.is_empty() {
            self.meter.ended()
        } else {
            self.meter.moved()
        }
        Poll::Ready(Some(Ok(Frame::data(frame))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_in_frames_is_the_same_body() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for length in [0, 1, FRAME, FRAME + 1, 5 * FRAME - 7] {
            let bytes = Bytes::from_iter((0..length).map(|index| index as u8));
            let meter = Meter::default();
            let stream = in_frames(bytes.clone(), &meter);
            assert_eq!(stream.size_hint().1, Some(length as u64));
            assert_eq!(stream.bytes(), Some(bytes.as_ref()), "to be signed");
            let start = Instant::now();
            assert_eq!(runtime.block_on(stream.collect()).unwrap().into_bytes(), bytes);
            assert_eq!(meter.has_moved_since(start), length > FRAME);
            assert!(meter.has_ended());
        }
    }
}
