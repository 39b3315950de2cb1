//! What a server is told so that it believes who asks: SCRAM-SHA-256 (RFC 5802, RFC 7677), MD5, or the password itself.
//!
//! The password itself goes over TLS, and over a connection that never leaves this machine, and nowhere else.

use std::num::NonZeroU32;

use base64::Engine;
use base64::prelude::BASE64_STANDARD as BASE64;
use md5::{Digest, Md5};
use ring::{digest, hmac, pbkdf2};

/// The mechanism's name in PostgreSQL's messages.
pub(super) const SCRAM: &str = "SCRAM-SHA-256";
/// Rounds that a server may ask for; PostgreSQL's default is 4096.
const MOST_ROUNDS: u32 = 10_000_000;
/// No channel binding.
const GS2: &str = "n,,";

/// `md5` of the password, as old servers want it.
pub(super) fn md5_answer(user: &str, password: &str, salt: &[u8]) -> String {
    let inner = hex(&Md5::new().chain_update(password).chain_update(user).finalize());
    format!("md5{}", hex(&Md5::new().chain_update(inner).chain_update(salt).finalize()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The client's side of one conversation.
pub(super) struct Scram {
    password: String,
    nonce: String,
    first_bare: String,
    /// What the server must sign in the end, and with what.
    expected: Option<(hmac::Key, String)>,
}

impl Scram {
    /// `nonce` is random, and printable without commas.
    pub(super) fn new(password: &str, nonce: String) -> Scram {
        // A password that cannot be prepared is taken as it is, as the server does.
        let password = stringprep::saslprep(password).map_or_else(|_| password.to_owned(), String::from);
        let first_bare = format!("n=,r={nonce}");
        Scram { password, nonce, first_bare, expected: None }
    }

    pub(super) fn first(&self) -> String {
        format!("{GS2}{}", self.first_bare)
    }

    /// The answer to the server's first message.
    pub(super) fn answer(&mut self, server_first: &str) -> Result<String, &'static str> {
        const BROKEN: &str = "the server's first message is no SCRAM";
        let part = |name: &str| server_first.split(',').find_map(|part| part.strip_prefix(name));
        let nonce = part("r=").filter(|nonce| nonce.starts_with(&self.nonce)).ok_or(BROKEN)?;
        if nonce.len() == self.nonce.len() {
            return Err("the server adds nothing random");
        }
        let salt = part("s=").and_then(|salt| BASE64.decode(salt).ok()).ok_or(BROKEN)?;
        let rounds: u32 = part("i=").and_then(|rounds| rounds.parse().ok()).ok_or(BROKEN)?;
        let rounds = NonZeroU32::new(rounds).filter(|rounds| rounds.get() <= MOST_ROUNDS).ok_or(BROKEN)?;
        let mut salted = [0; digest::SHA256_OUTPUT_LEN];
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, &salt, self.password.as_bytes(), &mut salted);
        let salted = hmac::Key::new(hmac::HMAC_SHA256, &salted);
        let client_key = hmac::sign(&salted, b"Client Key");
        let stored_key = digest::digest(&digest::SHA256, client_key.as_ref());
        let without_proof = format!("c={},r={nonce}", BASE64.encode(GS2));
        let message = format!("{},{server_first},{without_proof}", self.first_bare);
        let signature =
            hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, stored_key.as_ref()), message.as_bytes());
        let proof: Vec<u8> = client_key.as_ref().iter().zip(signature.as_ref()).map(|(a, b)| a ^ b).collect();
        let server_key = hmac::sign(&salted, b"Server Key");
        let server_key = hmac::Key::new(hmac::HMAC_SHA256, server_key.as_ref());
        self.expected = Some((server_key, message));
        Ok(format!("{without_proof},p={}", BASE64.encode(proof)))
    }

    /// Whether the server knows the password too.
    pub(super) fn verify(&self, server_final: &str) -> Result<(), &'static str> {
        let said = server_final.split(',').find_map(|part| part.strip_prefix("v="));
        let said = said.and_then(|said| BASE64.decode(said).ok()).unwrap_or_default();
        let (key, message) = self.expected.as_ref().ok_or("the server ends before it began")?;
        hmac::verify(key, message.as_bytes(), &said)
            .map_err(|_| "the server does not know the password itself: it is not who it says")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 7677, whose client gives the user's name; PostgreSQL's does not, so it is put in here.
    #[test]
    fn the_conversation_of_the_rfc_comes_out() {
        let mut scram = Scram::new("pencil", "rOprNGfwEbeRWgbNEkqO".into());
        scram.first_bare = "n=user,r=rOprNGfwEbeRWgbNEkqO".into();
        let first = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let answer = scram.answer(first).unwrap();
        let proof = "p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        assert_eq!(answer, format!("c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,{proof}"));
        assert_eq!(scram.verify("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="), Ok(()));
        assert!(scram.verify("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G5=").is_err());
        assert!(scram.verify("e=other-error").is_err());
    }

    #[test]
    fn a_server_that_plays_tricks_is_not_answered() {
        for first in ["", "r=other,s=AAAA,i=1", "r=abc,s=AAAA,i=4096", "r=abcd,s=AAAA,i=0", "r=abcd,s=!,i=1"]
        {
            assert!(Scram::new("x", "abc".into()).answer(first).is_err(), "{first}");
        }
    }

    #[test]
    fn md5_is_what_postgresql_makes() {
        // SELECT 'md5' || md5(md5('secret' || 'ada') || convert_from('\x31323334', 'UTF8'))
        assert_eq!(md5_answer("ada", "secret", b"1234"), "md572b71cff8f98d97ef37fd24859458104");
        assert_eq!(hex(&Md5::digest(b"")), "d41d8cd98f00b204e9800998ecf8427e");
    }
}
