//! Marks of feeds: how far a feed has exported, as text and as what it means.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fmt;

use crate::error::{Code, Error, Result, unknown_key};
use crate::manifest::WalPlace;

/// Most characters of a feed's name, which stands in the names of manifests.
pub const MAX_NAME: usize = 63;

/// Kind of a feed's mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A snapshot: whatever it does not see is new.
    Xid,
    /// The last value of a sequence that was exported.
    Sequence,
    /// The time before which all was exported.
    Time,
}

/// All of them, by name.
pub const KINDS: [(&str, Kind); 3] = [("sequence", Kind::Sequence), ("time", Kind::Time), ("xid", Kind::Xid)];

impl Kind {
    /// Errors: 22023.
    pub fn parse(name: &str) -> Result<Self> {
        let found = KINDS.iter().find(|(known, _)| *known == name);
        found.map(|(_, kind)| *kind).ok_or_else(|| unknown_key("mark", name, &KINDS.map(|(known, _)| known)))
    }

    /// As SQL has it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Xid => "xid",
            Kind::Sequence => "sequence",
            Kind::Time => "time",
        }
    }

    /// The mark before which there is nothing.
    pub fn start(self) -> &'static str {
        match self {
            Kind::Xid => "1:1:",
            Kind::Sequence => "-9223372036854775808",
            Kind::Time => "-infinity",
        }
    }

    /// Number of parameters that the query names: the mark, and the new mark where it is a bound.
    pub fn parameters(self) -> i32 {
        match self {
            Kind::Xid => 1,
            Kind::Sequence | Kind::Time => 2,
        }
    }
}

/// Errors: 22023 for a name that manifests cannot have.
pub fn check_name(name: &str) -> Result<()> {
    let is_plain = |character: char| character.is_ascii_alphanumeric() || matches!(character, '_' | '.' | '-');
    if name.len() <= MAX_NAME && name.chars().all(is_plain) && name.starts_with(|first: char| first.is_ascii_alphanumeric()) {
        return Ok(());
    }
    Err(Error::new(Code::InvalidParameter, format!("invalid name of a feed: \"{name}\"")).detail(
        "A name has 1 to 63 ASCII letters, digits, underscores, dots and hyphens, and begins with a letter or a digit.",
    ))
}

/// The last number of a run: names of manifests, in order, are runs in order.
pub const LAST_RUN: u64 = 9_999_999_999;

/// Returns the key of a run of a feed, which names its manifest.
pub fn run_key(feed: &str, run: u64) -> String {
    format!("{feed}-{run:010}")
}

/// Postgres's `pg_snapshot`: transactions from `xmin` on, but those before `xmax` that are not in `xip`, are seen as committed or
/// aborted; all before `xmin` are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    xmin: u64,
    /// The first transaction id that was not assigned yet.
    pub xmax: u64,
    xip: BTreeSet<u64>,
}

impl Snapshot {
    /// Reads `xmin:xmax:xip,…`. `None`: it is no snapshot.
    pub fn parse(text: &str) -> Option<Self> {
        let mut fields = text.splitn(3, ':');
        let mut number = || fields.next()?.parse().ok();
        let (xmin, xmax): (u64, u64) = (number()?, number()?);
        let mut xip = BTreeSet::new();
        for id in fields.next()?.split(',').filter(|id| !id.is_empty()) {
            xip.insert(id.parse().ok()?);
        }
        (xmin > 0 && xmin <= xmax && xip.iter().all(|id| (xmin..xmax).contains(id))).then_some(Snapshot { xmin, xmax, xip })
    }

