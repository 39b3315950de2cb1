//! `postgres://USER:PASSWORD@HOST:PORT/DATABASE?sslmode=…`, `mysql://…`: where the server is, and who asks.
//!
//! *TLS*: `sslmode=disable` is without, `verify-full` checks the server's certificate and that it is this host's. Without
//! `sslmode` it is `verify-full`, but for this machine (loopback, a socket's folder), where it is `disable`. There is no mode
//! that encrypts and does not check: it keeps out nobody who can stand in between. `require` and `verify-ca` are therefore
//! `verify-full` too. `sslrootcert` names a file of certificates to trust instead of the system's.

use std::path::PathBuf;

use percent_encoding::percent_decode_str;
use tarn_model::config::{DatabaseConfig, Secret};
use tarn_model::{Error, Result};
use url::Url;

/// What speaks at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Speaks {
    Postgres,
    Mysql,
}

impl Speaks {
    fn port(self) -> u16 {
        match self {
            Speaks::Postgres => 5432,
            Speaks::Mysql => 3306,
        }
    }

    fn shape(self) -> &'static str {
        match self {
            Speaks::Postgres => {
                "write `postgres://USER@HOST/DATABASE`, and the password as `password = \"${PG_PASSWORD}\"`"
            }
            Speaks::Mysql => {
                "write `mysql://USER@HOST/DATABASE`, and the password as `password = \"${MYSQL_PASSWORD}\"`"
            }
        }
    }

    /// The parameter that names a socket: PostgreSQL's by its folder, MySQL's by its path.
    fn socket(self) -> &'static str {
        match self {
            Speaks::Postgres => "host",
            Speaks::Mysql => "socket",
        }
    }
}

/// A server, a database on it, and a role.
#[derive(Debug, Clone)]
pub(crate) struct Address {
    pub(super) host: Host,
    pub(super) user: String,
    pub(super) password: Option<Secret>,
    pub(super) database: String,
    pub(super) tls: Option<Tls>,
}

/// Where the server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Host {
    Tcp(String, u16),
    Unix(PathBuf),
}

/// How the server's certificate is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tls {
    /// Certificates to trust instead of the system's.
    pub(super) root: Option<PathBuf>,
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.host {
            Host::Tcp(host, port) => write!(f, "{host}:{port}/{}", self.database),
            Host::Unix(path) => write!(f, "{}/{}", path.display(), self.database),
        }
    }
}

impl Address {
    /// Reads `url` and `password`.
    pub(super) fn of(config: &DatabaseConfig, speaks: Speaks) -> Result<Address> {
        let wrong = |what: &str| Error::invalid(format!("`url` {what}")).with_hint(speaks.shape());
        // The parser's error may show the password.
        let url =
            Url::parse(config.url.reveal()).map_err(|error| wrong(&format!("is no address: {error}")))?;
        let decoded = |text: &str, what: &str| {
            let text = percent_decode_str(text).decode_utf8();
            text.map(String::from).map_err(|_| wrong(&format!("has a {what} that is no UTF-8")))
        };
        let user = decoded(url.username(), "role")?;
        if user.is_empty() {
            return Err(wrong("names no role"));
        }
        let mut host = decoded(url.host_str().unwrap_or_default(), "host")?;
        if let Some(inner) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            host = inner.to_owned();
        }
        let in_url = url.password().map(|password| decoded(password, "password")).transpose()?;
        let password = config.password.clone().or(in_url.map(Secret::new));
        let database = decoded(url.path().trim_start_matches('/'), "database")?;
        let port = url.port().unwrap_or(speaks.port());
        let (mut mode, mut root) = (None, None);
        for (key, value) in url.query_pairs() {
            match &*key {
                "sslmode" => mode = Some(value.into_owned()),
                "sslrootcert" => root = Some(PathBuf::from(&*value)),
                key if key == speaks.socket() => host = value.into_owned(),
                _ => {
                    return Err(Error::invalid(format!("`url` has the unknown parameter `{key}`"))
                        .with_hint(format!("known are `sslmode`, `sslrootcert` and `{}`", speaks.socket())));
                }
            }
        }
        if host.is_empty() {
            return Err(wrong("names no host"));
        }
        let host = match (host.starts_with('/'), speaks) {
            (true, Speaks::Postgres) => Host::Unix(PathBuf::from(host).join(format!(".s.PGSQL.{port}"))),
            (true, Speaks::Mysql) => Host::Unix(PathBuf::from(host)),
            (false, _) => Host::Tcp(host, port),
        };
        let tls = match (mode.as_deref(), &host) {
            (Some("disable"), _) | (_, Host::Unix(_)) => None,
            (Some("require" | "verify-ca" | "verify-full"), _) => Some(Tls { root }),
            (None, Host::Tcp(name, _)) if is_loopback(name) && root.is_none() => None,
            (None, _) => Some(Tls { root }),
            (Some(mode), _) => {
                return Err(Error::invalid(format!("`url` has the unknown `sslmode` `{mode}`"))
                    .with_hint("write `verify-full` or `disable`"));
            }
        };
        let database = match (database.is_empty(), speaks) {
            (true, Speaks::Postgres) => user.clone(),
            (true, Speaks::Mysql) => return Err(wrong("names no database")),
            (false, _) => database,
        };
        Ok(Address { host, user, password, database, tls })
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(url: &str) -> Result<Address> {
        let config = format!("url = \"{url}\"\ntable = \"t\"");
        let speaks = if url.starts_with("mysql") { Speaks::Mysql } else { Speaks::Postgres };
        Address::of(&toml::from_str(&config).unwrap(), speaks)
    }

