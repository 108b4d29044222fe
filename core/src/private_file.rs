//! Files whose content nobody but the server may read.
//!
//! A file is opened once: the file whose mode is checked is the file that is read.
#![forbid(unsafe_code)]

use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::secret::Secret;

/// Mode bits that nobody but the file's owner may have.
const OTHERS: u32 = 0o077;
/// Mode bits that nobody else may have where root owns the file: the server's group reads it.
const OTHERS_OF_ROOT: u32 = 0o037;

/// Reads the whole file. Errors: what is wrong with the file, as a sentence.
pub fn read(path: &Path) -> Result<Secret, String> {
    let mut file = fs::File::open(path).map_err(|error| error.to_string())?;
    check_mode(&file)?;
    // A vector that grows leaves its text behind in memory that is not wiped.
    let size = file.metadata().map_err(|error| error.to_string())?.len();
    let mut text = String::with_capacity(usize::try_from(size).unwrap_or(0).saturating_add(1));
    file.read_to_string(&mut text).map_err(|error| error.to_string())?;
    Ok(Secret::new(text))
}

fn check_mode(file: &fs::File) -> Result<(), String> {
    let metadata = file.metadata().map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("It is not a file".to_owned());
    }
    let forbidden = if metadata.uid() == 0 { OTHERS_OF_ROOT } else { OTHERS };
    if metadata.mode() & forbidden != 0 {
        return Err("Others than its owner may read it; it must have mode 0600, or 0640 if root owns it".to_owned());
    }
    Ok(())
}
