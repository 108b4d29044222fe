//! Stores that ask for less, go away, are slow or are not there: how long an export bears it, and what it says then.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use s3_export_core::error::Code;
use s3_export_core::s3::call::Call;
use s3_export_core::s3::network::{Network, Trust};
use s3_export_core::s3::retry::RetryPolicy;
use s3_export_core::s3::{Bucket, RetryPolicies, Throttle};

use super::export::{Export, POLICY, Terms, terms};
use super::scripted::{Reply, Server};

#[test]
fn the_first_error_of_an_upload_is_told_however_full_the_buffer_is() {
    let refusal = "<Error><Code>AccessDenied</Code><Message>enough</Message></Error>";
    for round in 0..50 {
        let server = Server::start(move |request| match request.number {
            150 => Reply::Answer("HTTP/1.1 403 Forbidden\r\nx-amz-request-id: R7", refusal),
            _ => {
                thread::sleep(Duration::from_millis(5));
                Reply::Usual
            }
        });
        let export = Export::begin(server.connection(), Terms { budget: 300, ..terms(32, POLICY) });
        let error = export.files(3_200, &Bytes::from_static(b"{}\n")).unwrap_err();
        assert_eq!(error.code(), Code::Privilege, "round {round}: {error:?}");
        assert!(error.summary().contains("AccessDenied (enough)"), "round {round}: {error:?}");
        assert!(error.summary().contains("request id R7"), "round {round}: {error:?}");
        // Whoever asks again is told the same.
        for again in
            [export.upload.has_room(1, 1).map(drop), export.upload.is_stored().map(drop), export.file(9_999, Bytes::new())]
        {
            assert_eq!(again.unwrap_err(), error, "round {round}");
        }
        // A piece finds a receiver until the outcome can be told, and the outcome after that.
        let late = loop {
            match export.file_in_pieces(9_999, 1) {
                Ok(()) => thread::yield_now(),
                Err(late) => break late,
            }
        };
        assert_eq!(late, error, "round {round}");
    }
}

#[test]
fn a_store_that_asks_for_less_is_not_left_after_a_few_attempts() {
    // 200 requests a second, and no more.
    let next = Mutex::new(Instant::now());
    let server = Server::start(move |_| {
        let mut next = next.lock().unwrap();
        if *next > Instant::now() + Duration::from_millis(50) {
            return Reply::Answer("HTTP/1.1 503 Slow Down", "<Error><Code>SlowDown</Code></Error>");
        }
        *next = (*next).max(Instant::now()) + Duration::from_millis(5);
        Reply::Usual
    });
    let export = Export::begin(server.connection(), terms(64, RetryPolicy { attempts: 2, ..POLICY }));
    export.files(300, &Bytes::from_static(b"{}\n")).unwrap();
    assert!(server.requests().len() > 300, "the store never asked for less");
}

/// A store that is away for a second and a half, once it has stored two files; `None`: its connections break.
fn outlives_an_outage(status: Option<&'static str>) {
    let start = OnceLock::new();
    let server = Server::start(move |request| {
        let start: &Instant = start.get_or_init(Instant::now);
        match status {
            _ if request.number <= 2 || start.elapsed() > Duration::from_millis(1_500) => Reply::Usual,
            None => Reply::Break,
            Some(status) => Reply::Answer(status, ""),
        }
    });
    // One request at a time, so that the store has answered before it goes away.
    let export = Export::begin(server.connection(), terms(1, RetryPolicy { attempts: 2, ..POLICY }));
    export.files(8, &Bytes::from_static(b"{}\n")).unwrap();
    assert!(server.requests().len() > 8, "there was no outage: {status:?}");
}

#[test]
fn an_outage_of_a_store_that_has_answered_is_outlived() {
    thread::scope(|scope| {
        for status in [
            None,
            Some("HTTP/1.1 429 Too Many Requests"),
            Some("HTTP/1.1 500 Internal Server Error\r\nretry-after: 1"),
            Some("HTTP/1.1 502 Bad Gateway"),
            Some("HTTP/1.1 504 Gateway Timeout"),
        ] {
            scope.spawn(move || outlives_an_outage(status));
        }
    });
}

