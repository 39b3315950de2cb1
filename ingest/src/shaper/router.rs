//! Which topics a record goes to.

use regex::Regex;
use tarn_model::config::RouteConfig;
use tarn_model::{Error, Result};

use super::{Identity, Place};
use crate::fields::Fields;

/// Keeps the samples of routes apart from those of interceptors.
const SALT: u64 = 1 << 32;

/// The routes of a source, in their order.
#[derive(Debug)]
pub(super) struct Router {
    routes: Vec<Route>,
    /// Names of the topics, each once.
    topics: Vec<String>,
}

#[derive(Debug)]
struct Route {
    /// Bit of its topic; the source's own is bit 0.
    bit: u32,
    by: By,
    test: Test,
    sample: f64,
    copy: bool,
}

#[derive(Debug)]
enum By {
    Nothing,
    Field(String),
    Header(String),
}

#[derive(Debug)]
enum Test {
    Any,
    Values(Vec<String>),
    Fits(Regex),
}

impl Test {
    fn takes(&self, text: Option<&str>) -> bool {
        match (self, text) {
            (Test::Any, _) => true,
            (Test::Values(values), Some(text)) => values.iter().any(|value| value == text),
            (Test::Fits(regex), Some(text)) => regex.is_match(text),
            (_, None) => false,
        }
    }
}

impl Router {
    pub(super) fn new(routes: &[RouteConfig]) -> Result<Router> {
        let mut topics: Vec<String> = Vec::new();
        let routes = routes.iter().map(|route| {
            let at = topics.iter().position(|topic| *topic == route.topic).unwrap_or_else(|| {
                topics.push(route.topic.clone());
                topics.len() - 1
            });
            let by = match (&route.field, &route.header) {
                (Some(field), _) => By::Field(field.clone()),
                (None, Some(header)) => By::Header(header.clone()),
                (None, None) => By::Nothing,
            };
            let test = match (&by, &route.regex) {
                (By::Nothing, _) => Test::Any,
                (_, Some(regex)) => Test::Fits(Regex::new(regex).map_err(|error| {
                    Error::invalid("a route has no regular expression").with_source(error)
                })?),
                (_, None) => Test::Values(route.values.clone()),
            };
            let bit = u32::try_from(at + 1).ok().filter(|bit| *bit < u64::BITS);
            let bit = bit.ok_or_else(|| Error::invalid("there are too many routes"))?;
            Ok(Route { bit, by, test, sample: route.sample, copy: route.copy })
        });
        let routes = routes.collect::<Result<Vec<_>>>()?;
        Ok(Router { routes, topics })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    pub(super) fn topics(&self) -> impl Iterator<Item = &str> {
        self.topics.iter().map(String::as_str)
    }

    pub(super) fn needs_fields(&self) -> bool {
        self.routes.iter().any(|route| matches!(route.by, By::Field(_)))
    }

    /// The topics as bits: 0 is the source's own, the others are those of [`Router::topics`] in their order. A topic is
    /// chosen once, however many routes lead there.
    pub(super) fn choose(&self, fields: &Fields, place: &Place<'_>, identity: &Identity<'_>) -> u64 {
        let mut chosen = 0;
        for (i, route) in self.routes.iter().enumerate() {
            let takes = match &route.by {
                By::Nothing => true,
                By::Field(name) => route.test.takes(fields.get(name)),
                By::Header(name) => route.test.takes(place.says(name).as_deref()),
            };
            if !takes || (route.sample < 1.0 && !identity.is_in(route.sample, SALT + i as u64)) {
                continue;
            }
            chosen |= 1 << route.bit;
            if !route.copy {
                return chosen;
            }
        }
        chosen | 1
    }
}
