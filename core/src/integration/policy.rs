//! Policies in AWS's JSON: what a session may do, what to grant the integration's identity, and whom a role should trust.
//!
//! Grammar and limits: AWS, "IAM JSON policy reference", and STS's `AssumeRole`.
#![forbid(unsafe_code)]

use serde_json::{Map, Value, json};

use crate::error::{Code, Error, Result, unknown_key};
use crate::naming::uri::Allowed;

/// STS's limit for a session policy, in characters.
const MAX_SESSION_POLICY: usize = 2048;

/// Purpose of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Writing files and a manifest, looking whether one is there, and deleting them again.
    Export,
    /// The same, after a look at what is there: a folder that must be empty, or an object under a name of the user's.
    ExportAfterALook,
    /// Finding and deleting what a crash has left.
    CleanUp,
    /// Comparing an export with its manifest, which writes nothing.
    Verify,
}

/// Input of an integration's policies.
pub struct Grant<'a> {
    /// AWS partition of the ARNs: `aws`, `aws-cn`, …
    pub partition: &'a str,
    /// Locations to which the integration may write.
    pub locations: Vec<Allowed>,
    /// Whether the integration asks for KMS.
    pub kms: bool,
    /// The key that the integration names.
    pub kms_key: Option<&'a str>,
    /// Whether it is Amazon's S3, which may encrypt with a key that the bucket names.
    pub amazon: bool,
    /// The role to assume.
    pub role: Option<&'a str>,
    /// Whether objects get an ACL.
    pub acl: bool,
    /// Whether objects get tags.
    pub tags: bool,
    /// Whether objects get a retention.
    pub lock: bool,
    /// Whether the location or a name is looked at before the export, as the option `existing` and names of a user's own ask for.
    pub looks: bool,
    /// Whether objects have names of a user's own.
    pub own_names: bool,
}

/// Actions on the key of who writes objects; a multipart upload is completed with the second.
const WRITES_WITH_KEY: [&str; 2] = ["kms:GenerateDataKey", "kms:Decrypt"];
/// Actions on the key of who reads objects, or their checksums.
const READS_WITH_KEY: [&str; 1] = ["kms:Decrypt"];

/// The policies that `s3_export.iam_policy` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// For exports.
    Export,
    /// For exports with a key of the run, and for feeds.
    RunKey,
    /// For `s3_export.cleanup`.
    CleanUp,
    /// For `s3_export.verify`.
    Verify,
    /// For the identity that assumes the role.
    Base,
}

impl Kind {
    /// Errors: 22023.
    pub fn parse(text: &str) -> Result<Self> {
        match text {
            "export" => Ok(Kind::Export),
            "run_key" => Ok(Kind::RunKey),
            "cleanup" => Ok(Kind::CleanUp),
            "verify" => Ok(Kind::Verify),
            "base" => Ok(Kind::Base),
            other => Err(unknown_key("kind of policy", other, &["export", "run_key", "cleanup", "verify", "base"])),
        }
    }
}

