//! New rows of databases that cannot tell who wrote a row: a run reads up to a bound below which nothing comes any more.
//!
//! *Why*: a transaction takes number 7, another one takes 8 and commits, a run reads up to 8, and then 7 commits, below what
//! was read for ever. The same goes for times.
//!
//! ```text
//! largest cursor is noted ──▶ `lag` ──▶ transactions under way that have written are noted ──▶ they have ended
//!                                                                          ──▶ snapshot: rows up to what was noted
//! ```
//!
//! Whoever took a smaller cursor took it before the largest was noted. It has either committed before the snapshot, or is seen
//! among the transactions and waited for, however long it takes; `lag` is for what a server shows late or not at all, such as a
//! time that a program took from its clock before it wrote. Where transactions cannot be seen, `lag` is all there is: a
//! transaction that is open for longer loses rows, and a warning says so.
//!
//! *Failure*: nothing is kept; a run that breaks off notes its bound anew.

use std::time::Duration;

use tarn_model::Result;
use tracing::{info, warn};

use super::row::Cursor;
use super::{NO_SUCH_TABLE, Rows, Selection, Until};
use crate::stop::Stop;

/// Time between two looks at the transactions. InnoDB's own list is renewed ten times a second.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Looks in a row at an old list after which transactions are held to be hidden.
const MOST_OLD_LOOKS: u32 = 20;

/// What a database says that cannot tell who wrote a row.
pub(super) trait Unsettled {
    /// The largest cursor of a table, committed by now.
    fn largest(&mut self, what: &Selection, column: &str) -> Result<Option<Cursor>>;

    /// Transactions under way that may have written.
    fn writers(&mut self) -> Result<Seen>;
}

/// A transaction that may have written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Writer {
    /// The session that it runs in, and when it began. A prepared transaction can lose its session.
    pub(super) session: String,
    /// Its number, which it has from its first row on.
    pub(super) number: Option<String>,
}

impl Writer {
    fn is(&self, other: &Writer) -> bool {
        self.session == other.session || self.number.is_some() && self.number == other.number
    }
}

/// What a look at the transactions saw.
pub(super) enum Seen {
    Writers(Vec<Writer>),
    /// A list from before the look.
    Old,
    /// Nothing: the user may not look, or others than those here are late.
    Hidden,
}

/// Up to where each of `selections` is read, once nothing comes below that any more; `None` when the source, or import, of this name is
/// to stop.
pub(super) fn settle(
    (name, stop): (&str, &Stop),
    database: &mut dyn Rows,
    selections: &[Selection],
    column: &str,
    lag: Duration,
    warned: &mut bool,
) -> Result<Option<Vec<Until>>> {
    let Some(unsettled) = database.unsettled() else {
        return Ok(Some(vec![Until::End; selections.len()]));
    };
    let mut bounds = Vec::with_capacity(selections.len());
    for what in selections {
        bounds.push(match unsettled.largest(what, column) {
            // Of a whole database, whoever reads it finds the same.
            Err(error) if error.sqlstate() == Some(NO_SUCH_TABLE) => Until::Nothing,
            largest => largest?.map_or(Until::Nothing, Until::Cursor),
        });
        if stop.is_set() {
            return Ok(None);
        }
    }
    stop.wait(lag);
    let mut waiting = Waiting::default();
    while !stop.is_set() {
        let is_first = waiting.left.is_none();
        match waiting.look(unsettled.writers()?) {
            Look::Ended => return Ok(Some(bounds)),
            Look::Hidden => {
                if !std::mem::replace(warned, true) {
                    warn!(
                        source = name,
                        lag_ms = lag.as_millis(),
                        "transactions cannot be seen: what stays open for longer than `lag` loses rows; grant PROCESS on the primary"
                    );
                }
                return Ok(Some(bounds));
            }
            Look::Wait => {
                if is_first && let Some(left) = &waiting.left {
                    info!(source = name, transactions = left.len(), "transactions are waited for");
                }
            }
        }
        stop.wait(LOOK_EVERY);
    }
    Ok(None)
}

/// The transactions that are waited for: those of the first look that every later one has seen.
#[derive(Debug, Default)]
struct Waiting {
    left: Option<Vec<Writer>>,
    /// Looks in a row at an old list.
    old: u32,
}

#[derive(Debug, PartialEq, Eq)]
enum Look {
    Ended,
    Hidden,
    Wait,
}

impl Waiting {
    fn look(&mut self, seen: Seen) -> Look {
        let now = match seen {
            Seen::Writers(now) => now,
            Seen::Old if self.old + 1 < MOST_OLD_LOOKS => {
                self.old += 1;
                return Look::Wait;
            }
            Seen::Old | Seen::Hidden => return Look::Hidden,
        };
        self.old = 0;
        let left = match self.left.take() {
            Some(before) => {
                before.iter().filter_map(|before| now.iter().find(|now| before.is(now)).cloned()).collect()
            }
            None => now,
        };
        let look = if left.is_empty() { Look::Ended } else { Look::Wait };
        self.left = Some(left);
        look
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `session`, or `session/number`.
    fn seen(names: &[&str]) -> Seen {
        let writer = |name: &&str| match name.split_once('/') {
            Some((session, number)) => Writer { session: session.into(), number: Some(number.into()) },
            None => Writer { session: (*name).into(), number: None },
        };
        Seen::Writers(names.iter().map(writer).collect())
    }

    #[test]
    fn those_of_the_first_look_are_waited_for_and_nobody_who_comes_later() {
        let mut waiting = Waiting::default();
        assert_eq!(waiting.look(seen(&["a/1", "b/2"])), Look::Wait);
        assert_eq!(waiting.look(seen(&["b/2", "c/3"])), Look::Wait);
        assert_eq!(waiting.look(Seen::Old), Look::Wait, "an old list says nothing");
        assert_eq!(waiting.look(seen(&["a/4", "c/3"])), Look::Ended, "`a` has another transaction by now");
        assert_eq!(Waiting::default().look(seen(&[])), Look::Ended);
    }

    #[test]
    fn a_transaction_that_gets_its_number_and_loses_its_session_is_the_same() {
        let mut waiting = Waiting::default();
        assert_eq!(waiting.look(seen(&["a"])), Look::Wait);
        assert_eq!(waiting.look(seen(&["a/7"])), Look::Wait);
        assert_eq!(waiting.look(seen(&["0/7", "0/8"])), Look::Wait);
        assert_eq!(waiting.look(seen(&["0/7"])), Look::Wait);
        assert_eq!(waiting.look(seen(&["other/8"])), Look::Ended);
    }

    #[test]
    fn transactions_that_cannot_be_seen_are_not_taken_for_none() {
        assert_eq!(Waiting::default().look(Seen::Hidden), Look::Hidden);
        let mut waiting = Waiting::default();
        for _ in 1..MOST_OLD_LOOKS {
            assert_eq!(waiting.look(Seen::Old), Look::Wait);
        }
        assert_eq!(waiting.look(Seen::Old), Look::Hidden);
    }
}
