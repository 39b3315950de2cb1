//! The extended protocol: prepared statements, values, portals.

use std::sync::Arc;

use arrow::datatypes::DataType;
use bytes::Bytes;
use tarn_model::Error;

use super::{Bound, Connection, MAX_PORTALS, MAX_STATEMENT_BYTES, MAX_STATEMENTS, Outcome, Prepared};
use crate::engine::Outline;
use crate::postgres::command::Command;
use crate::postgres::decode;
use crate::postgres::encode::format_of;
use crate::postgres::portal::{Portal, Running, State};
use crate::postgres::types::{ColumnKind, columns, parameter_type};
use crate::statement::Statement;

impl Connection {
    pub(super) fn parse(&mut self, name: String, sql: String, oids: Vec<u32>) -> Outcome<()> {
        let command = Command::parse(&sql)?;
        self.check_transaction(&command)?;
        if let Command::Query { sql, .. } | Command::Copy { sql, .. } | Command::Declare { sql, .. } =
            &command
        {
            Statement::parse(sql, Some(&self.visitor()), &[])?;
        }
        if !name.is_empty() && self.statements.contains_key(&name) {
            let error = Error::invalid(format!("there is a prepared statement `{name}` already"));
            return Err(error.with_sqlstate("42P05").into());
        }
        let bytes: usize = self.statements.values().map(|statement| statement.sql.len()).sum();
        if self.statements.len() >= MAX_STATEMENTS || bytes + sql.len() > MAX_STATEMENT_BYTES {
            return Err(Error::invalid("the connection has too many prepared statements")
                .with_sqlstate("53400")
                .with_hint("close those that are not needed: DEALLOCATE")
                .into());
        }
        self.statements.insert(name, Prepared { sql, command, oids, outline: None });
        self.replies.parsed();
        Ok(())
    }

    fn prepared(&self, name: &str) -> Outcome<&Prepared> {
        let statement = self.statements.get(name);
        statement.ok_or_else(|| {
            Error::invalid(format!("there is no prepared statement `{name}`")).with_sqlstate("26000").into()
        })
    }

    /// What a prepared statement takes and gives; `None` where it is not the engine's.
    async fn outline(&mut self, name: &str) -> Outcome<Option<Arc<Outline>>> {
        let prepared = self.prepared(name)?;
        if let Some(outline) = &prepared.outline {
            return Ok(Some(Arc::clone(outline)));
        }
        let (Command::Query { sql, .. } | Command::Copy { sql, .. } | Command::Declare { sql, .. }) =
            &prepared.command
        else {
            return Ok(None);
        };
        let known = prepared.oids.iter().map(|oid| parameter_type(*oid)).collect();
        let request = self.request(sql.clone(), Vec::new());
        let outline = Arc::new(self.shared.engine.outline(request, known).await?);
        if let Some(prepared) = self.statements.get_mut(name) {
            prepared.outline = Some(Arc::clone(&outline));
        }
        Ok(Some(outline))
    }

    pub(super) async fn bind(
        &mut self,
        portal: String,
        statement: &str,
        formats: &[i16],
        values: &[Option<Bytes>],
        results: Vec<i16>,
        sql: &mut String,
    ) -> Outcome<()> {
        let prepared = self.prepared(statement)?;
        sql.clone_from(&prepared.sql);
        let mut types: Vec<Option<DataType>> = prepared.oids.iter().map(|oid| parameter_type(*oid)).collect();
        let must_ask = values.len() > types.len() || types.iter().any(Option::is_none);
        if must_ask && let Some(outline) = self.outline(statement).await? {
            types = outline.params.iter().cloned().map(Some).collect();
        }
        let prepared = self.prepared(statement)?;
        if values.len() != types.len() {
            return Err(Error::invalid(format!(
                "the statement has {} parameters, and {} values were bound",
                types.len(),
                values.len()
            ))
            .with_sqlstate("08P01")
            .into());
        }
        let mut params = Vec::with_capacity(values.len());
        for (at, (value, data_type)) in values.iter().zip(&types).enumerate() {
            let oid = prepared.oids.get(at).copied().unwrap_or(0);
            let data_type = data_type.clone().unwrap_or(DataType::Utf8);
            params.push(decode::value(at + 1, oid, &data_type, format_of(formats, at), value.as_deref())?);
        }
        let bound = Bound { command: prepared.command.clone(), params, outline: prepared.outline.clone() };
        let replaces = self.portals.contains_key(&portal);
        if replaces && !portal.is_empty() {
            return Err(Error::invalid(format!("there is a portal `{portal}` already"))
                .with_sqlstate("42P03")
                .into());
        }
        self.keep(portal, Portal { state: State::Bound(bound), formats: results, sql: sql.clone() })?;
        self.replies.bound();
        Ok(())
    }

