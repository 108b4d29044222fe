//! Credentials to begin with: the integration's keys, or what the server's surroundings give it.
#![forbid(unsafe_code)]

use std::pin::Pin;
use std::time::Duration;

use aws_config::Region;
use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::meta::region::ProvideRegion;
use aws_config::profile::{ProfileFileCredentialsProvider, ProfileFileRegionProvider};
use aws_config::provider_config::ProviderConfig;
use aws_credential_types::Credentials;
use aws_credential_types::provider::ProvideCredentials;

use crate::error::{Code, Error};
use crate::s3::caught::{Panicked, caught};
use crate::s3::client::AmazonEndpoints;
use crate::s3::credentials::{Base, Identity};
use crate::s3::failure::{Failure, causes};
use crate::s3::network::Network;
use crate::secret::Secret;

/// Time for the server's surroundings to answer: off Amazon's machines there is nobody at the address of the metadata service.
const TIME_LIMIT: Duration = Duration::from_secs(15);

/// Fetches them. Errors: 28000 when the server has none of its own.
/// `region`: the bucket's, for a profile that assumes a role and names none.
pub async fn fetch(identity: &Identity, region: &str, network: &Network) -> Result<Credentials, Failure> {
    let amazon = identity.amazon;
    match &identity.base {
        Base::Keys { access_key_id, secret_access_key, session_token } => {
            let token = session_token.as_ref().map(|token| Secret::expose(token).to_owned());
            Ok(Credentials::new(access_key_id, secret_access_key.expose(), token, None, "s3_export"))
        }
        Base::Ambient => {
            let chain = DefaultCredentialsChain::builder().configure(surroundings(network, amazon)).build();
            let fetched = within_limit(Box::pin(async { chain.await.provide_credentials().await })).await;
            fetched.map_err(|why| unavailable("the server has no AWS credentials of its own", &why))
        }
        Base::Profile(name) => {
            let surroundings = surroundings(network, amazon);
            let named = ProfileFileRegionProvider::builder().configure(&surroundings).profile_name(name).build();
            let fetched = within_limit(Box::pin(async {
                let region = named.region().await.unwrap_or_else(|| Region::new(region.to_owned()));
                let profile = ProfileFileCredentialsProvider::builder();
                let surroundings = surroundings.with_region(Some(region));
                profile.configure(&surroundings).profile_name(name).build().provide_credentials().await
            }))
            .await;
            fetched.map_err(|why| unavailable(&format!("AWS profile \"{name}\" gives no credentials"), &why))
        }
    }
}

/// Returns the configuration of the server's own credentials. Settings that are not given here keep the values of the server's AWS files and
/// environment.
fn surroundings(network: &Network, amazon: AmazonEndpoints) -> ProviderConfig {
    let surroundings = ProviderConfig::without_region().with_http_client(network.unchecked());
    let surroundings = surroundings.with_use_fips(amazon.fips.then_some(true));
    surroundings.with_use_dual_stack(amazon.dual_stack.then_some(true))
}

/// Gives the failure as the part of a sentence. Takes a box, since keys, which every request asks for, need no such large future.
async fn within_limit(
    fetching: Pin<Box<dyn Future<Output = aws_credential_types::provider::Result> + Send + '_>>,
) -> Result<Credentials, String> {
    match tokio::time::timeout(TIME_LIMIT, caught(fetching)).await {
        Ok(Ok(Ok(credentials))) => Ok(credentials),
        Ok(Ok(Err(error))) => Err(causes(&error)),
        Ok(Err(Panicked)) => {
            Err("a value cannot be sent, such as a key with a line break; the server's log has its place".to_owned())
        }
        Err(_) => Err(format!("no answer within {} seconds", TIME_LIMIT.as_secs())),
    }
}

fn unavailable(what: &str, why: &str) -> Failure {
    Failure::permanent(Error::new(Code::Credentials, what).detail(format!("AWS's SDK says: {why}.")).hint(
        "They come from the environment, the AWS files and the metadata service of the operating system's user that runs Postgres.",
    ))
}