impl Grant<'_> {
    /// For AssumeRole: the role can do no more than this in the session. Errors: 53400 when STS would not take it.
    pub fn session_policy(&self, purpose: Purpose) -> Result<String> {
        let mut actions = vec!["s3:GetObject"];
        // To find an upload whose id was lost with an answer.
        let mut lists = vec!["s3:ListBucketMultipartUploads"];
        match purpose {
            Purpose::Verify => lists.clear(),
            Purpose::CleanUp | Purpose::Export | Purpose::ExportAfterALook => {
                actions.splice(0..0, ["s3:AbortMultipartUpload", "s3:DeleteObject", "s3:DeleteObjectVersion"]);
            }
        }
        let writes = matches!(purpose, Purpose::Export | Purpose::ExportAfterALook);
        if writes {
            actions.push("s3:PutObject");
            let of_headers =
                [(self.acl, "s3:PutObjectAcl"), (self.tags, "s3:PutObjectTagging"), (self.lock, "s3:PutObjectRetention")];
            actions.extend(of_headers.iter().filter(|(is_sent, _)| *is_sent).map(|(_, action)| action));
        }
        let mut statements = vec![json!({ "Effect": "Allow", "Action": actions, "Resource": self.objects() })];
        if purpose != Purpose::Export {
            lists.push("s3:ListBucket");
        }
        statements.push(json!({ "Effect": "Allow", "Action": lists, "Resource": self.buckets() }));
        match purpose {
            Purpose::CleanUp => {}
            Purpose::Verify => statements.extend(self.kms_statement(None, &READS_WITH_KEY)),
            Purpose::Export | Purpose::ExportAfterALook => statements.extend(self.kms_statement(None, &WRITES_WITH_KEY)),
        }
        let policy = ascii(&json!({ "Version": VERSION, "Statement": statements }).to_string());
        let length = policy.len();
        if length <= MAX_SESSION_POLICY {
            return Ok(policy);
        }
        Err(Error::new(Code::Limit, "the allowed locations make the session policy too long for STS")
            .detail(format!("The policy has {length} characters, and STS takes {MAX_SESSION_POLICY}."))
            .hint("Allow fewer or shorter locations, or make several integrations."))
    }

    /// The least that the integration's identity needs, each statement with its reason as its Sid.
    pub fn iam_policy(&self, kind: Kind) -> String {
        let on_objects =
            |sid: &str, action: &str| json!({ "Sid": sid, "Effect": "Allow", "Action": action, "Resource": self.objects() });
        let mut statements = Vec::new();
        match kind {
            Kind::Export | Kind::RunKey => {
                statements.push(on_objects("WriteFilesAndTheManifest", "s3:PutObject"));
                for (is_sent, sid, action) in [
                    (self.acl, "SetTheAclOfTheIntegration", "s3:PutObjectAcl"),
                    (self.tags, "SetTheTags", "s3:PutObjectTagging"),
                    (self.lock, "SetTheRetentionOfTheIntegration", "s3:PutObjectRetention"),
                ] {
                    statements.extend(is_sent.then(|| on_objects(sid, action)));
                }
                statements.extend([
                    on_objects("EndMultipartUploadsOfAnAbortedExport", "s3:AbortMultipartUpload"),
                    on_objects("DeleteWhatAnAbortedExportWrote", "s3:DeleteObject"),
                    on_objects("DeleteItByVersionInAVersionedBucket", "s3:DeleteObjectVersion"),
                ]);
                if self.kms {
                    statements
                        .extend(self.kms_statement(Some("EncryptWithTheKeyAndCompleteMultipartUploads"), &WRITES_WITH_KEY));
                }
                if self.own_names {
                    statements.push(on_objects("ReadWhoseATakenNameIs", "s3:GetObject"));
                }
                if self.looks && kind == Kind::Export {
                    statements.extend(self.listing("LookWhetherNamesAreTaken", "s3:ListBucket", true));
                }
                if kind == Kind::RunKey {
                    statements.push(self.on_manifests("ReadTheManifestOfAnEarlierRun"));
                    statements.extend(self.listing("LearnThatThereIsNoSuchManifest", "s3:ListBucket", true));
                }
            }
            Kind::Base => statements.extend(self.role.map(
                |role| json!({ "Sid": "AssumeTheRole", "Effect": "Allow", "Action": "sts:AssumeRole", "Resource": role }),
            )),
            Kind::Verify => {
                statements.push(on_objects("ReadManifestsAndLookAtFiles", "s3:GetObject"));
                statements.extend(self.listing("FindFilesThatNoManifestLists", "s3:ListBucket", true));
                if self.kms {
                    statements.extend(self.kms_statement(Some("ReadWhatTheKeyEncrypts"), &READS_WITH_KEY));
                }
            }
            Kind::CleanUp => {
                statements.extend(self.listing("FindFilesWithoutAManifest", "s3:ListBucket", true));
                statements.push(self.on_manifests("LookWhetherThereIsNoManifest"));
                // S3 knows no condition on the prefix of this one.
                statements.extend(self.listing("FindUnfinishedMultipartUploads", "s3:ListBucketMultipartUploads", false));
                statements.extend([
                    on_objects("EndMultipartUploadsThatACrashLeft", "s3:AbortMultipartUpload"),
                    on_objects("DeleteFilesThatACrashLeft", "s3:DeleteObject"),
                ]);
            }
        }
        pretty(&json!({ "Version": VERSION, "Statement": statements }))
    }

    fn on_manifests(&self, sid: &str) -> Value {
        let manifests: Vec<String> = self.objects().iter().map(|objects| format!("{objects}.manifest")).collect();
        json!({ "Sid": sid, "Effect": "Allow", "Action": "s3:GetObject", "Resource": manifests })
    }

    fn objects(&self) -> Vec<String> {
        self.locations.iter().map(|location| format!("arn:{}:s3:::{}", self.partition, objects_of(location))).collect()
    }

    fn buckets(&self) -> Vec<String> {
        let bucket = |location: &Allowed| match location {
            Allowed::Anywhere => format!("arn:{}:s3:::*", self.partition),
            Allowed::Within(location) => format!("arn:{}:s3:::{}", self.partition, location.bucket()),
        };
        let mut buckets: Vec<String> = self.locations.iter().map(bucket).collect();
        buckets.dedup();
        buckets
    }

    /// One statement a location, since a condition holds for all resources of its statement.
    fn listing(&self, sid: &str, action: &str, by_prefix: bool) -> Vec<Value> {
        let statement = |(location, number): (&Allowed, usize)| {
            let (bucket, prefix) = match location {
                Allowed::Anywhere => ("*", ""),
                Allowed::Within(location) => (location.bucket(), location.prefix()),
            };
            // Sids are unique, letters and digits.
            let sid = if number == 1 { sid.to_owned() } else { format!("{sid}{number}") };
            let resource = format!("arn:{}:s3:::{bucket}", self.partition);
            let mut statement = json!({ "Sid": sid, "Effect": "Allow", "Action": action, "Resource": resource });
            if by_prefix && !prefix.is_empty() {
                // A look at an object has no prefix, and without the right to list S3 would hide that there is none.
                let condition = json!({ "StringLikeIfExists": { "s3:prefix": format!("{}/*", escape(prefix)) } });
                insert(&mut statement, "Condition", condition);
            }
            statement
        };
        self.locations.iter().zip(1..).map(statement).collect()
    }

    fn kms_statement(&self, sid: Option<&str>, actions: &[&str]) -> Option<Value> {
        let mut statement = json!({ "Effect": "Allow", "Action": actions });
        match self.kms_key {
            Some(arn) if arn.starts_with("arn:") => insert(&mut statement, "Resource", json!(arn)),
            // Another server's name for a key, or another server: its policies know no KMS.
            Some(_) => return None,
            None if !self.amazon => return None,
            // Amazon's own key, or one that the bucket names, whose ARN the integration does not know.
            None => {
                insert(&mut statement, "Resource", json!("*"));
                insert(&mut statement, "Condition", json!({ "StringLike": { "kms:ViaService": "s3.*" } }));
            }
        }
        if let Some(sid) = sid {
            insert(&mut statement, "Sid", json!(sid));
        }
        Some(statement)
    }
}

