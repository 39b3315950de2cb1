//! Claims about the lake, checked through its public face on every kind of store.

mod faulty;
mod model;
mod protocol;
mod round_trip;
mod rows;
mod upkeep;
