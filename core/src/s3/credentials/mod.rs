//! Who signs requests: the integration's own keys, the server's identity, or a role assumed from either.
//!
//! ```text
//! Identity ──► Provider ──► slot of the backend's cache ──► base keys ──► STS AssumeRole, when there is a role
//! ```
//!
//! Keys that expire are renewed ahead of time, during an export too, however long it runs; and at once when the store says
//! that they have expired.
#![forbid(unsafe_code)]

mod assume;
mod base;
mod cache;
mod usable;

use std::sync::Arc;

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, future};
use ring::digest::{Context, SHA256};

pub use self::assume::{caller, sts_signing_region};
use self::cache::Slot;
pub use self::usable::check as check_signing;
use self::usable::checked;
use crate::s3::client::AmazonEndpoints;
use crate::s3::failure::Failure;
use crate::s3::network::{Network, Reach};
use crate::secret::Secret;

/// Whom requests are signed by.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Credentials that sign, or that ask for the role.
    pub base: Base,
    /// The role to assume.
    pub role: Option<AssumedRole>,
    /// Which of Amazon's endpoints give credentials, where no other is named.
    pub amazon: AmazonEndpoints,
}

impl Identity {
    /// Who asks for the role.
    pub fn without_role(&self) -> Self {
        Identity { base: self.base.clone(), role: None, amazon: self.amazon }
    }
}

/// Credentials that are there to begin with.
#[derive(Debug, Clone)]
pub enum Base {
    /// The integration's.
    Keys {
        /// Public half.
        access_key_id: String,
        /// Secret half.
        secret_access_key: Secret,
        /// Session token of temporary credentials, which nothing can renew.
        session_token: Option<Secret>,
    },
    /// The server's own, by the default chain of AWS's SDKs: environment, profile, web identity, container, instance.
    Ambient,
    /// A profile in the server's AWS files.
    Profile(String),
}

/// Role that STS is asked for.
#[derive(Debug, Clone)]
pub struct AssumedRole {
    /// The role's ARN.
    pub arn: String,
    /// External id that the role's trust policy may demand.
    pub external_id: Option<String>,
    /// Shows in CloudTrail.
    pub session_name: String,
    /// Narrows the role to what the integration allows; at most 2,048 characters.
    pub session_policy: String,
    /// STS's URL; `None`: Amazon's of `region`.
    pub endpoint: Option<String>,
    /// The region STS requests are signed for; `None`: the bucket's.
    pub region: Option<String>,
    /// How far STS requests may go.
    pub reach: Reach,
}

/// Hands out credentials, current ones, to the SDK.
#[derive(Debug, Clone)]
pub struct Provider {
    identity: Arc<Identity>,
    network: Arc<Network>,
    region: String,
    slot: Arc<Slot>,
}

impl Provider {
    /// `region`: the bucket's.
    pub fn new(identity: Arc<Identity>, network: Arc<Network>, region: &str) -> Self {
        let slot = cache::slot(fingerprint(&identity, region));
        Provider { identity, network, region: region.to_owned(), slot }
    }

    /// Current credentials. Errors: as STS or the server's own source of credentials refuses.
    pub async fn credentials(&self) -> Result<Credentials, Failure> {
        if let (Base::Keys { .. }, None) = (&self.identity.base, &self.identity.role) {
            return base::fetch(&self.identity, &self.region, &self.network).await;
        }
        self.slot.current(|| self.fetch()).await
    }

    async fn fetch(&self) -> Result<Credentials, Failure> {
        let Some(role) = &self.identity.role else {
            let fetched = base::fetch(&self.identity, &self.region, &self.network).await?;
            return checked(fetched, "what the server has as AWS credentials of its own");
        };
        let asking = Provider::new(Arc::new(self.identity.without_role()), Arc::clone(&self.network), &self.region);
        let base = Box::pin(asking.credentials()).await?;
        let generation = asking.generation();
        match assume::role(role, base, self.place(), &self.network).await {
            // The server's own keys were changed under us.
            Err(failure) if failure.expired && asking.expired(generation) => {
                let base = Box::pin(asking.credentials()).await?;
                assume::role(role, base, self.place(), &self.network).await
            }
            answer => answer,
        }
        .and_then(|credentials| checked(credentials, "what STS gave as credentials"))
    }

