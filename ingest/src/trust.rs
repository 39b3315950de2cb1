//! Whom TLS believes: the system's authorities, or those of a file.

use std::io;
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use tarn_model::{Error, Result};

/// What a client trusts; `name` is whom it would speak to, and `hint` what to do where nobody could be trusted.
pub(crate) fn trusting(root: Option<&Path>, name: &str, hint: &str) -> Result<Arc<ClientConfig>> {
    let distrusted = |error: rustls::Error| distrusted(name, hint, error);
    let mut roots = RootCertStore::empty();
    match root {
        Some(path) => {
            let unreadable = |error| {
                Error::invalid(format!("cannot read the certificates of `{}`", path.display()))
                    .with_source(error)
            };
            for certificate in CertificateDer::pem_file_iter(path).map_err(unreadable)? {
                roots.add(certificate.map_err(unreadable)?).map_err(distrusted)?;
            }
            if roots.is_empty() {
                return Err(Error::invalid(format!("there is no certificate in `{}`", path.display()))
                    .with_hint("it is a file of `-----BEGIN CERTIFICATE-----` blocks (PEM)"));
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(distrusted)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Somebody whom TLS does not believe.
pub(crate) fn distrusted(name: &str, hint: &str, error: rustls::Error) -> Error {
    Error::unavailable(format!("`{name}` cannot be trusted")).with_hint(hint).with_source(error)
}

/// Whether nothing was to be read for now.
pub(crate) fn is_waiting(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

/// Begins TLS on a stream that blocks, until then at most; whom TLS does not believe is told by the error's own cause.
pub(crate) fn shake_hands(
    config: Arc<ClientConfig>,
    host: &str,
    stream: &mut TcpStream,
    until: Instant,
) -> io::Result<ClientConnection> {
    let server = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let mut connection = ClientConnection::new(config, server).map_err(io::Error::other)?;
    while connection.is_handshaking() {
        match connection.complete_io(stream) {
            Ok(_) if Instant::now() < until => {}
            Ok(_) => return Err(io::ErrorKind::TimedOut.into()),
            Err(error) if is_waiting(&error) && Instant::now() < until => {}
            Err(error) => return Err(error),
        }
    }
    Ok(connection)
}

/// Why TLS does not believe the other side, if that is the error.
pub(crate) fn distrust(error: &io::Error) -> Option<rustls::Error> {
    error.get_ref()?.downcast_ref::<rustls::Error>().cloned()
}