#[test]
fn a_wrong_endpoint_is_told_soon() {
    let server = Server::start(|_| Reply::Break);
    let export = Export::begin(server.connection(), terms(1, RetryPolicy { attempts: 2, ..POLICY }));
    let error = export.files(1, &Bytes::from_static(b"{}\n")).unwrap_err();
    assert_eq!((error.code(), server.requests().len()), (Code::Connection, 2), "{error:?}");
    // A gateway's word is none of the store behind it.
    let server = Server::start(|_| Reply::Answer("HTTP/1.1 502 Bad Gateway", ""));
    let export = Export::begin(server.connection(), terms(1, RetryPolicy { attempts: 2, ..POLICY }));
    export.files(1, &Bytes::from_static(b"{}\n")).unwrap_err();
    assert_eq!(server.requests().len(), 2);
}

/// More than what goes through a template, and more than the buffers of the kernel take.
fn large() -> Bytes {
    Bytes::from(vec![b'x'; 8 << 20])
}

#[test]
fn an_upload_that_has_to_wait_for_the_network_goes_on() {
    // Longer than the SDK's own protection against streams that stall bears: a period of grace of 20 s.
    let server = Server::slow(Duration::from_secs(25), |_| Reply::Usual);
    let export = Export::begin(server.connection(), terms(2, RetryPolicy { attempts: 1, total: Duration::from_secs(300) }));
    export.files(2, &large()).unwrap();
    assert_eq!(server.requests().len(), 2, "each body was sent once");
}

#[test]
fn a_store_that_takes_nothing_is_given_up_and_the_error_says_so() {
    let server = Server::slow(Duration::from_secs(600), |_| Reply::Usual);
    let export = Export::begin(server.connection(), terms(1, RetryPolicy { attempts: 1, total: Duration::from_secs(3) }));
    let error = export.files(1, &large()).unwrap_err();
    assert_eq!(error.code(), Code::Connection, "{error:?}");
    assert!(error.summary().contains("no answer within 1.0 s"), "{error:?}");
}

#[test]
fn a_multipart_upload_whose_beginning_is_tried_again_holds_up_no_other_file() {
    let (asked, others) = (Arc::new(AtomicUsize::new(0)), AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let server = Server::start(move |request| match () {
        // SlowDown leaves one permit, which the other file needs.
        () if request.is("POST", "?uploads") && others.load(Ordering::Relaxed) == 0 => {
            counter.fetch_add(1, Ordering::Relaxed);
            Reply::Answer("HTTP/1.1 503 Slow Down", "<Error><Code>SlowDown</Code></Error>")
        }
        () if request.is("PUT", "-000002.json") => {
            others.fetch_add(1, Ordering::Relaxed);
            Reply::Usual
        }
        () => Reply::Usual,
    });
    let export = Export::begin(server.connection(), terms(2, RetryPolicy { attempts: 2, total: Duration::from_secs(10) }));
    export.file_in_pieces(1, 2).unwrap();
    while asked.load(Ordering::Relaxed) < 2 {
        thread::sleep(Duration::from_millis(1));
    }
    export.file(2, Bytes::from_static(b"{}\n")).unwrap();
    export.stored().unwrap();
}

/// An upload over a slow link is cut off in favour of others. `is_whole`: the network has taken all of its body by then.
async fn cut_off(is_whole: bool) -> bool {
    let server = Server::start(|_| Reply::Usual);
    let throttle = Throttle::new(2);
    let store = server.store(&Arc::new(Network::new(Trust::System))).await;
    let bucket = Bucket::new(store, "bucket", RetryPolicies::all(POLICY), Arc::clone(&throttle));
    let other = throttle.permit().await;
    tokio::spawn(async move {
        tokio::time::sleep(POLICY.total / 2).await;
        drop(other);
    });
    let (call, attempts) = (Call::new(POLICY, "send", "here".to_owned()), AtomicUsize::new(0));
    let mut pace = bucket.pace(None);
    let meter = pace.meter();
    let sent = bucket.upload(&mut pace, &call, || async {
        if attempts.fetch_add(1, Ordering::Relaxed) > 0 {
            return Ok(());
        }
        loop {
            if is_whole {
                meter.ended()
            } else {
                meter.moved()
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    sent.await.unwrap();
    assert_eq!(attempts.load(Ordering::Relaxed), 2);
    call.answer_lost()
}

#[test]
fn an_upload_that_is_cut_off_within_its_body_has_made_no_object() {
    let paused = || tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    assert!(!paused().block_on(cut_off(false)));
    assert!(paused().block_on(cut_off(true)));
}
