//! What a server is told so that it believes who asks, where that is not SCRAM ([`crate::scram`]): MD5, or the password itself.
//!
//! The password itself goes over TLS, and over a connection that never leaves this machine, and nowhere else.

use md5::{Digest, Md5};

/// `md5` of the password, as old servers want it.
pub(super) fn md5_answer(user: &str, password: &str, salt: &[u8]) -> String {
    let inner = hex(&Md5::new().chain_update(password).chain_update(user).finalize());
    format!("md5{}", hex(&Md5::new().chain_update(inner).chain_update(salt).finalize()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn md5_is_what_postgresql_makes() {
        // SELECT 'md5' || md5(md5('secret' || 'ada') || convert_from('\x31323334', 'UTF8'))
        assert_eq!(md5_answer("ada", "secret", b"1234"), "md572b71cff8f98d97ef37fd24859458104");
        assert_eq!(hex(&Md5::digest(b"")), "d41d8cd98f00b204e9800998ecf8427e");
    }
}
