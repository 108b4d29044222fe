//! Compression of one file, piece by piece, off both the backend's thread and the I/O thread.
//!
//! It runs on the runtime's blocking threads, as many at once as there are processors, in slices so short that the end of the
//! runtime has not long to wait for one. What it gives is held in memory that is reserved fallibly.
#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use flate2::write::GzEncoder;
use tokio::sync::Semaphore;

use super::runtime::lost_task;
use crate::error::{Error, Result};
use crate::format::{Algorithm, Compression};

/// Bytes compressed at a stretch: some tens of milliseconds at the hardest level.
const SLICE: usize = 128 << 10;

/// One permit a processor, for all exports of the process.
static PROCESSORS: LazyLock<Arc<Semaphore>> = LazyLock::new(|| {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Arc::new(Semaphore::new(processors))
});

/// The state of one file's compression.
pub struct Compressor(Option<Encoder>);

enum Encoder {
    Gzip(GzEncoder<Packed>),
    Zstd(zstd::stream::write::Encoder<'static, Packed>),
}

/// Compressed bytes that nobody has taken yet.
#[derive(Default)]
struct Packed(Vec<u8>);

impl Write for Packed {
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
    /// Of a new file. Errors: 53200.
    pub fn new(compression: Compression) -> Result<Self> {
        let encoder = match compression.algorithm {
            Algorithm::Gzip => {
                let level = flate2::Compression::new(compression.level.unsigned_abs());
                Encoder::Gzip(GzEncoder::new(Packed::default(), level))
            }
            Algorithm::Zstd => {
                let encoder = zstd::stream::write::Encoder::new(Packed::default(), compression.level);
                Encoder::Zstd(encoder.and_then(with_checksum).map_err(|_| out_of_memory())?)
            }
        };
        Ok(Compressor(Some(encoder)))
    }

    /// Takes in `bytes`; appends to `packed` what has come out. Errors: 53200.
    pub async fn write(&mut self, bytes: &Bytes, packed: &mut Vec<u8>) -> Result<()> {
        for start in (0..bytes.len()).step_by(SLICE) {
            let slice = bytes.slice(start..bytes.len().min(start + SLICE));
            let mut encoder = self.0.take().ok_or_else(lost_task)?;
            let (encoder, output) = elsewhere(move || {
                let output = encoder.write(&slice);
                (encoder, output)
            })
            .await?;
            self.0 = Some(encoder);
            append(packed, &output.map_err(|_| out_of_memory())?)?;
        }
        Ok(())
    }

    /// Ends the file; appends to `packed` what was still to come. Errors: 53200.
    pub async fn finish(mut self, packed: &mut Vec<u8>) -> Result<()> {
        let encoder = self.0.take().ok_or_else(lost_task)?;
        let output = elsewhere(move || encoder.finish()).await?;
        append(packed, &output.map_err(|_| out_of_memory())?)
    }
}

impl Encoder {
    fn write(&mut self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        match self {
            Encoder::Gzip(encoder) => {
                encoder.write_all(bytes)?;
                Ok(std::mem::take(&mut encoder.get_mut().0))
            }
            Encoder::Zstd(encoder) => {
                encoder.write_all(bytes)?;
                Ok(std::mem::take(&mut encoder.get_mut().0))
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

/// As the command line writes it, so that a damaged file is found out.
fn with_checksum<W: Write>(
    mut encoder: zstd::stream::write::Encoder<'static, W>,
) -> io::Result<zstd::stream::write::Encoder<'static, W>> {
    encoder.include_checksum(true)?;
    Ok(encoder)
}

fn append(packed: &mut Vec<u8>, output: &[u8]) -> Result<()> {
    packed.try_reserve(output.len()).map_err(|_| out_of_memory())?;
    packed.extend_from_slice(output);
    Ok(())
}

/// The encoders fail by nothing else: what they write to is memory.
fn out_of_memory() -> Error {
    Error::out_of_memory("a compressed file")
}

async fn elsewhere<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let permit = Arc::clone(&PROCESSORS).acquire_owned().await.map_err(|_| lost_task())?;
    let work = move || {
        let _permit = permit;
        work()
    };
    tokio::task::spawn_blocking(work).await.map_err(|_| lost_task())
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
            let mut compressor = Compressor::new(Compression { algorithm, level }).unwrap();
            for piece in pieces {
                compressor.write(&Bytes::from(piece.clone()), &mut packed).await.unwrap();
            }
            compressor.finish(&mut packed).await.unwrap();
            packed
        })
    }

    fn unpacked(algorithm: Algorithm, packed: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        match algorithm {
            Algorithm::Gzip => flate2::read::GzDecoder::new(packed).read_to_end(&mut bytes).map(drop).unwrap(),
            Algorithm::Zstd => bytes = zstd::stream::decode_all(packed).unwrap(),
        }
        bytes
    }

    #[test]
    fn every_level_gives_back_what_it_was_given() {
        let text = "{\"a\":1,\"b\":\"some text\"}\n".repeat(20_000).into_bytes();
        for algorithm in [Algorithm::Gzip, Algorithm::Zstd] {
            for level in algorithm.levels() {
                let packed = packed(algorithm, level, &[text[..300_000].to_vec(), text[300_000..].to_vec()]);
                assert!(level == 0 || packed.len() < text.len() / 20, "{algorithm:?} {level}: {}", packed.len());
                assert!(unpacked(algorithm, &packed) == text, "{algorithm:?} {level}");
            }
            assert_eq!(unpacked(algorithm, &packed(algorithm, 1, &[])), b"");
        }
    }

    proptest! {
        #[test]
        fn any_pieces_are_given_back(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..2000), 0..5)) {
            for algorithm in [Algorithm::Gzip, Algorithm::Zstd] {
                prop_assert_eq!(unpacked(algorithm, &packed(algorithm, 1, &pieces)), pieces.concat());
            }
        }
    }
}
