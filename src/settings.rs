//! The settings (`s3_export.…`), their defaults and who may change them.

use std::ffi::CString;
use std::path::PathBuf;
use std::time::Duration;

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, PostgresGucEnum};
use s3_export_core::error::Result;
use s3_export_core::s3::network::Proxy;

use crate::pg::{reserve_setting_prefix, to_utf8};

static OUTPUT_CHUNK_SIZE: GucSetting<i32> = GucSetting::<i32>::new(1000);
static BUFFER_MEMORY: GucSetting<i32> = GucSetting::<i32>::new(128 * 1024);
static UPLOAD_CONCURRENCY: GucSetting<i32> = GucSetting::<i32>::new(160);
static CLEANUP_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(5_000);
static COMMIT_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(60_000);
static REQUEST_ATTEMPTS: GucSetting<i32> = GucSetting::<i32>::new(5);
static REQUEST_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(300_000);
static TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(0);
static PROGRESS_INTERVAL: GucSetting<i32> = GucSetting::<i32>::new(0);
static MAX_WORKERS: GucSetting<i32> = GucSetting::<i32>::new(4);
static RETRY_DELAY: GucSetting<i32> = GucSetting::<i32>::new(10_000);
static MAX_EXPORTS: GucSetting<i32> = GucSetting::<i32>::new(0);
static MAX_EXPORTS_WAIT: GucSetting<i32> = GucSetting::<i32>::new(-1);
static MAX_BANDWIDTH: GucSetting<i32> = GucSetting::<i32>::new(0);
static HISTORY: GucSetting<bool> = GucSetting::<bool>::new(true);
static HISTORY_QUERY: GucSetting<bool> = GucSetting::<bool>::new(false);
static LOG_EXPORTS: GucSetting<LogExportsValue> = GucSetting::<LogExportsValue>::new(LogExportsValue::Off);
static KEY_FILE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);
static CA_FILE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);
static EXTRA_CA_FILES: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);
static PROXY: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);
static NO_PROXY: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);
static PROXY_CREDENTIALS_FILE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);
static INLINE_ROLES: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);