    fn place(&self) -> assume::Place<'_> {
        assume::Place { region: &self.region, amazon: self.identity.amazon }
    }

    /// Changes whenever other credentials are handed out.
    pub fn generation(&self) -> u64 {
        self.slot.generation()
    }

    /// The store says that the credentials of this generation have expired. Gives whether others can be had.
    pub fn expired(&self, generation: u64) -> bool {
        let renewable = self.identity.role.is_some() || !matches!(self.identity.base, Base::Keys { .. });
        renewable && self.slot.forget(generation)
    }

    /// Waits for the answer to a request that these credentials sign. Where the store says that they have expired and others can be
    /// had, the failure is transient.
    pub async fn renewing<T>(&self, answer: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let generation = self.generation();
        answer.await.map_err(|failure| {
            let renewed = failure.expired && self.expired(generation);
            Failure { transient: failure.transient || renewed, ..failure }
        })
    }
}

impl ProvideCredentials for Provider {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        // The failure travels through the SDK to the request that needed the credentials, which takes it out again.
        future::ProvideCredentials::new(async { self.credentials().await.map_err(CredentialsError::provider_error) })
    }
}

/// The same for the same identity, and no other. Cached credentials are found by it, so it covers all that they depend on.
fn fingerprint(identity: &Identity, region: &str) -> [u8; 32] {
    let mut digest = Context::new(&SHA256);
    let mut add = |field: Option<&str>| {
        let text = field.unwrap_or_default();
        digest.update(&[u8::from(field.is_some())]);
        digest.update(&(text.len() as u64).to_be_bytes());
        digest.update(text.as_bytes());
    };
    match &identity.base {
        Base::Keys { access_key_id, secret_access_key, session_token } => {
            add(Some("keys"));
            add(Some(access_key_id));
            add(Some(secret_access_key.expose()));
            add(session_token.as_ref().map(Secret::expose));
        }
        Base::Ambient => add(Some("ambient")),
        Base::Profile(name) => {
            add(Some("profile"));
            add(Some(name));
        }
    }
    if let Some(role) = &identity.role {
        for field in [&role.arn, &role.session_name, &role.session_policy] {
            add(Some(field));
        }
        for field in [&role.external_id, &role.endpoint, &role.region] {
            add(field.as_deref());
        }
        add(Some(region));
        // What was fetched over a wider reach is not for an integration that must not go so far.
        add(Some(if role.reach == Reach::Public { "public" } else { "private" }));
    }
    add(Some(&format!("{:?}", identity.amazon)));
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest.finish().as_ref());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            base: Base::Keys { access_key_id: "K".into(), secret_access_key: Secret::new("S".into()), session_token: None },
            role: Some(AssumedRole {
                arn: "arn:aws:iam::012345678901:role/x".into(),
                external_id: None,
                session_name: "s3_export-me".into(),
                session_policy: "{}".into(),
                endpoint: None,
                region: None,
                reach: Reach::Public,
            }),
            amazon: AmazonEndpoints::default(),
        }
    }

    #[test]
    fn whatever_decides_on_the_credentials_decides_on_the_fingerprint() {
        let changes: [fn(&mut AssumedRole); 7] = [
            |role| role.arn.push('y'),
            |role| role.external_id = Some(String::new()),
            |role| role.session_name.push('y'),
            |role| role.session_policy.push(' '),
            |role| role.endpoint = Some("https://sts".into()),
            |role| role.region = Some("eu-1".into()),
            |role| role.reach = Reach::Private,
        ];
        let plain = fingerprint(&identity(), "r");
        assert_eq!(plain, fingerprint(&identity(), "r"));
        assert_ne!(plain, fingerprint(&identity(), "r2"));
        for (number, change) in changes.iter().enumerate() {
            let mut changed = identity();
            change(changed.role.as_mut().unwrap());
            assert_ne!(plain, fingerprint(&changed, "r"), "change {number}");
        }
        for amazon in [
            AmazonEndpoints { fips: true, ..AmazonEndpoints::default() },
            AmazonEndpoints { dual_stack: true, ..AmazonEndpoints::default() },
        ] {
            assert_ne!(plain, fingerprint(&Identity { amazon, ..identity() }, "r"));
        }
        let mut other_secret = identity();
        other_secret.base =
            Base::Keys { access_key_id: "K".into(), secret_access_key: Secret::new("S2".into()), session_token: None };
        assert_ne!(plain, fingerprint(&other_secret, "r"));
    }
}
