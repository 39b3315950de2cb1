//! Commands that change a session and nothing else.

use tarn_model::{Error, Result};

use super::Connection;
use crate::postgres::command::Command;
use crate::postgres::reply::Transaction;
use crate::postgres::settings::Settings;

impl Connection {
    /// Does what is about the session; the word for what was done.
    pub(super) fn about_the_session(&mut self, command: Command) -> Result<&'static str> {
        match command {
            Command::Begin => {
                if self.transaction == Transaction::None {
                    self.transaction = Transaction::Open;
                    let level = self.settings.get("default_transaction_isolation")?.to_owned();
                    self.settings.set("transaction_isolation", Some(&level))?;
                } else {
                    self.replies.notice("25001", "there is already a transaction in progress");
                }
                Ok("BEGIN")
            }
            Command::End { commit } => {
                let failed = self.transaction == Transaction::Failed;
                self.transaction = Transaction::None;
                self.seen = None;
                Ok(if commit && !failed { "COMMIT" } else { "ROLLBACK" })
            }
            Command::Savepoint(tag) => {
                if self.transaction == Transaction::Failed {
                    self.transaction = Transaction::Open;
                }
                Ok(tag)
            }
            Command::Set { name, value } => {
                if let Some((name, value)) = self.settings.set(&name, value.as_deref())? {
                    self.replies.setting(name, &value);
                }
                Ok(if value.is_some() { "SET" } else { "RESET" })
            }
            Command::ResetAll => {
                self.settings = Settings::new(&self.user);
                Ok("RESET")
            }
            Command::Discard => {
                self.settings = Settings::new(&self.user);
                self.statements.clear();
                self.portals.clear();
                Ok("DISCARD ALL")
            }
            Command::Deallocate(name) => {
                match name {
                    None => self.statements.clear(),
                    Some(name) if self.statements.remove(&name).is_none() => {
                        return Err(Error::invalid(format!("there is no prepared statement `{name}`"))
                            .with_sqlstate("26000"));
                    }
                    Some(_) => {}
                }
                Ok("DEALLOCATE")
            }
            Command::CloseCursor(name) => {
                match name {
                    None => self.portals.clear(),
                    Some(name) if self.portals.remove(&name).is_none() => {
                        return Err(
                            Error::invalid(format!("there is no cursor `{name}`")).with_sqlstate("34000")
                        );
                    }
                    Some(_) => {}
                }
                Ok("CLOSE CURSOR")
            }
            Command::Nothing(tag) => Ok(tag),
            _ => Ok(""),
        }
    }
}