/// Defines them. Called once, when the library is loaded.
pub fn define() {
    GucRegistry::define_int_guc(
        c"s3_export.output_chunk_size",
        c"Documents a file, where an export does not say.",
        c"Rockset's hint s3_sync_op_output_chunk_size.",
        &OUTPUT_CHUNK_SIZE,
        1,
        i32::MAX,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"s3_export.buffer_memory",
        c"Memory for documents on their way to S3, for each export.",
        c"An export waits when so much is encoded and not yet stored.",
        &BUFFER_MEMORY,
        16 * 1024,
        i32::MAX,
        GucContext::Suset,
        GucFlags::UNIT_KB,
    );
    GucRegistry::define_int_guc(
        c"s3_export.upload_concurrency",
        c"Most requests to S3 at once, for each export.",
        c"More of them hide more latency, and open more connections.",
        &UPLOAD_CONCURRENCY,
        1,
        1024,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"s3_export.cleanup_timeout",
        c"Longest time that an aborted export takes to delete what it wrote.",
        c"What is not deleted by then is named in a warning. The transaction keeps its locks until then.",
        &CLEANUP_TIMEOUT,
        0,
        i32::MAX,
        GucContext::Suset,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_int_guc(
        c"s3_export.commit_timeout",
        c"Longest time that a commit takes to write the manifests of its exports.",
        c"The transaction is rolled back after that. statement_timeout does not reach this step.",
        &COMMIT_TIMEOUT,
        1,
        i32::MAX,
        GucContext::Suset,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_int_guc(
        c"s3_export.request_attempts",
        c"Most attempts at one request to S3, the first included, at what is not bounded by request_timeout alone.",
        c"Timeouts and transient answers. Where the store asks for fewer requests (503, 429, Retry-After), or has answered before and its connections break, time alone is the bound.",
        &REQUEST_ATTEMPTS,
        1,
        1000,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"s3_export.request_timeout",
        c"Time for all attempts at one request to S3; each attempt has a third of it, and more while its body moves.",
        c"The manifest has commit_timeout instead, the clean-up cleanup_timeout.",
        &REQUEST_TIMEOUT,
        1,
        i32::MAX,
        GucContext::Suset,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_int_guc(
        c"s3_export.timeout",
        c"Longest time that an export may take, where it does not say; 0: any.",
        c"From its beginning until its files are stored; the manifest has commit_timeout.",
        &TIMEOUT,
        0,
        i32::MAX,
        GucContext::Userset,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_int_guc(
        c"s3_export.progress_interval",
        c"Time between two NOTICEs that say how far an export is; 0: none.",
        c"They come while the query hands over rows or S3 is waited for.",
        &PROGRESS_INTERVAL,
        0,
        i32::MAX,
        GucContext::Userset,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_int_guc(
        c"s3_export.max_workers",
        c"Most jobs that run at once in a database.",
        c"Each takes one of max_worker_processes; further jobs stay QUEUED.",
        &MAX_WORKERS,
        1,
        1024,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"s3_export.retry_delay",
        c"Time between the first attempt of a job and the second.",
        c"It doubles with each further attempt, up to ten minutes. Only jobs with the option retries have further attempts.",
        &RETRY_DELAY,
        1,
        600_000,
        GucContext::Suset,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_int_guc(
        c"s3_export.max_exports",
        c"Most transactions of the cluster that export at once; 0: any number.",
        c"Further ones wait as s3_export.max_exports_wait says.",
        &MAX_EXPORTS,
        0,
        1024,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"s3_export.max_exports_wait",
        c"Longest time that an export waits where s3_export.max_exports is reached; -1: any, 0: none.",
        c"lock_timeout limits the wait too.",
        &MAX_EXPORTS_WAIT,
        -1,
        i32::MAX,
        GucContext::Userset,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_int_guc(
        c"s3_export.max_bandwidth",
        c"Most bytes of files that an export sends in a second; 0: any number.",
        c"The query waits when it makes more.",
        &MAX_BANDWIDTH,
        0,
        i32::MAX,
        GucContext::Suset,
        GucFlags::UNIT_BYTE,
    );
    GucRegistry::define_bool_guc(
        c"s3_export.history",
        c"Writes a row of s3_export.history for each export that is committed.",
        c"On a standby and in a READ ONLY transaction the server's log has a line instead.",
        &HISTORY,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_bool_guc(
        c"s3_export.history_query",
        c"Writes the text of the query into that row, which may hold personal data.",
        c"The row has the SHA-256 of the query in any case.",
        &HISTORY_QUERY,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_enum_guc(
        c"s3_export.log_exports",
        c"Writes a line to the server's log for each export that was committed, or for all, those that failed too.",
        c"A line has the SHA-256 of the query, not its text.",
        &LOG_EXPORTS,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_string_guc(
        c"s3_export.key_file",
        c"File of the keys that seal credentials.",
        c"Outside the data directory, readable by the server alone; one line a key, the last one seals.",
        &KEY_FILE,
        GucContext::Suset,
        GucFlags::SUPERUSER_ONLY,
    );
    GucRegistry::define_string_guc(
        c"s3_export.ca_file",
        c"File of the certificate authorities to trust, in PEM, instead of the system's.",
        c"For S3 and STS, and for what gives the server its own credentials.",
        &CA_FILE,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_string_guc(
        c"s3_export.extra_ca_files",
        c"Files of certificate authorities to trust, in PEM, beside the system's or those of ca_file.",
        c"Paths, separated by commas.",
        &EXTRA_CA_FILES,
        GucContext::Suset,
        GucFlags::default(),
    );
    // For superusers' eyes, in case that somebody writes a password into it, which is refused.
    GucRegistry::define_string_guc(
        c"s3_export.proxy",
        c"HTTP proxy for S3 and STS: http://host:port.",
        c"Every connection is a tunnel (CONNECT). Metadata services on the server's own machine are asked without it.",
        &PROXY,
        GucContext::Suset,
        GucFlags::SUPERUSER_ONLY,
    );
    GucRegistry::define_string_guc(
        c"s3_export.no_proxy",
        c"Hosts that are reached without the proxy.",
        c"Host names, domains as .example.com, addresses and ranges of addresses, separated by commas.",
        &NO_PROXY,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_string_guc(
        c"s3_export.proxy_credentials_file",
        c"File of the user and the password for the proxy.",
        c"One line, user:password, readable by the server alone.",
        &PROXY_CREDENTIALS_FILE,
        GucContext::Suset,
        GucFlags::SUPERUSER_ONLY,
    );
    GucRegistry::define_string_guc(
        c"s3_export.inline_roles",
        c"Roles that s3_export_with_role may assume, each with the locations it may write to.",
        c"A JSON array of objects with aws_role and allowed_locations, and if need be region, endpoint, path_style, sts_endpoint.",
        &INLINE_ROLES,
        GucContext::Suset,
        GucFlags::SUPERUSER_ONLY,
    );
    reserve_setting_prefix();
}

/// Documents a file.
pub fn output_chunk_size() -> u64 {
    u64::from(OUTPUT_CHUNK_SIZE.get().unsigned_abs())
}

/// Bytes on their way, for each export.
pub fn buffer_memory() -> usize {
    usize::try_from(BUFFER_MEMORY.get()).unwrap_or(0).saturating_mul(1024)
}

/// Requests at once.
pub fn upload_concurrency() -> usize {
    usize::try_from(UPLOAD_CONCURRENCY.get()).unwrap_or(1)
}

/// How long an abort cleans up.
pub fn cleanup_timeout() -> Duration {
    milliseconds(&CLEANUP_TIMEOUT)
}

/// How long a commit writes manifests.
pub fn commit_timeout() -> Duration {
    milliseconds(&COMMIT_TIMEOUT)
}

/// Attempts at one request.
pub fn request_attempts() -> u32 {
    REQUEST_ATTEMPTS.get().unsigned_abs()
}

/// Time for all attempts at one request.
pub fn request_timeout() -> Duration {
    milliseconds(&REQUEST_TIMEOUT)
}

/// How long an export may take, where it does not say; zero: any time.
pub fn timeout() -> Duration {
    milliseconds(&TIMEOUT)
}

/// Between two notices of how far an export is; `None`: there are none.
pub fn progress_interval() -> Option<Duration> {
    Some(milliseconds(&PROGRESS_INTERVAL)).filter(|interval| !interval.is_zero())
}

/// Jobs that run at once in this database.
pub fn max_workers() -> u32 {
    MAX_WORKERS.get().unsigned_abs()
}

/// Time between the first attempt of a job and the second.
pub fn retry_delay() -> Duration {
    milliseconds(&RETRY_DELAY)
}

/// Transactions of the cluster that export at once; zero: any number.
pub fn max_exports() -> u32 {
    MAX_EXPORTS.get().unsigned_abs()
}

/// How long an export waits where as many run as may. `None`: any time.
pub fn max_exports_wait() -> Option<Duration> {
    u64::try_from(MAX_EXPORTS_WAIT.get()).ok().map(Duration::from_millis)
}

/// Bytes a second of each export; zero: any number.
pub fn max_bandwidth() -> u64 {
    u64::from(MAX_BANDWIDTH.get().unsigned_abs())
}

/// Whether each export that commits leaves a row of the history.
pub fn history() -> bool {
    HISTORY.get()
}

/// Whether that row has the text of the query.
pub fn history_query() -> bool {
    HISTORY_QUERY.get()
}

/// Exports of which the log has a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogExports {
    /// None, but for those that nothing else records.
    Off,
    /// Those that were committed.
    Committed,
    /// Those that failed too.
    All,
}

/// Values of `s3_export.log_exports`; those of a boolean, which it was up to 0.2.0, are hidden.
#[derive(Debug, Clone, Copy, PostgresGucEnum)]
enum LogExportsValue {
    #[name = c"off"]
    Off,
    #[name = c"committed"]
    Committed,
    #[name = c"all"]
    All,
    #[name = c"on"]
    #[hidden = true]
    On,
    #[name = c"true"]
    #[hidden = true]
    True,
    #[name = c"yes"]
    #[hidden = true]
    Yes,
    #[name = c"1"]
    #[hidden = true]
    One,
    #[name = c"false"]
    #[hidden = true]
    False,
    #[name = c"no"]
    #[hidden = true]
    No,
    #[name = c"0"]
    #[hidden = true]
    Zero,
}

/// Exports of which the log has a line.
pub fn log_exports() -> LogExports {
    use LogExportsValue as Value;
    match LOG_EXPORTS.get() {
        Value::Off | Value::False | Value::No | Value::Zero => LogExports::Off,
        Value::Committed | Value::On | Value::True | Value::Yes | Value::One => LogExports::Committed,
        Value::All => LogExports::All,
    }
}

fn milliseconds(setting: &GucSetting<i32>) -> Duration {
    Duration::from_millis(u64::from(setting.get().unsigned_abs()))
}

/// Variable of the server's environment that names the key file where the setting is empty. No SQL shows it, while Postgres shows
/// the setting to anybody whose session has not loaded the library.
const KEY_FILE_VARIABLE: &str = "S3_EXPORT_KEY_FILE";

/// The key ring's path, by the setting or else by the server's environment; `None` where neither names one.
pub fn key_file() -> Option<PathBuf> {
    let of_environment = || std::env::var_os(KEY_FILE_VARIABLE).filter(|path| !path.is_empty());
    text(&KEY_FILE).map(PathBuf::from).or_else(|| of_environment().map(PathBuf::from))
}

/// The path of the certificate authorities; `None` when the setting is empty.
pub fn ca_file() -> Option<PathBuf> {
    text(&CA_FILE).map(PathBuf::from)
}

/// Paths of further certificate authorities.
pub fn extra_ca_files() -> Vec<PathBuf> {
    let paths = text(&EXTRA_CA_FILES).unwrap_or_default();
    if paths.trim().is_empty() { Vec::new() } else { paths.split(',').map(|path| PathBuf::from(path.trim())).collect() }
}

/// The proxy of all requests; `None` when the setting is empty. Errors: F0000 for what is no proxy.
pub fn proxy() -> Result<Option<Proxy>> {
    let Some(url) = text(&PROXY) else { return Ok(None) };
    let credentials = text(&PROXY_CREDENTIALS_FILE).map(PathBuf::from);
    Proxy::new(&url, credentials.as_deref(), &text(&NO_PROXY).unwrap_or_default()).map(Some)
}

/// The roles that may be named inline, and where they may write: JSON; `None` when the setting is empty.
pub fn inline_roles() -> Option<String> {
    text(&INLINE_ROLES)
}

fn text(setting: &GucSetting<Option<CString>>) -> Option<String> {
    let value = setting.get()?;
    (!value.is_empty()).then(|| to_utf8(value.as_bytes()))
}
