//! The shop: its goods, its customers' countries, its pages.

use std::io::Write;

use chrono::DateTime;

use super::dice::Dice;
use crate::json::{write_int, write_string};

const CUSTOMERS: u64 = 20_000;
const SESSIONS: u64 = 200_000;

/// Weight, and (product, category, price in cents).
const GOODS: &[(u64, (&str, &str, u64))] = &[
    (90, ("Espresso beans 1 kg", "grocery", 1890)),
    (70, ("Green tea 250 g", "grocery", 1240)),
    (65, ("Dark chocolate", "grocery", 349)),
    (50, ("Olive oil 750 ml", "grocery", 1190)),
    (48, ("Sourdough starter", "grocery", 790)),
    (60, ("USB-C cable 2 m", "electronics", 1290)),
    (44, ("Wireless earbuds", "electronics", 7990)),
    (30, ("Mechanical keyboard", "electronics", 12900)),
    (22, ("27-inch monitor", "electronics", 32900)),
    (12, ("Laptop 14-inch", "electronics", 119900)),
    (26, ("Power bank 20 Ah", "electronics", 3990)),
    (55, ("Notebook A5", "stationery", 650)),
    (40, ("Fountain pen", "stationery", 3450)),
    (35, ("Sketch pad", "stationery", 1150)),
    (38, ("Merino socks", "clothing", 1690)),
    (33, ("Rain jacket", "clothing", 8990)),
    (28, ("Linen shirt", "clothing", 5490)),
    (24, ("Trail running shoes", "clothing", 13500)),
    (31, ("Cast-iron pan", "kitchen", 4590)),
    (27, ("Chef's knife", "kitchen", 6990)),
    (18, ("Stand mixer", "kitchen", 29900)),
    (42, ("Beeswax candle", "home", 990)),
    (20, ("Wool blanket", "home", 9900)),
    (9, ("Oak side table", "home", 18900)),
    (36, ("Paperback novel", "books", 1290)),
    (25, ("Atlas of the sea", "books", 4900)),
    (14, ("Board game \"Fjord\"", "games", 3990)),
    (29, ("Puzzle, 1000 pieces", "games", 1990)),
];

/// Weight, and (country, currency).
const COUNTRIES: &[(u64, (&str, &str))] = &[
    (30, ("DE", "EUR")),
    (22, ("US", "USD")),
    (14, ("GB", "GBP")),
    (10, ("FR", "EUR")),
    (7, ("NL", "EUR")),
    (5, ("CH", "CHF")),
    (4, ("SE", "SEK")),
    (3, ("PL", "PLN")),
    (3, ("JP", "JPY")),
    (2, ("BR", "BRL")),
];

const STATUSES: &[(u64, &str)] =
    &[(62, "paid"), (20, "shipped"), (8, "pending"), (6, "cancelled"), (4, "refunded")];
const PAGES: &[(u64, &str)] = &[
    (30, "/"),
    (22, "/search"),
    (26, "/product"),
    (9, "/cart"),
    (5, "/checkout"),
    (3, "/thanks"),
    (3, "/account"),
    (2, "/help"),
];
const REFERRERS: &[(u64, Option<&str>)] = &[
    (40, None),
    (34, Some("https://www.google.com/")),
    (10, Some("https://duckduckgo.com/")),
    (9, Some("https://news.example.org/")),
    (7, Some("https://mail.example.com/")),
];
const DEVICES: &[(u64, &str)] = &[(56, "mobile"), (38, "desktop"), (6, "tablet")];

/// Writes order `n`: fourteen in a hundred have more than three pieces, prices move by up to 15 %.
pub(super) fn order(out: &mut Vec<u8>, n: u64, dice: &mut Dice, time: &str) {
    let customer = dice.skewed(CUSTOMERS) + 1;
    let (product, category, cents) = *dice.pick(GOODS);
    let price = cents * (85 + dice.below(31)) / 100;
    let quantity = dice.skewed(10) + 1;
    // A customer stays in a country.
    let (country, currency) = *Dice::new(1, customer).pick(COUNTRIES);
    let status = dice.pick(STATUSES);
    field_int(out, "{\"order_id\":", n + 1);
    field_int(out, ",\"customer_id\":", customer);
    field_text(out, ",\"product\":", product);
    field_text(out, ",\"category\":", category);
    field_int(out, ",\"quantity\":", quantity);
    let _ = write!(out, ",\"price\":\"{}.{:02}\"", price / 100, price % 100);
    field_text(out, ",\"currency\":", currency);
    field_text(out, ",\"country\":", country);
    field_text(out, ",\"status\":", status);
    field_text(out, ",\"ts\":", time);
    out.push(b'}');
}

/// Writes a click; a visitor who has not signed in has no user.
pub(super) fn click(out: &mut Vec<u8>, dice: &mut Dice, time: &str) {
    let session = dice.skewed(SESSIONS);
    let mut of_session = Dice::new(2, session);
    let user = (of_session.below(100) < 60).then(|| of_session.skewed(CUSTOMERS) + 1);
    let device = of_session.pick(DEVICES);
    let page = *dice.pick(PAGES);
    let _ = write!(out, "{{\"session_id\":\"s{:016x}\"", of_session.throw());
    match user {
        Some(user) => field_int(out, ",\"user_id\":", user),
        None => out.extend_from_slice(b",\"user_id\":null"),
    }
    if page == "/product" {
        let product = dice.skewed(GOODS.len() as u64) + 1;
        let _ = write!(out, ",\"page\":\"/product/{product}\"");
    } else {
        field_text(out, ",\"page\":", page);
    }
    match dice.pick(REFERRERS) {
        Some(referrer) => field_text(out, ",\"referrer\":", referrer),
        None => out.extend_from_slice(b",\"referrer\":null"),
    }
    field_text(out, ",\"device\":", device);
    field_text(out, ",\"ts\":", time);
    field_int(out, ",\"duration_ms\":", 80 + dice.skewed(120_000));
    out.push(b'}');
}

fn field_text(out: &mut Vec<u8>, before: &str, text: &str) {
    out.extend_from_slice(before.as_bytes());
    write_string(out, text);
}

fn field_int(out: &mut Vec<u8>, before: &str, number: u64) {
    out.extend_from_slice(before.as_bytes());
    write_int(out, i64::try_from(number).unwrap_or(i64::MAX));
}

/// Times as ISO 8601 text with milliseconds; the text of the last second is kept.
#[derive(Debug, Default)]
pub(super) struct TimeText {
    second: Option<i64>,
    text: String,
}

impl TimeText {
    pub(super) fn of(&mut self, time_ms: i64) -> &str {
        let second = time_ms.div_euclid(1000);
        if self.second != Some(second) {
            let time = DateTime::from_timestamp(second, 0).unwrap_or(DateTime::UNIX_EPOCH);
            self.text = time.format("%Y-%m-%dT%H:%M:%S.000Z").to_string();
            self.second = Some(second);
        }
        let from = self.text.len() - 4;
        let millis = format!("{:03}", time_ms.rem_euclid(1000));
        self.text.replace_range(from..from + 3, &millis);
        &self.text
    }
}