/// Returns JSON whose characters beyond ASCII are escaped: STS takes none past U+00FF.
pub fn ascii(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len());
    for character in json.chars() {
        if character.is_ascii() {
            escaped.push(character);
        } else {
            for unit in character.encode_utf16(&mut [0; 2]) {
                escaped.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    escaped
}

/// The version of AWS's policy language.
const VERSION: &str = "2012-10-17";

/// Whom a role should trust: `principal`, an ARN, when it says the external id.
pub fn trust_policy(principal: &str, external_id: Option<&str>) -> String {
    let mut statement = json!({
        "Sid": "LetS3ExportAssumeThisRole",
        "Effect": "Allow",
        "Principal": { "AWS": principal },
        "Action": "sts:AssumeRole",
    });
    if let Some(external_id) = external_id {
        insert(&mut statement, "Condition", json!({ "StringEquals": { "sts:ExternalId": external_id } }));
    }
    pretty(&json!({ "Version": VERSION, "Statement": [statement] }))
}

/// The role or user behind the ARN that STS gives for a caller: of a session, the role that was assumed. (A role's path is
/// not in a session's ARN.)
pub fn principal_of_caller(arn: &str) -> String {
    let parts: Vec<&str> = arn.splitn(6, ':').collect();
    if let ["arn", partition, "sts", _, account, resource] = parts.as_slice()
        && let Some(role) = resource.strip_prefix("assumed-role/").and_then(|rest| rest.split('/').next())
    {
        return format!("arn:{partition}:iam::{account}:role/{role}");
    }
    arn.to_owned()
}

fn objects_of(location: &Allowed) -> String {
    match location {
        Allowed::Anywhere => "*".to_owned(),
        Allowed::Within(location) if location.prefix().is_empty() => format!("{}/*", location.bucket()),
        Allowed::Within(location) => format!("{}/{}/*", location.bucket(), escape(location.prefix())),
    }
}

/// A key's own `*`, `?` and `$` would be wildcards and variables in a policy.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '*' | '?' | '$' => escaped.extend(["${", character.encode_utf8(&mut [0; 4]), "}"]),
            other => escaped.push(other),
        }
    }
    escaped
}

