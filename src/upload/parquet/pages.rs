//! Where finished pages wait for the end of their row group: in memory, until nobody wants them any more.
//!
//! A row group's end compresses what is left of every column, which may take longer than the end of a transaction can wait for
//! a thread. Between two pages is the only place where the encoder of Parquet can be stopped: by an error.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parquet::arrow::arrow_writer::{InMemoryPageStore, PageKey, PageStore, PageStoreArgs, PageStoreFactory};
use parquet::errors::{ParquetError, Result};

/// Whether a file is still wanted.
#[derive(Debug, Clone, Default)]
pub struct Wanted(Arc<AtomicBool>);

/// Says so when it is dropped that the file is not.
#[derive(Default)]
pub struct Wanting(Wanted);

impl Wanting {
    /// For the stores of the file's pages.
    pub fn wanted(&self) -> Wanted {
        self.0.clone()
    }
}

impl Drop for Wanting {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

impl PageStoreFactory for Wanted {
    fn create(&self, _: &PageStoreArgs<'_>) -> Result<Box<dyn PageStore>> {
        Ok(Box::new(Pages { unwanted: Arc::clone(&self.0), inner: InMemoryPageStore::default() }))
    }
}

struct Pages {
    unwanted: Arc<AtomicBool>,
    inner: InMemoryPageStore,
}

impl PageStore for Pages {
    fn put(&mut self, page: Bytes) -> Result<PageKey> {
        if self.unwanted.load(Ordering::Relaxed) {
            return Err(ParquetError::General("nobody waits for it any more".to_owned()));
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
