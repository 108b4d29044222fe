//! Compression of one file, piece by piece, off both the backend's thread and the I/O thread.
//!
//! It runs on the runtime's blocking threads, in slices so short that the end of the runtime has not long to wait for one. An
//! encoder may take a hundred megabytes, so a file waits for a permit before it has one. There is one permit more than files that
//! can be worked on at once: the file that waits for its next piece keeps its own.
#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use flate2::write::GzEncoder;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{Code, Error, Result};
use crate::format::{Algorithm, Compression};
use crate::io::task::lost_task;

/// Bytes compressed at a stretch: at zstd's hardest level, which compresses a megabyte a second, a tenth of a second.
const SLICE: usize = 128 << 10;
/// Bytes compressed at a stretch by gzip, whose hardest levels compress text of two letters at a third of a megabyte a second.
const GZIP_SLICE: usize = 32 << 10;

/// More threads than these would wait for the one that encodes.
const MAX_THREADS: usize = 8;

/// For all exports of the process.
static PERMITS: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(most_encoders())));

/// How many files are worked on at once, at most.
pub fn most_encoders() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    processors.min(MAX_THREADS) + 1
}

/// To work on a file, until it is dropped.
pub async fn permit() -> Result<OwnedSemaphorePermit> {
    Arc::clone(&PERMITS).acquire_owned().await.map_err(|_| lost_task())
}

/// The state of one file's compression.
pub struct Compressor {
    compression: Compression,
    /// From the first bytes to the last.
    encoder: Option<(Encoder, OwnedSemaphorePermit)>,
}

enum Encoder {
    Gzip(GzEncoder<EncodedBytes>),
    Zstd(zstd::stream::write::Encoder<'static, EncodedBytes>),
}

/// Compressed bytes that nobody has taken yet.
#[derive(Default)]
pub struct EncodedBytes(Vec<u8>);

impl EncodedBytes {
    /// Takes the bytes.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.0)
    }
}

impl Write for EncodedBytes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_reserve(bytes.len()).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Compressor {
    /// Returns the encoder of a new file, which takes no memory yet.
    pub fn new(compression: Compression) -> Self {
        Compressor { compression, encoder: None }
    }

    /// Takes in `bytes`; appends to `packed` what has come out. `is_last`: the file ends with them. Errors: 53200.
    pub async fn write(&mut self, bytes: &Bytes, is_last: bool, packed: &mut Vec<u8>) -> Result<()> {
        let (mut encoder, mut permit) = match self.encoder.take() {
            Some(begun) => begun,
            None => {
                let permit = permit().await?;
                // A small file takes a small encoder, where it is known to be one.
                (Encoder::new(self.compression, is_last.then_some(bytes.len()))?, permit)
            }
        };
        let step = if self.compression.algorithm == Algorithm::Gzip { GZIP_SLICE } else { SLICE };
        for start in (0..bytes.len()).step_by(step) {
            let slice = bytes.slice(start..bytes.len().min(start + step));
            let output;
            // The permit goes along, since the work goes on when nobody waits for it any more.
            (encoder, permit, output) = spawn_blocking(move || {
                let output = encoder.write(&slice);
                (encoder, permit, output)
            })
            .await?;
            append(packed, &output.map_err(|_| out_of_memory())?)?;
        }
        if is_last {
            let finish = move || {
                let output = encoder.finish();
                drop(permit);
                output
            };
            let output = spawn_blocking(finish).await?;
            append(packed, &output.map_err(|_| out_of_memory())?)?;
        } else {
            self.encoder = Some((encoder, permit));
        }
        Ok(())
    }
}

