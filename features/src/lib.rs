//! Nothing but the list of dependencies in `Cargo.toml`: it holds their features equal, whichever room is built.
