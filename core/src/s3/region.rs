//! The region of a bucket, which Amazon tells anybody who asks.
#![forbid(unsafe_code)]

use std::sync::Mutex;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::SharedHttpClient;

use crate::error::{Code, Error};
use crate::s3::client::{AmazonEndpoints, plain_config};
use crate::s3::failure::Failure;
use crate::s3::retry::{RetryPolicy, retry};
use crate::sync::lock;

/// Comes with every answer about a bucket that exists: 200, 301 from another region, 403 to who may not see it.
const REGION_HEADER: &str = "x-amz-bucket-region";
/// For messages: "could not …".
const STEP: &str = "find the region of the bucket";
/// Buckets remembered in a backend.
const MAX_KNOWN: usize = 64;

/// Buckets, with the partition's first region, and their regions, most recently found last. A bucket that is deleted and made anew elsewhere is found again by a
/// new session.
static KNOWN: Mutex<Vec<((String, String), String)>> = Mutex::new(Vec::new());

/// Whom to ask.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// A region of the bucket's partition.
    pub first: &'a str,
    /// Which of its endpoints.
    pub amazon: AmazonEndpoints,
    /// Another server than Amazon's, for tests.
    pub endpoint: Option<&'a str>,
}

/// Asks for the region of a bucket. Errors: 42704 when there is no such bucket, 55000 when the answer names no region.
pub async fn of_bucket(bucket: &str, place: Place<'_>, http: &SharedHttpClient) -> Result<String, Failure> {
    let Place { first, amazon, endpoint } = place;
    if let Some((_, region)) = lock(&KNOWN).iter().find(|((known, of), _)| known == bucket && of == first) {
        return Ok(region.clone());
    }
    // Unsigned, so that no credentials are needed to find out where they are needed.
    let mut config = plain_config(first).allow_no_auth().http_client(http.clone());
    config = config.use_fips(amazon.fips).use_dual_stack(amazon.dual_stack);
    config.set_endpoint_url(endpoint.map(str::to_owned));
    config.set_force_path_style(endpoint.map(|_| true));
    let client = Client::from_conf(config.build());
    let url = format!("s3://{bucket}");
    let unanswered = |limit| Failure::unanswered(STEP, &url, limit);
    let region = retry(RetryPolicy::SHORT, unanswered, || ask(&client, bucket)).await?;
    let mut known = lock(&KNOWN);
    if known.len() >= MAX_KNOWN {
        known.remove(0);
    }
    known.push(((bucket.to_owned(), first.to_owned()), region.clone()));
    Ok(region)
}

async fn ask(client: &Client, bucket: &str) -> Result<String, Failure> {
    let error = match client.head_bucket().bucket(bucket).send().await {
        Ok(answer) => return answer.bucket_region.filter(|region| is_name(region)).ok_or_else(|| unnamed(bucket)),
        Err(error) => error,
    };
    let header = error.raw_response().and_then(|answer| answer.headers().get(REGION_HEADER)).map(str::to_owned);
    let Some(region) = header else {
        let failure = Failure::new(STEP, &format!("s3://{bucket}"), &error);
        let answered = error.raw_response().map(|answer| answer.status().as_u16());
        return Err(match answered {
            Some(301 | 307 | 400 | 403) => unnamed(bucket),
            Some(404) => {
                let hint = "Create the bucket, or correct its name. Of China, GovCloud and other partitions, set the region.";
                Failure { error: failure.error.hint(hint), ..failure }
            }
            _ => failure,
        });
    };
    if is_name(&region) { Ok(region) } else { Err(unnamed(bucket)) }
}

/// It becomes a part of the host's name, and of each signature.
fn is_name(region: &str) -> bool {
    (1..=64).contains(&region.len()) && region.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
}

fn unnamed(bucket: &str) -> Failure {
    Failure::permanent(
        Error::new(Code::NotReady, format!("the region of bucket \"{bucket}\" cannot be found out"))
            .hint("Set it: UPDATE s3_export.integrations SET region = '…' WHERE name = '…'."),
    )
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;
    use crate::s3::network::{Network, Reach, Trust};

    /// Asks a server that gives one answer.
    fn asked(bucket: &str, status: &str, headers: &str) -> Result<String, Failure> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n{headers}\r\n");
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            let length = stream.read(&mut request).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8_lossy(&request[..length]).into_owned()
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let http = Network::new(Trust::System).within(Reach::Private);
        let place = Place { first: "us-east-1", amazon: AmazonEndpoints::default(), endpoint: Some(&endpoint) };
        let region = runtime.block_on(of_bucket(bucket, place, &http));
        let request = server.join().unwrap();
        assert!(request.starts_with(&format!("HEAD /{bucket}")), "{request}");
        assert!(!request.to_lowercase().contains("authorization:"), "{request}");
        region
    }

    #[test]
    fn the_region_is_read_from_whatever_answer_names_it() {
        let header = "x-amz-bucket-region: eu-central-1\r\n";
        for (bucket, status) in [("found", "200 OK"), ("moved", "301 Moved Permanently"), ("denied", "403 Forbidden")] {
            assert_eq!(asked(bucket, status, header).unwrap(), "eu-central-1", "{status}");
        }
        assert!(lock(&KNOWN).iter().any(|((bucket, _), region)| bucket == "denied" && region == "eu-central-1"));
    }

    #[test]
    fn a_missing_bucket_and_an_answer_without_region_are_errors() {
        assert_eq!(asked("missing", "404 Not Found", "").unwrap_err().error.code(), Code::Undefined);
        assert_eq!(asked("silent", "403 Forbidden", "").unwrap_err().error.code(), Code::NotReady);
        assert_eq!(asked("nameless", "200 OK", "").unwrap_err().error.code(), Code::NotReady);
        for (bucket, status) in [("forged", "200 OK"), ("forged-too", "403 Forbidden")] {
            let header = "x-amz-bucket-region: eu-1.example.com/\r\n";
            assert_eq!(asked(bucket, status, header).unwrap_err().error.code(), Code::NotReady);
        }
    }
}
