//! What a server of MySQL or MariaDB is told so that it believes who asks: `mysql_native_password`, `caching_sha2_password`, or
//! the password itself.
//!
//! The first two answer a random number of the server with a hash over it and the password. The password itself goes over TLS,
//! and over a connection that never leaves this machine, and nowhere else.

use ring::digest::{Context, Digest, SHA1_FOR_LEGACY_USE_ONLY, SHA256};

/// MariaDB's own way, and MySQL's up to version 5.7.
pub(super) const NATIVE: &str = "mysql_native_password";
/// MySQL's own way from version 8 on.
pub(super) const SHA2: &str = "caching_sha2_password";
/// The password as it is, for servers that ask another one (PAM, LDAP).
pub(super) const CLEAR: &str = "mysql_clear_password";

/// `SHA1(password) XOR SHA1(nonce + SHA1(SHA1(password)))`; nothing without a password.
pub(super) fn native_answer(password: &str, nonce: &[u8]) -> Vec<u8> {
    if password.is_empty() {
        return Vec::new();
    }
    let sha1 = |parts: &[&[u8]]| digest(&SHA1_FOR_LEGACY_USE_ONLY, parts);
    let once = sha1(&[password.as_bytes()]);
    let twice = sha1(&[once.as_ref()]);
    xor(once.as_ref(), sha1(&[nonce, twice.as_ref()]).as_ref())
}

/// `SHA256(password) XOR SHA256(SHA256(SHA256(password)) + nonce)`; nothing without a password.
pub(super) fn sha2_answer(password: &str, nonce: &[u8]) -> Vec<u8> {
    if password.is_empty() {
        return Vec::new();
    }
    let sha256 = |parts: &[&[u8]]| digest(&SHA256, parts);
    let once = sha256(&[password.as_bytes()]);
    let twice = sha256(&[once.as_ref()]);
    xor(once.as_ref(), sha256(&[twice.as_ref(), nonce]).as_ref())
}

fn digest(algorithm: &'static ring::digest::Algorithm, parts: &[&[u8]]) -> Digest {
    let mut context = Context::new(algorithm);
    for part in parts {
        context.update(part);
    }
    context.finish()
}

fn xor(a: &[u8], b: &[u8]) -> Vec<u8> {
    a.iter().zip(b).map(|(a, b)| a ^ b).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Against hashlib of Python, by the formulas in the servers' manuals.
    #[test]
    fn answers_are_what_the_formulas_give() {
        let nonce: Vec<u8> = (1..=20).collect();
        assert_eq!(hex(&native_answer("p@ss/word ä", &nonce)), "e7c73ce1175b3befc269b53c6489521e95aee867");
        assert_eq!(
            hex(&sha2_answer("p@ss/word ä", &nonce)),
            "822146bed7f04d3868131719956d578763fe1420556913fde25622dc6283976c"
        );
        assert!(native_answer("", &nonce).is_empty() && sha2_answer("", &nonce).is_empty());
    }
}
