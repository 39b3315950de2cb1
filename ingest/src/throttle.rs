//! How fast a source may be: records and bytes a second.
//!
//! *Why* on credit: a record, an append and a pushed body are taken whole, whatever they weigh. What is taken is charged, and
//! while a source owes something it takes nothing more. So nothing is ever too large to be taken, and over a longer time the rate
//! is kept exactly: in any `t` seconds at most `rate · (t + 1)`, and what was taken last.
//!
//! *Layout*: an account for each limit, in units times nanoseconds: it grows by `rate` each nanosecond, up to what a second
//! gives. Whole numbers, so nothing is lost to rounding.
//!
//! | who | while something is owed |
//! |---|---|
//! | sources that read (files, databases, a generator) | wait before the first record of an append ([`crate::appender`]) |
//! | sources that listen, commands | take nothing from their senders, whose buffers fill up: they wait, datagrams are dropped |
//! | `mqtt` | acknowledges nothing new, and stays connected |
//! | `http` | 429 with `Retry-After` |
//!
//! *Not here*: progress. A restart begins with a full account.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tarn_model::config::RateLimitConfig;

const NANOS: i128 = 1_000_000_000;

/// The limits of one source.
#[derive(Debug)]
pub(crate) struct Throttle {
    since: Instant,
    accounts: Mutex<Accounts>,
}

/// What is owed, or left, of each limit.
#[derive(Debug)]
struct Accounts {
    records: Option<Account>,
    bytes: Option<Account>,
    /// The moment up to which the accounts have grown.
    seen: Duration,
}

#[derive(Debug)]
struct Account {
    per_second: i128,
    /// Units times nanoseconds; less than nothing is owed.
    balance: i128,
}

impl Account {
    /// A full one.
    fn new(per_second: u64) -> Account {
        let per_second = i128::from(per_second.max(1));
        Account { per_second, balance: per_second * NANOS }
    }

    fn grow(&mut self, nanos: i128) {
        let full = self.per_second * NANOS;
        self.balance = self.per_second.saturating_mul(nanos).saturating_add(self.balance).min(full);
    }

    fn change(&mut self, units: i128) {
        self.balance = self.balance.saturating_add(units.saturating_mul(NANOS));
    }

    /// Until nothing is owed.
    fn debt(&self) -> Duration {
        let owed = (-self.balance).max(0);
        let nanos = owed / self.per_second + i128::from(owed % self.per_second > 0);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

impl Accounts {
    fn grow(&mut self, now: Duration) {
        let nanos = i128::try_from(now.saturating_sub(self.seen).as_nanos()).unwrap_or(i128::MAX);
        self.seen = self.seen.max(now);
        [&mut self.records, &mut self.bytes].into_iter().flatten().for_each(|account| account.grow(nanos));
    }

    fn change(&mut self, records: i128, bytes: i128) {
        for (account, units) in [(&mut self.records, records), (&mut self.bytes, bytes)] {
            if let Some(account) = account {
                account.change(units);
            }
        }
    }

    fn debt(&self) -> Duration {
        [&self.records, &self.bytes].into_iter().flatten().map(Account::debt).max().unwrap_or_default()
    }

    fn take(&mut self, now: Duration, records: u64, bytes: u64) -> Duration {
        self.grow(now);
        self.change(-i128::from(records), -i128::from(bytes));
        self.debt()
    }

    fn try_take(&mut self, now: Duration, records: u64, bytes: u64) -> Result<(), Duration> {
        self.grow(now);
        match self.debt() {
            Duration::ZERO => {
                self.change(-i128::from(records), -i128::from(bytes));
                Ok(())
            }
            debt => Err(debt),
        }
    }
}

impl Throttle {
    pub(crate) fn new(config: &RateLimitConfig) -> Throttle {
        let accounts = Accounts {
            records: config.records_per_second.map(Account::new),
            bytes: config.bytes_per_second.map(|size| Account::new(size.0)),
            seen: Duration::ZERO,
        };
        Throttle { since: Instant::now(), accounts: Mutex::new(accounts) }
    }

    /// Charges what was taken; how long that is owed.
    pub(crate) fn take(&self, records: u64, bytes: u64) -> Duration {
        self.accounts.lock().take(self.since.elapsed(), records, bytes)
    }

    /// Charges it if nothing is owed; otherwise the time until then.
    pub(crate) fn try_take(&self, records: u64, bytes: u64) -> Result<(), Duration> {
        self.accounts.lock().try_take(self.since.elapsed(), records, bytes)
    }

    /// Takes a charge back: nothing came of it.
    pub(crate) fn give_back(&self, records: u64, bytes: u64) {
        self.accounts.lock().change(records.into(), bytes.into());
    }

    /// How long something is owed from now on.
    pub(crate) fn debt(&self) -> Duration {
        self.take(0, 0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn accounts(records: Option<u64>, bytes: Option<u64>) -> Accounts {
        Accounts { records: records.map(Account::new), bytes: bytes.map(Account::new), seen: Duration::ZERO }
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_second_is_there_at_once_and_the_rest_is_owed() {
        let mut accounts = accounts(Some(10), Some(1000));
        assert_eq!(accounts.take(Duration::ZERO, 10, 10), Duration::ZERO);
        assert_eq!(accounts.take(Duration::ZERO, 5, 0), SECOND / 2);
        assert_eq!(accounts.try_take(SECOND / 4, 1, 0), Err(SECOND / 4));
        assert_eq!(accounts.try_take(SECOND / 2, 1, 0), Ok(()));
        // The limit that is further behind counts.
        assert_eq!(accounts.take(SECOND, 0, 11_000), SECOND * 10);
        // However long nothing is taken, a second is all that gathers.
        assert_eq!(accounts.take(SECOND * 3600, 20, 0), SECOND);
        assert_eq!(accounts.take(SECOND * 60, 0, 0), SECOND, "a clock that goes back changes nothing");
    }

    #[test]
    fn what_came_to_nothing_is_given_back() {
        let mut accounts = accounts(Some(1), None);
        assert_eq!(accounts.try_take(Duration::ZERO, 1_000_000, 7), Ok(()), "it is taken whole");
        assert_eq!(accounts.debt(), SECOND * 999_999);
        accounts.change(1_000_000, 7);
        assert_eq!(accounts.try_take(Duration::ZERO, 1, 7), Ok(()));
    }

    proptest! {
        /// Who waits for his debts takes at most `rate · (t + 1)` and one turn in `t` seconds, and not much less.
        #[test]
        fn the_rate_is_kept(
            rate in 1_u64..5_000_000,
            turns in prop::collection::vec((1_u64..2000, 0_u64..3_000_000_000), 1..200),
        ) {
            let mut accounts = accounts(Some(rate), None);
            let (mut now, mut taken, mut idle) = (Duration::ZERO, 0_u128, Duration::ZERO);
            for (units, pause) in turns {
                let bound = u128::from(rate) * (now.as_nanos() + 1_000_000_000) / 1_000_000_000;
                prop_assert!(taken <= bound + 1, "{taken} of {bound} before {now:?}");
                let debt = accounts.take(now, units, 0);
                taken += u128::from(units);
                let free = Duration::from_nanos(pause).saturating_sub(debt);
                idle += free;
                now += debt + free;
                prop_assert_eq!(accounts.take(now, 0, 0), Duration::ZERO);
            }
            // All of the time was either paid for or spent idle.
            let paid = (now - idle).as_nanos() * u128::from(rate) / 1_000_000_000;
            prop_assert!(paid <= taken, "{paid} was waited for, {taken} taken");
        }
    }
}
