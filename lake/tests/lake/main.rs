//! Claims about the lake, checked through its public face on every kind of store.

mod round_trip;
mod rows;
