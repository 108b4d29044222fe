//! The HTTP proxy that a superuser names: `s3_export.proxy`.
//!
//! The setting holds no password. Postgres shows a setting to each session that has not loaded the library, so the proxy's user and
//! password stand in a file (`s3_export.proxy_credentials_file`). No variable of the server's environment takes part.
#![forbid(unsafe_code)]

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base64_simd::STANDARD;
use http::Uri;

use crate::error::{Code, Error, Result};
use crate::private_file;
use crate::s3::network::exceptions::Exceptions;
use crate::secret::Secret;

/// A proxy that is asked for tunnels (CONNECT).
#[derive(Debug)]
pub struct Proxy {
    uri: Uri,
    /// `host:port`, for messages.
    name: String,
    authorization: Option<Secret>,
    exceptions: Exceptions,
    /// Whether any connection has stood that could carry a request, through the proxy or without it.
    has_connected: Arc<AtomicBool>,
}

impl Proxy {
    /// Makes a proxy of the values of `s3_export.proxy`, `proxy_credentials_file` and `no_proxy`. Errors: F0000 for a value that cannot
    /// be used. No error repeats the URL, which may hold a password.
    pub fn new(url: &str, credentials: Option<&Path>, exceptions: &str) -> Result<Self> {
        let (uri, name) = parse_url(url).map_err(|why| {
            Error::new(Code::Configuration, "the setting s3_export.proxy is no address of an HTTP proxy")
                .detail(why)
                .hint("Write it as http://host:port.")
        })?;
        let exceptions = Exceptions::parse(exceptions).map_err(|entry| {
            Error::new(Code::Configuration, "the setting s3_export.no_proxy is malformed")
                .detail(format!("\"{entry}\" is no host name, domain, address or range of addresses."))
                .hint("Write it as host.example.com, .example.com, 10.1.2.3, 10.0.0.0/8, separated by commas.")
        })?;
        let authorization = credentials.map(read_credentials).transpose()?;
        Ok(Proxy { uri, name, authorization, exceptions, has_connected: Arc::default() })
    }

    /// Whether requests to the host of a URL go without the proxy.
    pub fn excepts(&self, host: &str) -> bool {
        self.exceptions.contain(host)
    }

    /// Says that a connection stands, or may come to stand, that can carry requests.
    pub fn note_connection(&self) {
        self.has_connected.store(true, Ordering::SeqCst);
    }

    /// Whether a connection has stood; until then no request can have reached anybody.
    pub fn has_connected(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.has_connected)
    }

    /// The proxy's own address.
    pub fn uri(&self) -> &Uri {
        &self.uri
    }

    /// The value of the header `proxy-authorization`.
    pub fn authorization(&self) -> Option<&Secret> {
        self.authorization.as_ref()
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// Errors: what is wrong, as a sentence.
fn parse_url(url: &str) -> std::result::Result<(Uri, String), &'static str> {
    let rest = url.strip_prefix("http://").ok_or("It does not begin with http://, and TLS to a proxy is not spoken here.")?;
    if rest.contains('@') {
        return Err("It holds a user or a password, which belong into the file of s3_export.proxy_credentials_file.");
    }
    let uri: Uri = url.parse().map_err(|_| "It is no URL.")?;
    let port = uri.port_u16().filter(|port| *port != 0).ok_or("It has no port from 1 to 65535.")?;
    let host = uri.host().filter(|host| !host.is_empty()).ok_or("It has no host.")?;
    if uri.path_and_query().is_some_and(|path| path != "/") {
        return Err("It has a path or a query.");
    }
    let name = format!("{host}:{port}");
    Ok((uri, name))
}

/// Reads `user:password`, in one line, and gives the header's value.
fn read_credentials(path: &Path) -> Result<Secret> {
    let unusable = |why: &str| {
        Error::new(Code::Configuration, format!("could not use the file of the proxy's credentials \"{}\"", path.display()))
            .detail(format!("{}.", why.trim_end_matches('.')))
            .hint("It holds one line, user:password, and has mode 0600, or 0640 if root owns it.")
    };
    let text = private_file::read(path).map_err(|why| unusable(&why))?;
    let line = text.expose().strip_suffix('\n').unwrap_or(text.expose());
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.contains(char::is_control) {
        return Err(unusable("It has more than one line, or a control character"));
    }
    if line.split_once(':').is_none_or(|(user, _)| user.is_empty()) {
        return Err(unusable("It is not user:password"));
    }
    Ok(Secret::new(format!("Basic {}", STANDARD.encode_to_string(line))))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn an_address_of_a_proxy() {
        for (good, name) in
            [("http://proxy.example.com:3128", "proxy.example.com:3128"), ("http://[fd00::1]:8080/", "[fd00::1]:8080")]
        {
            assert_eq!(Proxy::new(good, None, "").unwrap().to_string(), name);
        }
        for bad in [
            "proxy:3128",
            "https://proxy:3128",
            "socks5://proxy:1080",
            "http://proxy",
            "http://proxy:0",
            "http://proxy:99999",
            "http://:3128",
            "http://proxy:3128/path",
            "http://proxy:3128?x",
            "http://user:secret@proxy:3128",
            "http://pro xy:3128",
        ] {
            let error = Proxy::new(bad, None, "").unwrap_err();
            assert_eq!(error.code(), Code::Configuration, "{bad}");
            assert!(!format!("{error:?}").contains("secret"), "{error:?}");
        }
        let error = Proxy::new("http://proxy:3128", None, "10.0.0.0/99").unwrap_err();
        assert!(error.detail_text().unwrap().contains("10.0.0.0/99"), "{error:?}");
    }

    fn file(name: &str, text: &str, mode: u32) -> PathBuf {
        let path = std::env::temp_dir().join(format!("s3_export-proxy-{}-{name}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn user_and_password_come_from_a_private_file() {
        for text in ["user:pass:word", "user:pass:word\n", "user:pass:word\r\n"] {
            let path = file("good", text, 0o600);
            let proxy = Proxy::new("http://proxy:3128", Some(&path), "").unwrap();
            assert_eq!(proxy.authorization().unwrap().expose(), "Basic dXNlcjpwYXNzOndvcmQ=");
            assert!(!format!("{proxy:?} {proxy}").contains("dXNl"), "{proxy:?}");
            std::fs::remove_file(path).unwrap();
        }
        for (name, text, mode) in [
            ("open", "user:hidden", 0o644),
            ("empty", "", 0o600),
            ("nobody", ":hidden", 0o600),
            ("lone", "hidden", 0o600),
            ("two", "user:hidden\nuser:hidden\n", 0o600),
        ] {
            let path = file(name, text, mode);
            let error = Proxy::new("http://proxy:3128", Some(&path), "").unwrap_err();
            assert_eq!(error.code(), Code::Configuration, "{name}");
            let told = format!("{} {:?}", error.summary(), error.detail_text());
            assert!(told.contains(path.to_str().unwrap()) && !told.contains("hidden"), "{told}");
            std::fs::remove_file(path).unwrap();
        }
        assert!(Proxy::new("http://proxy:3128", Some(Path::new("/nowhere/proxy")), "").is_err());
    }
}
