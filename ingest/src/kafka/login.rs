//! How a `kafka` source reaches its brokers: TLS, and a login by PLAIN (RFC 4616) or SCRAM.

use std::sync::Arc;

use tarn_kafka::client::{Access, Conversation, Login};
use tarn_model::config::{KafkaConfig, Sasl};
use tarn_model::{Error, Result, clock};

use crate::scram::{Hash, Scram};
use crate::trust::trusting;

/// As the config says it.
pub(super) fn access(config: &KafkaConfig) -> Result<Access> {
    const HINT: &str = "name their authority's certificates with `tls_ca`";
    let tls = config.tls.then(|| trusting(config.tls_ca.as_deref(), &config.brokers, HINT)).transpose()?;
    let login = config.user.as_ref().map(|user| -> Arc<dyn Login> {
        let password = config.password.as_ref().map(|password| password.reveal().to_owned());
        let user = User { name: user.clone(), password: password.unwrap_or_default() };
        match config.sasl {
            Sasl::Plain => Arc::new(ByPassword(user)),
            Sasl::ScramSha256 => Arc::new(ByScram(Hash::Sha256, user)),
            Sasl::ScramSha512 => Arc::new(ByScram(Hash::Sha512, user)),
        }
    });
    Ok(Access { tls, login })
}

struct User {
    name: String,
    password: String,
}

/// The password itself.
struct ByPassword(User);

impl Login for ByPassword {
    fn mechanism(&self) -> &'static str {
        "PLAIN"
    }

    fn is_secret(&self) -> bool {
        true
    }

    fn begin(&self) -> Box<dyn Conversation> {
        let User { name, password } = &self.0;
        Box::new(OneWord(Some(format!("\0{name}\0{password}").into_bytes())))
    }
}

struct OneWord(Option<Vec<u8>>);

impl Conversation for OneWord {
    fn answer(&mut self, _said: Option<&[u8]>) -> Result<Option<Vec<u8>>> {
        Ok(self.0.take())
    }
}

struct ByScram(Hash, User);

impl Login for ByScram {
    fn mechanism(&self) -> &'static str {
        self.0.mechanism()
    }

    fn is_secret(&self) -> bool {
        false
    }

    fn begin(&self) -> Box<dyn Conversation> {
        let (ByScram(hash, user), nonce) = (self, clock::new_id().simple().to_string());
        Box::new(Proving { scram: Scram::new(*hash, &user.name, &user.password, nonce), answered: false })
    }
}

struct Proving {
    scram: Scram,
    answered: bool,
}

impl Conversation for Proving {
    fn answer(&mut self, said: Option<&[u8]>) -> Result<Option<Vec<u8>>> {
        let Some(said) = said else { return Ok(Some(self.scram.first().into_bytes())) };
        let said = String::from_utf8_lossy(said);
        if self.answered {
            return self.scram.verify(&said).map(|()| None).map_err(Error::unavailable);
        }
        self.answered = true;
        let answer = self.scram.answer(&said).map_err(Error::unavailable)?;
        Ok(Some(answer.into_bytes()))
    }
}
