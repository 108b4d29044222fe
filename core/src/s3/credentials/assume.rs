//! Requests to STS, Amazon's token service.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::SystemTime;

use aws_config::retry::RetryConfig;
use aws_credential_types::Credentials;
use aws_sdk_sts::Client;
use aws_sdk_sts::config::{BehaviorVersion, Config, Region};

use crate::error::{Code, Error};
use crate::s3::client::{AmazonEndpoints, stalled_streams, timeouts};
use crate::s3::credentials::{AssumedRole, Identity, Provider};
use crate::s3::failure::Failure;
use crate::s3::network::{Network, Reach};
use crate::s3::retry::{RetryPolicy, retry};

/// Seconds of a session that are asked for: the most that a role gives which another role assumes.
const SESSION_SECONDS: i32 = 3600;

/// Place of Amazon's STS, for a role without an endpoint of STS.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// Its region.
    pub region: &'a str,
    /// Kind of the region's endpoints.
    pub amazon: AmazonEndpoints,
}

/// Temporary credentials of the role, which `base` may assume.
pub async fn role(role: &AssumedRole, base: Credentials, place: Place<'_>, network: &Network) -> Result<Credentials, Failure> {
    let place = Place { region: role.region.as_deref().unwrap_or(place.region), ..place };
    let client = client(base, place, role.endpoint.as_deref(), role.reach, network);
    let step = format!("assume the role {}", role.arn);
    let unanswered = |limit| Failure::unanswered_by_sts(&step, limit);
    retry(RetryPolicy::SHORT, unanswered, || async {
        let answer = client
            .assume_role()
            .role_arn(&role.arn)
            .role_session_name(&role.session_name)
            .set_external_id(role.external_id.clone())
            .policy(&role.session_policy)
            .duration_seconds(SESSION_SECONDS)
            .send()
            .await
            .map_err(|error| Failure::of_sts(&step, &error))?;
        let given = answer.credentials.ok_or_else(|| incomplete(&role.arn))?;
        let expiry = SystemTime::try_from(given.expiration).map_err(|_| incomplete(&role.arn))?;
        let token = Some(given.session_token).filter(|token| !token.is_empty());
        Ok(Credentials::new(given.access_key_id, given.secret_access_key, token, Some(expiry), "s3_export"))
    })
    .await
}

/// The ARN of who asks, by the base credentials of `identity`.
pub async fn caller(identity: &Identity, region: &str, network: Arc<Network>) -> Result<String, Failure> {
    let credentials = Provider::new(Arc::new(identity.without_role()), Arc::clone(&network), region).credentials().await?;
    let (endpoint, region, reach) = match &identity.role {
        Some(role) => (role.endpoint.as_deref(), role.region.as_deref().unwrap_or(region), role.reach),
        None => (None, region, Reach::Private),
    };
    let client = client(credentials, Place { region, amazon: identity.amazon }, endpoint, reach, &network);
    const STEP: &str = "ask whose credentials these are";
    let unanswered = |limit| Failure::unanswered_by_sts(STEP, limit);
    retry(RetryPolicy::SHORT, unanswered, || async {
        let answer = client.get_caller_identity().send().await;
        let answer = answer.map_err(|error| Failure::of_sts(STEP, &error))?;
        answer.arn.ok_or_else(|| incomplete("the caller"))
    })
    .await
}

fn incomplete(what: &str) -> Failure {
    Failure::permanent(Error::new(Code::Io, format!("STS gave an incomplete answer for {what}")))
}

fn client(base: Credentials, place: Place<'_>, endpoint: Option<&str>, reach: Reach, network: &Network) -> Client {
    let mut config = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(place.region.to_owned()))
        .credentials_provider(base)
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts())
        .stalled_stream_protection(stalled_streams())
        .http_client(network.within(reach));
    match endpoint {
        Some(endpoint) => config.set_endpoint_url(Some(endpoint.to_owned())),
        None => config.set_use_fips(Some(place.amazon.fips)).set_use_dual_stack(Some(place.amazon.dual_stack)),
    };
    Client::from_conf(config.build())
}

/// The region in the name of one of Amazon's endpoints, as `sts.<region>.amazonaws.com` and `….sts.<region>.vpce.amazonaws.com`.
pub fn sts_signing_region(endpoint: &str) -> Option<String> {
    let host = endpoint.strip_prefix("https://")?.trim_end_matches('/');
    let host = host.split(':').next().unwrap_or(host);
    let labels: Vec<&str> = host.split('.').collect();
    let service = labels.iter().position(|label| matches!(*label, "sts" | "sts-fips"))?;
    match labels.get(service + 1..)? {
        ["amazonaws", "com"] => Some("us-east-1".to_owned()),
        [region, "amazonaws" | "vpce" | "api", ..] => Some((*region).to_owned()),
        [region, "c2s", ..] | [region, "sc2s", ..] => Some((*region).to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::sts_signing_region;

    #[test]
    fn the_region_is_read_from_amazons_endpoints_and_no_others() {
        for (endpoint, region) in [
            ("https://sts.eu-west-1.amazonaws.com", Some("eu-west-1")),
            ("https://sts.cn-north-1.amazonaws.com.cn/", Some("cn-north-1")),
            ("https://sts-fips.us-gov-west-1.amazonaws.com", Some("us-gov-west-1")),
            ("https://sts.amazonaws.com", Some("us-east-1")),
            ("https://vpce-0a-1b.sts.eu-central-1.vpce.amazonaws.com", Some("eu-central-1")),
            ("https://sts.eu-west-1.api.aws:443", Some("eu-west-1")),
            ("https://sts.eusc-de-east-1.amazonaws.eu", Some("eusc-de-east-1")),
            ("https://sts.example.com", None),
            ("https://minio.example.com", None),
            ("http://127.0.0.1:9000", None),
        ] {
            assert_eq!(sts_signing_region(endpoint).as_deref(), region, "{endpoint}");
        }
    }
}
