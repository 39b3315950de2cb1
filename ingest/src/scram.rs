//! SCRAM (RFC 5802, RFC 7677): a client and a server prove to each other that they know a password, without saying it.
//!
//! PostgreSQL asks for SCRAM-SHA-256, and knows the user already; Kafka asks for it or for SCRAM-SHA-512. No channel binding.

use std::num::NonZeroU32;

use base64::Engine;
use base64::prelude::BASE64_STANDARD as BASE64;
use ring::{digest, hmac, pbkdf2};

/// Rounds that a server may ask for; the default of PostgreSQL and of Kafka is 4096.
const MOST_ROUNDS: u32 = 10_000_000;
/// No channel binding.
const GS2: &str = "n,,";

/// The hash under a mechanism.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hash {
    Sha256,
    Sha512,
}

impl Hash {
    /// The mechanism's name.
    pub(crate) fn mechanism(self) -> &'static str {
        match self {
            Hash::Sha256 => "SCRAM-SHA-256",
            Hash::Sha512 => "SCRAM-SHA-512",
        }
    }

    fn digest(self) -> &'static digest::Algorithm {
        match self {
            Hash::Sha256 => &digest::SHA256,
            Hash::Sha512 => &digest::SHA512,
        }
    }

    fn hmac(self) -> hmac::Algorithm {
        match self {
            Hash::Sha256 => hmac::HMAC_SHA256,
            Hash::Sha512 => hmac::HMAC_SHA512,
        }
    }

    fn pbkdf2(self) -> pbkdf2::Algorithm {
        match self {
            Hash::Sha256 => pbkdf2::PBKDF2_HMAC_SHA256,
            Hash::Sha512 => pbkdf2::PBKDF2_HMAC_SHA512,
        }
    }
}

/// The client's side of one conversation.
pub(crate) struct Scram {
    hash: Hash,
    password: String,
    nonce: String,
    first_bare: String,
    /// What the server must sign in the end, and with what.
    expected: Option<(hmac::Key, String)>,
}

impl Scram {
    /// `nonce` is random, and printable without commas; `user` is empty where the server knows it already.
    pub(crate) fn new(hash: Hash, user: &str, password: &str, nonce: String) -> Scram {
        // What cannot be prepared is taken as it is, as the server does.
        let prepared = |text: &str| stringprep::saslprep(text).map_or_else(|_| text.to_owned(), String::from);
        let user = prepared(user).replace('=', "=3D").replace(',', "=2C");
        let first_bare = format!("n={user},r={nonce}");
        Scram { hash, password: prepared(password), nonce, first_bare, expected: None }
    }

    pub(crate) fn first(&self) -> String {
        format!("{GS2}{}", self.first_bare)
    }

    /// The answer to the server's first message.
    pub(crate) fn answer(&mut self, server_first: &str) -> Result<String, &'static str> {
        const BROKEN: &str = "the server's first message is no SCRAM";
        let part = |name: &str| server_first.split(',').find_map(|part| part.strip_prefix(name));
        let nonce = part("r=").filter(|nonce| nonce.starts_with(&self.nonce)).ok_or(BROKEN)?;
        if nonce.len() == self.nonce.len() {
            return Err("the server adds nothing random");
        }
        let salt = part("s=").and_then(|salt| BASE64.decode(salt).ok()).ok_or(BROKEN)?;
        let rounds: u32 = part("i=").and_then(|rounds| rounds.parse().ok()).ok_or(BROKEN)?;
        let rounds = NonZeroU32::new(rounds).filter(|rounds| rounds.get() <= MOST_ROUNDS).ok_or(BROKEN)?;
        let (hash, algorithm) = (self.hash.digest(), self.hash.hmac());
        let mut salted = vec![0; hash.output_len()];
        pbkdf2::derive(self.hash.pbkdf2(), rounds, &salt, self.password.as_bytes(), &mut salted);
        let salted = hmac::Key::new(algorithm, &salted);
        let client_key = hmac::sign(&salted, b"Client Key");
        let stored_key = digest::digest(hash, client_key.as_ref());
        let without_proof = format!("c={},r={nonce}", BASE64.encode(GS2));
        let message = format!("{},{server_first},{without_proof}", self.first_bare);
        let signature = hmac::sign(&hmac::Key::new(algorithm, stored_key.as_ref()), message.as_bytes());
        let proof: Vec<u8> = client_key.as_ref().iter().zip(signature.as_ref()).map(|(a, b)| a ^ b).collect();
        let server_key = hmac::sign(&salted, b"Server Key");
        let server_key = hmac::Key::new(algorithm, server_key.as_ref());
        self.expected = Some((server_key, message));
        Ok(format!("{without_proof},p={}", BASE64.encode(proof)))
    }

    /// Whether the server knows the password too.
    pub(crate) fn verify(&self, server_final: &str) -> Result<(), &'static str> {
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

    const FIRST: &str =
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";

    /// The example of RFC 7677.
    #[test]
    fn the_conversation_of_the_rfc_comes_out() {
        let mut scram = Scram::new(Hash::Sha256, "user", "pencil", "rOprNGfwEbeRWgbNEkqO".into());
        assert_eq!(scram.first(), "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let answer = scram.answer(FIRST).unwrap();
        let proof = "p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        assert_eq!(answer, format!("c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,{proof}"));
        assert_eq!(scram.verify("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="), Ok(()));
        assert!(scram.verify("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G5=").is_err());
        assert!(scram.verify("e=other-error").is_err());
    }

    /// Against hashlib and hmac of Python, by the formulas of RFC 5802.
    #[test]
    fn with_the_longer_hash_and_a_name_of_odd_characters_the_formulas_come_out() {
        let mut scram = Scram::new(Hash::Sha512, "a,b=c", "pencil", "rOprNGfwEbeRWgbNEkqO".into());
        assert_eq!(scram.first(), "n,,n=a=2Cb=3Dc,r=rOprNGfwEbeRWgbNEkqO");
        let answer = scram.answer(FIRST).unwrap();
        let proof =
            "3P2hGBpy5FLg01q88wEL8u+lWZSHhFEw9sbnaQHQPI9KHtgXZYzTja638ImhaIp/GuzNCjDAc9z2/Bmc5Y4E0A==";
        assert_eq!(answer.split_once(",p=").unwrap().1, proof);
        let signed =
            "v=aJYIkYOxhCCN7Hh2oDQwM4Q0AbP1o3AUZYtc/9rytD4eJ0YoT9AeXfOKBoqAjYwpdndvR99r/K67aQt31og4Ww==";
        assert_eq!(scram.verify(signed), Ok(()));
    }

    #[test]
    fn a_server_that_plays_tricks_is_not_answered() {
        for first in ["", "r=other,s=AAAA,i=1", "r=abc,s=AAAA,i=4096", "r=abcd,s=AAAA,i=0", "r=abcd,s=!,i=1"]
        {
            assert!(Scram::new(Hash::Sha256, "", "x", "abc".into()).answer(first).is_err(), "{first}");
        }
    }
}
