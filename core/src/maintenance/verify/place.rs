//! The place of a manifest, read from its URL.
#![forbid(unsafe_code)]

use crate::error::Result;
use crate::naming::uri::{Location, invalid};

/// Place of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestPlace {
    /// Location of the export's files.
    pub location: Location,
    /// Key of the manifest.
    pub key: String,
}

impl ManifestPlace {
    /// Reads the manifest's URL, `s3://bucket/prefix/name`. Errors: 22023.
    pub fn parse(url: &str) -> Result<Self> {
        let object = Location::parse(url)?;
        let key = object.prefix().to_owned();
        if key.is_empty() || url.ends_with('/') {
            return Err(invalid(url, "The URL of a manifest ends with the name of an object.")
                .hint("Give the manifest as the export returned it."));
        }
        let folder = key.rsplit_once('/').map_or("", |(folder, _)| folder);
        let location = Location::parse(&format!("s3://{}/{folder}", object.bucket()))?;
        Ok(ManifestPlace { location, key })
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("s3://{}/{}", self.location.bucket(), self.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    #[test]
    fn a_manifest_lies_in_the_folder_of_its_files() {
        for (url, location, key) in [
            ("s3://bucket/a/b/_x.manifest", "s3://bucket/a/b", "a/b/_x.manifest"),
            ("s3://bucket/_x.manifest", "s3://bucket", "_x.manifest"),
        ] {
            let place = ManifestPlace::parse(url).unwrap();
            assert_eq!((place.location.to_string().as_str(), place.key.as_str(), place.url().as_str()), (location, key, url));
        }
        for url in ["", "s3://bucket", "s3://bucket/", "s3://bucket/x/", "s3://bucket/a/../x", "https://bucket/x", "s3://b//x"]
        {
            assert_eq!(ManifestPlace::parse(url).unwrap_err().code(), Code::InvalidParameter, "{url}");
        }
    }
}