impl Encoder {
    /// `size`: of the whole file, where it is known. Errors: 53200.
    fn new(compression: Compression, size: Option<usize>) -> Result<Self> {
        match compression.algorithm {
            Algorithm::Gzip => {
                let level = flate2::Compression::new(compression.level.unsigned_abs());
                Ok(Encoder::Gzip(GzEncoder::new(EncodedBytes::default(), level)))
            }
            Algorithm::Snappy | Algorithm::Lz4 => Err(Error::new(Code::Internal, "these pack no files, but parts of them")),
            Algorithm::Zstd => {
                let encoder = zstd::stream::write::Encoder::new(EncodedBytes::default(), compression.level);
                Ok(Encoder::Zstd(encoder.and_then(|encoder| with_frame_options(encoder, size)).map_err(|_| out_of_memory())?))
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        match self {
            Encoder::Gzip(encoder) => {
                encoder.write_all(bytes)?;
                Ok(encoder.get_mut().take())
            }
            Encoder::Zstd(encoder) => {
                encoder.write_all(bytes)?;
                Ok(encoder.get_mut().take())
            }
        }
    }

    fn finish(self) -> io::Result<Vec<u8>> {
        match self {
            Encoder::Gzip(encoder) => encoder.finish().map(|packed| packed.0),
            Encoder::Zstd(encoder) => encoder.finish().map(|packed| packed.0),
        }
    }
}

/// With a checksum, as the command line writes it, so that a damaged file is found out.
fn with_frame_options<W: Write>(
    mut encoder: zstd::stream::write::Encoder<'static, W>,
    size: Option<usize>,
) -> io::Result<zstd::stream::write::Encoder<'static, W>> {
    encoder.include_checksum(true)?;
    encoder.set_pledged_src_size(size.map(|size| size as u64))?;
    Ok(encoder)
}

/// Errors: 53200.
pub fn append(packed: &mut Vec<u8>, output: &[u8]) -> Result<()> {
    packed.try_reserve(output.len()).map_err(|_| out_of_memory())?;
    packed.extend_from_slice(output);
    Ok(())
}

/// The encoders fail by nothing else: what they write to is memory.
fn out_of_memory() -> Error {
    Error::out_of_memory("a compressed file")
}

/// Errors: 53200 where the system has no thread to give, at which tokio panics.
pub async fn spawn_blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let task = catch_unwind(AssertUnwindSafe(|| tokio::task::spawn_blocking(work)))
        .map_err(|_| Error::new(Code::OutOfMemory, "could not create a thread for compression"))?;
    task.await.map_err(|_| lost_task())
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use proptest::prelude::*;

    use super::*;

    fn packed(algorithm: Algorithm, level: i32, pieces: &[Vec<u8>]) -> Vec<u8> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut packed = Vec::new();
            let mut compressor = Compressor::new(Compression { algorithm, level });
            for (piece, number) in pieces.iter().zip(1..) {
                compressor.write(&Bytes::from(piece.clone()), number == pieces.len(), &mut packed).await.unwrap();
            }
            packed
        })
    }

    fn unpacked(algorithm: Algorithm, packed: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        match algorithm {
            Algorithm::Gzip => flate2::read::GzDecoder::new(packed).read_to_end(&mut bytes).map(drop).unwrap(),
            _ => bytes = zstd::stream::decode_all(packed).unwrap(),
        }
        bytes
    }

    #[test]
    fn every_level_gives_back_what_it_was_given() {
        let text = "{\"a\":1,\"b\":\"some text\"}\n".repeat(20_000).into_bytes();
        for algorithm in [Algorithm::Gzip, Algorithm::Zstd] {
            for level in algorithm.levels().unwrap() {
                let packed = packed(algorithm, level, &[text[..300_000].to_vec(), text[300_000..].to_vec()]);
                assert!(level == 0 || packed.len() < text.len() / 20, "{algorithm:?} {level}: {}", packed.len());
                assert!(unpacked(algorithm, &packed) == text, "{algorithm:?} {level}");
            }
            assert_eq!(unpacked(algorithm, &packed(algorithm, 1, &[Vec::new()])), b"");
        }
    }

    proptest! {
        #[test]
        fn any_pieces_are_given_back(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..2000), 1..5)) {
            for algorithm in [Algorithm::Gzip, Algorithm::Zstd] {
                prop_assert_eq!(unpacked(algorithm, &packed(algorithm, 1, &pieces)), pieces.concat());
            }
        }
    }
}