    #[test]
    fn an_address_is_what_people_write() {
        let found = address("postgres://ada:p%40ss@db.example:5544/shop").unwrap();
        assert_eq!(found.host, Host::Tcp("db.example".into(), 5544));
        assert_eq!((found.user.as_str(), found.database.as_str()), ("ada", "shop"));
        assert_eq!(found.password.unwrap().reveal(), "p@ss");
        assert_eq!(found.tls, Some(Tls { root: None }), "another machine is spoken to through TLS");
        let found = address("postgresql://ada@127.0.0.1").unwrap();
        assert_eq!(found.to_string(), "127.0.0.1:5432/ada");
        assert_eq!(found.tls, None);
        let found = address("postgres://ada@[::1]:1/x").unwrap();
        assert_eq!((found.host, found.tls), (Host::Tcp("::1".into(), 1), None));
        let socket = Host::Unix("/run/pg/.s.PGSQL.5432".into());
        assert_eq!(address("postgres://ada@%2Frun%2Fpg/x").unwrap().host, socket);
        assert_eq!(address("postgres://ada@localhost/x?host=/run/pg").unwrap().host, socket);
        let found = address("postgres://ada@localhost/x?sslmode=require&sslrootcert=/ca.pem").unwrap();
        assert_eq!(found.tls, Some(Tls { root: Some("/ca.pem".into()) }));
        assert_eq!(address("postgres://ada@db.example/x?sslmode=disable").unwrap().tls, None);
        let found = address("mysql://ada@db.example/shop").unwrap();
        assert_eq!((found.to_string().as_str(), found.tls.is_some()), ("db.example:3306/shop", true));
        let found = address("mysql://ada@localhost/shop?socket=/run/mysqld/mysqld.sock").unwrap();
        assert_eq!((found.host, found.tls), (Host::Unix("/run/mysqld/mysqld.sock".into()), None));
    }

    #[test]
    fn an_address_that_is_none_is_told_without_its_password() {
        for (url, told) in [
            ("postgres://h/db", "names no role"),
            ("postgres:x", "names no role"),
            ("postgres://u:hunter2@h:99999999/db", "is no address"),
            ("postgres://u:hunter2@h/db?sslmode=prefer", "unknown `sslmode` `prefer`"),
            ("postgres://u:hunter2@h/db?options=x", "unknown parameter `options`"),
            ("mysql://u:hunter2@h", "names no database"),
            ("mysql://u:hunter2@h/db?host=/run/x", "unknown parameter `host`"),
        ] {
            let error = address(url).unwrap_err();
            assert!(error.to_string().contains(told), "{url}: {error}");
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        }
    }
}
