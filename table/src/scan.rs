//! The union read: a table provider over one cut.
