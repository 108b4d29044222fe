//! Finished pages wait here for the end of their row group: in memory, until the file is cancelled.
//!
//! A row group's end compresses what is left of every column, which may take longer than the end of a transaction can wait for
//! a thread. Between two pages is the only place where the encoder of Parquet can be stopped: by an error.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parquet::arrow::arrow_writer::{InMemoryPageStore, PageKey, PageStore, PageStoreArgs, PageStoreFactory};
use parquet::errors::{ParquetError, Result};

/// Cancels the encoding of a file when it is dropped.
#[derive(Default)]
pub struct CancelOnDrop(Arc<AtomicBool>);

impl CancelOnDrop {
    /// Buffers that hold the file's pages until then.
    pub fn pages(&self) -> PagesUntilCancelled {
        PagesUntilCancelled(Arc::clone(&self.0))
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Makes a store for each column.
#[derive(Debug)]
pub struct PagesUntilCancelled(Arc<AtomicBool>);

impl PageStoreFactory for PagesUntilCancelled {
    fn create(&self, _: &PageStoreArgs<'_>) -> Result<Box<dyn PageStore>> {
        Ok(Box::new(Pages { is_cancelled: Arc::clone(&self.0), inner: InMemoryPageStore::default() }))
    }
}

struct Pages {
    is_cancelled: Arc<AtomicBool>,
    inner: InMemoryPageStore,
}

impl PageStore for Pages {
    fn put(&mut self, page: Bytes) -> Result<PageKey> {
        if self.is_cancelled.load(Ordering::Relaxed) {
            return Err(ParquetError::General("the file's encoding was cancelled".to_owned()));
        }
        self.inner.put(page)
    }

    fn take(&mut self, key: PageKey) -> Result<Bytes> {
        self.inner.take(key)
    }

    fn memory_size(&self) -> usize {
        self.inner.memory_size()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{ArrayRef, Int32Array, RecordBatch};
    use parquet::arrow::ArrowWriter;
    use parquet::arrow::arrow_writer::ArrowWriterOptions;

    use super::*;

    #[test]
    fn no_page_is_taken_after_the_cancel() {
        let numbers: ArrayRef = Arc::new(Int32Array::from_iter_values(0..1_000));
        let batch = RecordBatch::try_from_iter([("n", numbers)]).unwrap();
        for is_cancelled in [false, true] {
            let cancel = CancelOnDrop::default();
            let options = ArrowWriterOptions::new().with_page_store_factory(Arc::new(cancel.pages()));
            let mut writer = ArrowWriter::try_new_with_options(Vec::new(), batch.schema(), options).unwrap();
            writer.write(&batch).unwrap();
            if is_cancelled {
                drop(cancel);
                assert!(writer.flush().unwrap_err().to_string().contains("cancelled"));
            } else {
                writer.flush().unwrap();
            }
        }
    }
}
