//! How many requests a client may send: a bucket that fills again with time.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A number of requests per minute; as many at once after a minute of silence.
#[derive(Debug)]
pub(crate) struct Allowance {
    per_minute: f64,
    /// What is left, and when that was so.
    left: Mutex<(f64, Instant)>,
}

impl Allowance {
    pub(crate) fn new(per_minute: u32) -> Self {
        let per_minute = f64::from(per_minute);
        Allowance { per_minute, left: Mutex::new((per_minute, Instant::now())) }
    }

    /// Takes one request, or says how long to wait for it.
    pub(crate) fn take(&self) -> Result<(), Duration> {
        self.take_at(Instant::now())
    }

    fn take_at(&self, now: Instant) -> Result<(), Duration> {
        let per_second = self.per_minute / 60.0;
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let filled = left.0 + now.saturating_duration_since(left.1).as_secs_f64() * per_second;
        *left = (filled.min(self.per_minute), now);
        match left.0 >= 1.0 {
            true => {
                left.0 -= 1.0;
                Ok(())
            }
            false => Err(Duration::from_secs_f64((1.0 - left.0) / per_second)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_brings_what_a_minute_may_have() {
        let begin = Instant::now();
        let allowance = Allowance::new(3);
        let at = |seconds| allowance.take_at(begin + Duration::from_secs(seconds));
        assert!((0..3).all(|_| at(0).is_ok()));
        let wait = at(0).expect_err("spent").as_secs_f64();
        assert!((19.9..=20.0).contains(&wait), "{wait}");
        assert!(at(10).is_err());
        assert!(at(21).is_ok() && at(21).is_err());
        // silence does not add up beyond a minute's worth
        assert!((0..3).all(|_| at(1000).is_ok()) && at(1000).is_err());
    }
}
