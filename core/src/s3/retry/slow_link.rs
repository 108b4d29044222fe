//! Tests of uploads over a link that is slow: they share it, and end.

use std::cell::Cell;
use std::rc::Rc;

use super::tests::{POLICY, paused};
use super::*;
use crate::s3::body::Meter;
use crate::s3::throttle::Throttle;

/// A link that takes so many frames a second, shared by the uploads under way.
#[derive(Clone)]
struct Link {
    frame_time: Duration,
    under_way: Rc<Cell<u32>>,
    sent: Rc<Cell<u32>>,
}

impl Link {
    fn new(frames_per_second: u32) -> Self {
        let frame_time = Duration::from_secs(1) / frames_per_second;
        Link { frame_time, under_way: Rc::default(), sent: Rc::default() }
    }

    async fn send(self, frames: u32, meter: Meter) -> Result<(), Failure> {
        struct UnderWay(Link);
        impl Drop for UnderWay {
            fn drop(&mut self) {
                self.0.under_way.set(self.0.under_way.get() - 1);
            }
        }
        self.under_way.set(self.under_way.get() + 1);
        let link = UnderWay(self);
        // Buffers on the way take the first frame at once.
        meter.moved();
        for _ in 0..frames {
            tokio::time::sleep(link.0.frame_time * link.0.under_way.get()).await;
            link.0.sent.set(link.0.sent.get() + 1);
            meter.moved();
        }
        Ok(())
    }
}

/// Runs that number of uploads with that number of frames each. Returns the outcomes, the time, and the frames that the link has carried.
fn share(link: &Link, uploads: usize, frames: u32) -> (Vec<Result<(), Failure>>, Duration, u32) {
    let throttle = Throttle::new(160);
    let outcomes = tokio::task::LocalSet::new();
    let ended = paused(outcomes.run_until(async {
        let start = Instant::now();
        let tasks: Vec<_> = (0..uploads)
            .map(|_| {
                let (link, mut pace, throttle) = (link.clone(), Pace::new(&throttle, None), throttle.clone());
                tokio::task::spawn_local(async move {
                    let meter = pace.meter();
                    let slow = |end| Failure {
                        transient: !matches!(end, Unanswered::TooSlow(_)),
                        ..Failure::unanswered("send", "here", Duration::ZERO)
                    };
                    let sent = retry_at_pace(POLICY, Some(&mut pace), slow, || link.clone().send(frames, meter.clone()));
                    sent.await.inspect(|()| throttle.succeeded())
                })
            })
            .collect();
        let mut ended = Vec::new();
        for task in tasks {
            ended.push(task.await.unwrap());
        }
        (ended, start.elapsed())
    }));
    (ended.0, ended.1, link.sent.get())
}

#[test]
fn uploads_over_a_slow_link_end_without_sending_much_twice() {
    // 128 of 1 MB in frames of 64 kB: at 1 MB/s, and down to 16 kB/s, where an attempt has time for two of them.
    for frames_per_second in [16, 4, 1] {
        let (outcomes, time, sent) = share(&Link::new(frames_per_second), 128, 16);
        assert!(outcomes.iter().all(Result::is_ok), "{frames_per_second}");
        let least = 128 * 16;
        assert!(sent < least * 2, "{frames_per_second}: {sent} of {least} frames");
        assert!(time < Duration::from_secs(u64::from(2 * least / frames_per_second)), "{frames_per_second}: {time:?}");
    }
}

#[test]
fn an_upload_alone_has_its_time_and_no_more_over_a_link_that_is_too_slow() {
    let (outcomes, time, _) = share(&Link::new(1), 1, 200);
    assert!(outcomes[0].is_ok(), "{outcomes:?}");
    assert!(time > POLICY.attempt());
    let (outcomes, time, _) = share(&Link::new(1), 1, 400);
    assert!(outcomes[0].is_err());
    assert!(time >= POLICY.total && time < POLICY.total + Duration::from_secs(1), "{time:?}");
}
