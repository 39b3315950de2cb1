//! What a client may do with a cluster, a topic, a group: everything that can be done, for there are no access lists.
//!
//! An answer has a bit for each operation, by Kafka's numbers, when it was asked for them.

/// Kafka's numbers of operations.
const READ: u8 = 3;
const WRITE: u8 = 4;
const CREATE: u8 = 5;
const DELETE: u8 = 6;
const ALTER: u8 = 7;
const DESCRIBE: u8 = 8;
const CLUSTER_ACTION: u8 = 9;
const DESCRIBE_CONFIGS: u8 = 10;
const ALTER_CONFIGS: u8 = 11;
const IDEMPOTENT_WRITE: u8 = 12;

/// Kafka's word for "not asked for".
const NOT_ASKED: i32 = i32::MIN;

pub(crate) const CLUSTER: i32 =
    bits(&[CREATE, ALTER, DESCRIBE, CLUSTER_ACTION, DESCRIBE_CONFIGS, ALTER_CONFIGS, IDEMPOTENT_WRITE]);
pub(crate) const TOPIC: i32 =
    bits(&[READ, WRITE, CREATE, DELETE, ALTER, DESCRIBE, DESCRIBE_CONFIGS, ALTER_CONFIGS]);
pub(crate) const GROUP: i32 = bits(&[READ, DELETE, DESCRIBE]);

const fn bits(operations: &[u8]) -> i32 {
    let (mut bits, mut n) = (0, 0);
    while n < operations.len() {
        bits |= 1 << operations[n];
        n += 1;
    }
    bits
}

/// `operations`, if they were asked for.
pub(crate) fn if_asked(asked: bool, operations: i32) -> i32 {
    if asked { operations } else { NOT_ASKED }
}