fn insert(object: &mut Value, key: &str, value: Value) {
    object.as_object_mut().unwrap_or(&mut Map::new()).insert(key.to_owned(), value);
}

fn pretty(policy: &Value) -> String {
    serde_json::to_string_pretty(policy).unwrap_or_else(|_| policy.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(locations: &[&str]) -> Grant<'static> {
        let locations = locations.iter().map(|entry| Allowed::parse(entry).unwrap()).collect();
        Grant {
            partition: "aws",
            locations,
            kms: false,
            kms_key: None,
            amazon: false,
            role: None,
            acl: false,
            tags: false,
            lock: false,
            looks: false,
            own_names: false,
        }
    }

    fn resources(policy: &str) -> Vec<String> {
        let policy: Value = serde_json::from_str(policy).unwrap();
        policy["Statement"][0]["Resource"].as_array().unwrap().iter().map(|r| r.as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn a_session_may_write_below_the_allowed_locations_and_nowhere_else() {
        let policy = grant(&["s3://bucket", "s3://other/team"]).session_policy(Purpose::Export).unwrap();
        assert_eq!(resources(&policy), ["arn:aws:s3:::bucket/*", "arn:aws:s3:::other/team/*"]);
        assert!(!policy.contains("s3:ListBucket\"") && !policy.contains("kms"));
        let clean_up = grant(&["s3://bucket/a"]).session_policy(Purpose::CleanUp).unwrap();
        assert!(clean_up.contains("s3:ListBucketMultipartUploads") && !clean_up.contains("PutObject"));
        let verify = grant(&["s3://bucket/a"]).session_policy(Purpose::Verify).unwrap();
        let verify: Value = serde_json::from_str(&verify).unwrap();
        let actions = |statement: usize| verify["Statement"][statement]["Action"].clone();
        assert_eq!((actions(0), actions(1), actions(2)), (json!(["s3:GetObject"]), json!(["s3:ListBucket"]), Value::Null));
        let china = Grant { partition: "aws-cn", ..grant(&["s3://"]) };
        assert_eq!(resources(&china.session_policy(Purpose::Export).unwrap()), ["arn:aws-cn:s3:::*"]);
    }

    #[test]
    fn a_key_with_wildcards_in_it_allows_no_more_than_itself() {
        let policy = grant(&["s3://bucket/a*b?c${d}"]).session_policy(Purpose::Export).unwrap();
        assert_eq!(resources(&policy), ["arn:aws:s3:::bucket/a${*}b${?}c${$}{d}/*"]);
    }

    /// STS takes no character past U+00FF.
    #[test]
    fn a_session_policy_is_ascii() {
        let policy = grant(&["s3://bucket/größe/日本/😀"]).session_policy(Purpose::Export).unwrap();
        assert!(policy.is_ascii(), "{policy}");
        assert_eq!(resources(&policy), ["arn:aws:s3:::bucket/größe/日本/😀/*"]);
    }

    #[test]
    fn a_session_may_use_the_key_and_no_other() {
        let key = "arn:aws:kms:eu-1:012345678901:key/x";
        let keyed = Grant { kms_key: Some(key), acl: true, ..grant(&["s3://bucket"]) };
        let policy: Value = serde_json::from_str(&keyed.session_policy(Purpose::Export).unwrap()).unwrap();
        assert_eq!(policy["Statement"][2]["Resource"], key);
        assert!(policy["Statement"][0]["Action"].as_array().unwrap().contains(&json!("s3:PutObjectAcl")));
        let policy: Value = serde_json::from_str(&keyed.session_policy(Purpose::Verify).unwrap()).unwrap();
        assert_eq!(
            (&policy["Statement"][2]["Action"], &policy["Statement"][2]["Resource"]),
            (&json!(["kms:Decrypt"]), &json!(key))
        );
        let own = Grant { amazon: true, ..grant(&["s3://bucket"]) };
        let policy: Value = serde_json::from_str(&own.session_policy(Purpose::Export).unwrap()).unwrap();
        assert_eq!(policy["Statement"][2]["Condition"]["StringLike"]["kms:ViaService"], "s3.*");
        let other_server = Grant { kms_key: Some("my-key"), ..grant(&["s3://bucket"]) };
        assert!(!other_server.session_policy(Purpose::Export).unwrap().contains("kms"));
    }

    #[test]
    fn tags_and_retention_have_their_rights_only_where_they_are_sent() {
        let plain = grant(&["s3://bucket"]);
        let (tagged, locked) =
            (Grant { tags: true, ..grant(&["s3://bucket"]) }, Grant { lock: true, ..grant(&["s3://bucket"]) });
        for (purpose, is_export) in [(Purpose::Export, true), (Purpose::ExportAfterALook, true), (Purpose::CleanUp, false)] {
            for (grant, action) in [(&tagged, "s3:PutObjectTagging"), (&locked, "s3:PutObjectRetention")] {
                assert_eq!(grant.session_policy(purpose).unwrap().contains(action), is_export, "{action} {purpose:?}");
                assert!(!plain.session_policy(purpose).unwrap().contains(action));
            }
        }
        for kind in [Kind::Export, Kind::RunKey] {
            assert!(tagged.iam_policy(kind).contains("s3:PutObjectTagging") && locked.iam_policy(kind).contains("Retention\""));
            assert!(!plain.iam_policy(kind).contains("Tagging") && !plain.iam_policy(kind).contains("Retention"));
        }
        assert!(!tagged.iam_policy(Kind::CleanUp).contains("Tagging"));
        let looking = Grant { looks: true, ..grant(&["s3://bucket"]) };
        assert!(looking.iam_policy(Kind::Export).contains("s3:ListBucket"));
        assert!(!plain.iam_policy(Kind::Export).contains("s3:ListBucket"));
    }

    #[test]
    fn a_session_policy_keeps_to_sts_limit() {
        let long: Vec<String> = (0..40).map(|number| format!("s3://bucket/{}-{number}", "x".repeat(40))).collect();
        let long: Vec<&str> = long.iter().map(String::as_str).collect();
        assert_eq!(grant(&long).session_policy(Purpose::Export).unwrap_err().code(), Code::Limit);
        assert!(grant(&long[..20]).session_policy(Purpose::Export).is_ok());
    }

    /// `create_integration` checks that policy alone.
    #[test]
    fn the_session_policy_of_an_export_that_looks_is_the_longest() {
        for (kms, acl) in [(false, false), (true, true)] {
            let grant = Grant { kms, acl, tags: acl, lock: acl, amazon: kms, ..grant(&["s3://bucket"]) };
            let length = |purpose| grant.session_policy(purpose).unwrap().len();
            let longest = length(Purpose::ExportAfterALook);
            assert!([Purpose::Export, Purpose::CleanUp, Purpose::Verify].iter().all(|&purpose| longest > length(purpose)));
        }
    }

    #[test]
    fn iam_policies_give_each_action_its_reason_in_a_unique_sid() {
        let keyed =
            Grant { kms: true, amazon: true, acl: true, tags: true, lock: true, ..grant(&["s3://bucket/a", "s3://bucket/b"]) };
        for (kind, actions) in [
            (
                Kind::Export,
                &[
                    "s3:PutObject",
                    "s3:PutObjectAcl",
                    "s3:PutObjectTagging",
                    "s3:PutObjectRetention",
                    "s3:AbortMultipartUpload",
                    "s3:DeleteObject",
                    "s3:DeleteObjectVersion",
                    "kms:GenerateDataKey",
                    "kms:Decrypt",
                ] as &[_],
            ),
            (Kind::RunKey, &["s3:PutObject", "s3:DeleteObject", "s3:GetObject", "s3:ListBucket", "kms:Decrypt"]),
            (Kind::CleanUp, &["s3:GetObject", "s3:ListBucket", "s3:ListBucketMultipartUploads", "s3:DeleteObject"]),
            (Kind::Verify, &["s3:GetObject", "s3:ListBucket", "kms:Decrypt"]),
        ] {
            let policy = keyed.iam_policy(kind);
            for action in actions {
                assert!(policy.contains(&format!("\"{action}\"")), "{action} in {policy}");
            }
            let policy: Value = serde_json::from_str(&policy).unwrap();
            let mut sids: Vec<&str> =
                policy["Statement"].as_array().unwrap().iter().map(|s| s["Sid"].as_str().unwrap()).collect();
            assert!(sids.iter().all(|sid| sid.bytes().all(|byte| byte.is_ascii_alphanumeric())), "{sids:?}");
            let all = sids.len();
            sids.sort_unstable();
            sids.dedup();
            assert_eq!(sids.len(), all);
        }
    }

    #[test]
    fn a_listing_is_bounded_by_its_prefix() {
        let policy: Value = serde_json::from_str(&grant(&["s3://bucket/a"]).iam_policy(Kind::CleanUp)).unwrap();
        assert_eq!(policy["Statement"][0]["Condition"]["StringLikeIfExists"]["s3:prefix"], "a/*");
        assert_eq!(policy["Statement"][0]["Resource"], "arn:aws:s3:::bucket");
        assert_eq!(policy["Statement"][1]["Action"], "s3:GetObject");
        assert_eq!(policy["Statement"][1]["Resource"], json!(["arn:aws:s3:::bucket/a/*.manifest"]));
    }

    #[test]
    fn a_trust_policy_demands_the_external_id() {
        let policy: Value = serde_json::from_str(&trust_policy("arn:aws:iam::1:user/x", Some("ext"))).unwrap();
        assert_eq!(policy["Statement"][0]["Condition"]["StringEquals"]["sts:ExternalId"], "ext");
        assert_eq!(policy["Statement"][0]["Principal"]["AWS"], "arn:aws:iam::1:user/x");
        assert!(!trust_policy("x", None).contains("Condition"));
    }

    #[test]
    fn the_principal_of_a_session_is_its_role() {
        for (arn, principal) in [
            ("arn:aws:sts::012345678901:assumed-role/db/i-0123", "arn:aws:iam::012345678901:role/db"),
            ("arn:aws-cn:iam::012345678901:user/a/b", "arn:aws-cn:iam::012345678901:user/a/b"),
            ("arn:aws:iam::012345678901:root", "arn:aws:iam::012345678901:root"),
        ] {
            assert_eq!(principal_of_caller(arn), principal);
        }
    }
}