    pub(super) fn keep(&mut self, name: String, portal: Portal) -> Outcome<()> {
        if self.portals.len() >= MAX_PORTALS && !self.portals.contains_key(&name) {
            return Err(Error::invalid(format!("the connection has {MAX_PORTALS} open portals already"))
                .with_sqlstate("53400")
                .with_hint("close cursors that are not read any more")
                .into());
        }
        self.portals.insert(name, portal);
        Ok(())
    }

    pub(super) async fn describe_statement(&mut self, name: &str, sql: &mut String) -> Outcome<()> {
        let prepared = self.prepared(name)?;
        sql.clone_from(&prepared.sql);
        let (command, oids) = (prepared.command.clone(), prepared.oids.clone());
        let outline = self.outline(name).await?;
        let params = outline.as_ref().map(|outline| outline.params.as_slice()).unwrap_or_default();
        let told = |(at, data_type): (usize, &DataType)| match oids.get(at) {
            Some(oid) if *oid != 0 => *oid,
            _ => ColumnKind::of(data_type).oid(),
        };
        let types: Vec<u32> = params.iter().enumerate().map(told).collect();
        self.replies.parameters(&types);
        match (&command, outline) {
            (Command::Query { .. }, Some(outline)) => self.replies.columns(&columns(&outline.schema), |_| 0),
            (Command::Show(name), _) => {
                let running = Running::of_texts(&[name], vec![Vec::new()], "SHOW");
                self.replies.columns(&running.columns, |_| 0);
            }
            (Command::ShowAll, _) => {
                let running = Running::of_texts(&["name", "setting"], vec![Vec::new(), Vec::new()], "SHOW");
                self.replies.columns(&running.columns, |_| 0);
            }
            _ => self.replies.no_rows(),
        }
        Ok(())
    }

    pub(super) async fn describe_portal(&mut self, name: &str, sql: &mut String) -> Outcome<()> {
        let mut portal = self.take_portal(name)?;
        sql.clone_from(&portal.sql);
        let is_a_copy = matches!(&portal.state, State::Bound(Bound { command: Command::Copy { .. }, .. }));
        let gives_rows = matches!(
            &portal.state,
            State::Bound(Bound {
                command: Command::Query { .. } | Command::Show(_) | Command::ShowAll | Command::Fetch { .. },
                ..
            })
        );
        if gives_rows {
            self.enter(&mut portal).await?;
        }
        let formats = &portal.formats;
        match &portal.state {
            State::Running(running) if !is_a_copy => {
                self.replies.columns(&running.columns, |at| format_of(formats, at));
            }
            State::Done { columns, .. } if !columns.is_empty() => {
                self.replies.columns(columns, |at| format_of(formats, at));
            }
            _ => self.replies.no_rows(),
        }
        self.portals.insert(name.to_owned(), portal);
        Ok(())
    }

    pub(super) async fn execute(&mut self, name: &str, most: u64, sql: &mut String) -> Outcome<()> {
        let mut portal = self.take_portal(name)?;
        sql.clone_from(&portal.sql);
        if let State::Bound(bound) = &portal.state {
            self.check_transaction(&bound.command)?;
        }
        self.enter(&mut portal).await?;
        self.read(&mut portal, most).await?;
        self.portals.insert(name.to_owned(), portal);
        Ok(())
    }

    /// A portal that comes back only if nothing goes wrong with it.
    fn take_portal(&mut self, name: &str) -> Outcome<Portal> {
        self.portals.remove(name).ok_or_else(|| {
            Error::invalid(format!("there is no portal `{name}`")).with_sqlstate("34000").into()
        })
    }
}