    /// Returns the snapshot in which that transaction has not ended: of its own transaction, a snapshot does not say so.
    pub fn with_running(mut self, transaction: u64) -> Self {
        if transaction >= self.xmax {
            return self;
        }
        self.xmin = self.xmin.min(transaction);
        self.xip.insert(transaction);
        self
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:", self.xmin, self.xmax)?;
        for (index, id) in self.xip.iter().enumerate() {
            write!(f, "{}{id}", if index == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

/// Whether the database's history contains `place`: all that a run saw, which read that place, is in the database. `here`: the place that
/// the server is at. `history`: the content of the history file of its timeline; none for the first timeline.
pub fn history_contains(history: &str, here: &WalPlace, place: &WalPlace) -> bool {
    let (Some(position), Some(at)) = (parse_lsn(&place.lsn), parse_lsn(&here.lsn)) else { return false };
    if place.cluster != here.cluster || place.database != here.database || position > at {
        return false;
    }
    if place.timeline == here.timeline {
        return true;
    }
    // Each line names a timeline, where the next one left it, and why.
    history.lines().any(|line| {
        let mut fields = line.split_whitespace();
        let timeline = fields.next().and_then(|id| id.parse().ok());
        let left_at = fields.next().and_then(parse_lsn);
        timeline == Some(place.timeline) && left_at.is_some_and(|left_at| position <= left_at)
    })
}

fn parse_lsn(text: &str) -> Option<u64> {
    let (high, low) = text.split_once('/')?;
    Some(u64::from(u32::from_str_radix(high, 16).ok()?) << 32 | u64::from(u32::from_str_radix(low, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_read_back_as_postgres_prints_them() {
        for text in ["1:1:", "10:20:10,14,15", "7:7:", "4611686018427387903:4611686018427387904:"] {
            assert_eq!(Snapshot::parse(text).unwrap().to_string(), text);
        }
        for text in ["", "1", "1:2", "0:1:", "3:2:", "1:2:2", "5:9:4", "1:5:x", "a:b:"] {
            assert_eq!(Snapshot::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_transaction_of_ones_own_has_not_ended_in_its_snapshot() {
        let running = |text: &str, id| Snapshot::parse(text).unwrap().with_running(id).to_string();
        assert_eq!(running("10:20:", 15), "10:20:15");
        assert_eq!(running("10:20:12", 10), "10:20:10,12");
        assert_eq!(running("10:20:12", 8), "8:20:8,12");
        // Whoever is not below xmax is not seen anyway.
        assert_eq!(running("10:20:", 20), "10:20:");
    }

    #[test]
    fn a_history_contains_what_came_before_each_switch() {
        let place =
            |timeline, lsn: &str| WalPlace { cluster: "1".into(), database: 5, timeline, lsn: lsn.into(), transaction: 7 };
        let history = "1\t0/5000000\tno recovery target specified\n\n2\t0/7000000\tno recovery target specified\n";
        let here = place(3, "0/9000000");
        for (timeline, lsn, is_in) in [
            (1, "0/4FFFFFF", true),
            (1, "0/5000001", false),
            (2, "0/7000000", true),
            (2, "0/7000001", false),
            (3, "0/8000000", true),
            (3, "0/9000001", false),
            (3, "1/0", false),
            (4, "0/1", false),
            (3, "nonsense", false),
        ] {
            assert_eq!(history_contains(history, &here, &place(timeline, lsn)), is_in, "{timeline} {lsn}");
        }
        let elsewhere = WalPlace { cluster: "2".into(), ..place(3, "0/1") };
        assert!(!history_contains(history, &here, &elsewhere));
        let restored = WalPlace { database: 6, ..place(3, "0/1") };
        assert!(!history_contains(history, &here, &restored));
    }

    #[test]
    fn names_of_feeds_fit_into_names_of_manifests() {
        for name in ["orders", "a.b-c_D9", &"x".repeat(63)] {
            check_name(name).unwrap();
        }
        for name in ["", "a/b", "-a", "_a", "é", "a b", &"x".repeat(64)] {
            assert_eq!(check_name(name).unwrap_err().code(), Code::InvalidParameter, "{name}");
        }
        assert_eq!(run_key("orders", 7), "orders-0000000007");
        assert_eq!(Kind::parse("lsn").unwrap_err().code(), Code::InvalidParameter);
    }
}
