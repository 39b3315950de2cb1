//! Who may ask: the check of `Host` and `Origin`.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use tarn_model::Error;

use super::error_with_status;

/// The names by which this server may be asked.
#[derive(Debug, Clone)]
pub struct Hosts {
    names: Vec<String>,
    /// With this port any literal IP address is a name too: a name of its own cannot be an IP address.
    any_ip: Option<u16>,
}

impl Hosts {
    /// The names of a server bound to `address`: the address itself, `localhost`, `127.0.0.1` and `[::1]`, each with its
    /// port. A server bound to all addresses may be asked by any IP address.
    pub fn bound_to(address: SocketAddr) -> Hosts {
        let port = address.port();
        let mut names = vec![
            address.to_string(),
            format!("localhost:{port}"),
            format!("127.0.0.1:{port}"),
            format!("[::1]:{port}"),
        ];
        if port == 80 {
            names.extend([address.ip().to_string(), "localhost".into(), "127.0.0.1".into(), "[::1]".into()]);
        }
        let any_ip = address.ip().is_unspecified().then_some(port);
        Hosts { names, any_ip }
    }

    /// And by this name, as it stands in `Host` (with a port unless it is the scheme's own).
    #[must_use]
    pub fn and(mut self, name: impl Into<String>) -> Hosts {
        self.names.push(name.into().to_lowercase());
        self
    }

    fn allows(&self, host: &str) -> bool {
        let host = host.to_lowercase();
        self.names.contains(&host) || self.any_ip.is_some_and(|port| is_ip_with_port(&host, port))
    }

    fn check(&self, headers: &HeaderMap, authority: Option<&str>) -> Result<(), Error> {
        let host = match headers.get(header::HOST) {
            Some(host) => host.to_str().ok(),
            None => authority,
        };
        if !host.is_some_and(|host| self.allows(host)) {
            return Err(Error::invalid(format!("the request asks for the host `{}`", host.unwrap_or("")))
                .with_hint(format!("this server is {}", self.names.first().map_or("", String::as_str))));
        }
        if let Some(origin) = headers.get(header::ORIGIN) {
            let origin = origin.to_str().unwrap_or("");
            let host = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
            if !host.is_some_and(|host| self.allows(host)) {
                return Err(Error::invalid(format!("a page of another origin asks: `{origin}`"))
                    .with_hint("pages of other sites may not use this server"));
            }
        }
        Ok(())
    }
}

fn is_ip_with_port(host: &str, port: u16) -> bool {
    if let Ok(address) = host.parse::<SocketAddr>() {
        return address.port() == port;
    }
    port == 80 && host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok()
}

/// Lets a request pass that names this server, and adds what every answer carries.
pub(super) async fn guard(State(hosts): State<Arc<Hosts>>, request: Request, next: Next) -> Response {
    let authority = request.uri().authority().map(|authority| authority.as_str().to_owned());
    let mut response = match hosts.check(request.headers(), authority.as_deref()) {
        Ok(()) => next.run(request).await,
        Err(error) => error_with_status(StatusCode::FORBIDDEN, &error),
    };
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}
