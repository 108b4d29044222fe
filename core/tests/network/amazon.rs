//! The names of Amazon's endpoints that an integration asks for.

use std::collections::BTreeSet;
use std::sync::Arc;

use s3_export_core::s3::client::{AmazonEndpoints, BucketRegion, Connection, ObjectSettings, Store};
use s3_export_core::s3::credentials::{AssumedRole, Base, Identity};
use s3_export_core::s3::network::{Network, Reach};
use s3_export_core::secret::Secret;

use super::connect_proxy::{ConnectProxy, Manner};
use super::servers::{Names, Server, block_on, network, proxy};

/// Refuses everything, so that the names that it was asked for are all there is.
fn nobody() -> (ConnectProxy, Arc<Network>) {
    let asked = ConnectProxy::start(Manner::Say(b"HTTP/1.1 403 Forbidden\r\n\r\n".to_vec()));
    let network = Arc::new(network(Names(None), proxy(&asked.url(), "")));
    (asked, network)
}

fn connection(amazon: AmazonEndpoints, region: BucketRegion, sts_endpoint: Option<&str>) -> Connection {
    let role = AssumedRole {
        arn: "arn:aws:iam::012345678901:role/x".to_owned(),
        external_id: None,
        session_name: "test".to_owned(),
        session_policy: "{}".to_owned(),
        endpoint: sts_endpoint.map(str::to_owned),
        region: None,
        reach: Reach::Private,
    };
    let base = Base::Keys { access_key_id: "K".into(), secret_access_key: Secret::new("S".into()), session_token: None };
    Connection {
        region,
        endpoint: None,
        amazon,
        path_style: false,
        reach: Reach::Private,
        identity: Arc::new(Identity { base, role: Some(role), amazon }),
        object: ObjectSettings::default(),
    }
}

/// Names that were asked for: of the region's discovery, of STS, and of S3.
fn names(fips: bool, dual_stack: bool, region: &str) -> [String; 3] {
    let amazon = AmazonEndpoints { fips, dual_stack };
    let only = |asked: &ConnectProxy| {
        let targets: BTreeSet<String> = asked.targets().into_iter().collect();
        assert_eq!(targets.len(), 1, "{targets:?}");
        targets.into_iter().next().unwrap()
    };
    let (discovery, network) = nobody();
    let unknown = connection(amazon, BucketRegion::AskedFrom(region.to_owned()), None);
    block_on(Store::find_region(&unknown, &format!("bucket-{fips}-{dual_stack}"), &network)).unwrap_err();
    let (sts, network) = nobody();
    let known = connection(amazon, BucketRegion::Known(region.to_owned()), None);
    block_on(Store::open_in(&known, region.to_owned(), &network)).unwrap_err();
    let (s3, network) = nobody();
    let mut keys = known;
    keys.identity = Arc::new(keys.identity.without_role());
    let store = block_on(Store::open_in(&keys, region.to_owned(), &network)).unwrap();
    block_on(store.client.put_object().bucket("bucket").key("k").send()).unwrap_err();
    [only(&discovery), only(&sts), only(&s3)]
}

#[test]
fn fips_and_dual_stack_choose_the_names_of_s3_and_of_sts() {
    for (fips, dual_stack, region, [discovery, sts, s3]) in [
        (
            false,
            false,
            "us-east-1",
            [
                "bucket-false-false.s3.us-east-1.amazonaws.com",
                "sts.us-east-1.amazonaws.com",
                "bucket.s3.us-east-1.amazonaws.com",
            ],
        ),
        (
            true,
            false,
            "us-east-1",
            [
                "bucket-true-false.s3-fips.us-east-1.amazonaws.com",
                "sts-fips.us-east-1.amazonaws.com",
                "bucket.s3-fips.us-east-1.amazonaws.com",
            ],
        ),
        (
            false,
            true,
            "eu-west-1",
            [
                "bucket-false-true.s3.dualstack.eu-west-1.amazonaws.com",
                "sts.eu-west-1.api.aws",
                "bucket.s3.dualstack.eu-west-1.amazonaws.com",
            ],
        ),
        (
            true,
            true,
            "us-west-2",
            [
                "bucket-true-true.s3-fips.dualstack.us-west-2.amazonaws.com",
                "sts-fips.us-west-2.api.aws",
                "bucket.s3-fips.dualstack.us-west-2.amazonaws.com",
            ],
        ),
        (
            true,
            false,
            "us-gov-west-1",
            [
                "bucket-true-false.s3-fips.us-gov-west-1.amazonaws.com",
                "sts.us-gov-west-1.amazonaws.com",
                "bucket.s3-fips.us-gov-west-1.amazonaws.com",
            ],
        ),
    ] {
        let expected = [discovery, sts, s3].map(|name| format!("{name}:443"));
        assert_eq!(names(fips, dual_stack, region), expected, "fips {fips}, dual_stack {dual_stack}, {region}");
    }
}

#[test]
fn a_named_sts_is_asked_as_it_stands() {
    let (asked, network) = nobody();
    let amazon = AmazonEndpoints { fips: true, dual_stack: true };
    let known = connection(amazon, BucketRegion::Known("us-east-1".to_owned()), Some("https://sts.inside.example"));
    block_on(Store::open_in(&known, "us-east-1".to_owned(), &network)).unwrap_err();
    assert!(asked.targets().iter().all(|target| target == "sts.inside.example:443"), "{:?}", asked.targets());
}

#[test]
fn a_partition_without_fips_is_an_error_that_says_so() {
    let (asked, network) = nobody();
    let amazon = AmazonEndpoints { fips: true, dual_stack: false };
    let unknown = connection(amazon, BucketRegion::AskedFrom("cn-north-1".to_owned()), None);
    let failure = block_on(Store::find_region(&unknown, "bucket", &network)).unwrap_err();
    assert!(failure.error.summary().contains("FIPS"), "{:?}", failure.error);
    assert!(!failure.transient && asked.heads().is_empty());
}

/// Without a proxy, each request takes one connection, and with one, one tunnel.
#[test]
fn a_proxy_costs_no_connection_more() {
    let server = Server::start();
    let asked = ConnectProxy::start(Manner::To(server.address));
    let straight = network(Names(Some(server.address.ip())), None);
    super::servers::ask(&straight, Reach::Private, &format!("http://a.example:{}", server.address.port())).unwrap();
    assert_eq!(server.connections(), 1);
    let proxied = network(Names(None), proxy(&asked.url(), ""));
    super::servers::ask(&proxied, Reach::Private, "http://a.example").unwrap();
    assert_eq!((server.connections(), asked.heads().len()), (2, 1));
}
