//! A value as a database gives it: what collectors hand on, and what tables take.

/// A value of one cell; text and bytes are borrowed from what was received.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value<'a> {
    /// No value.
    Null,
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A whole number that has no sign.
    Unsigned(u64),
    /// A number of 32 bits.
    Real(f32),
    /// A number of 64 bits.
    Float(f64),
    /// Text that may not be UTF-8.
    Text(&'a [u8]),
    /// Bytes.
    Bytes(&'a [u8]),
}
