//! Grok patterns: regular expressions made of named parts, `%{IP:client} %{NUMBER:bytes:int}`.
//!
//! *Why here*: whether a pattern is one is a question of the config; what it becomes is a regular expression like any other, so
//! nobody else needs to know that it was a pattern.
//!
//! | written | means |
//! |---|---|
//! | `%{NAME}` | what the pattern of that name fits |
//! | `%{NAME:field}` | the same, as a field |
//! | `%{NAME:field:int}`, `:float` | the same, as a number; what is none does not fit |
//! | anything else | a regular expression; its named groups are fields |
//!
//! The names are the customary ones. The patterns are our own, for this kind of regular expression looks neither ahead nor
//! back, and takes time that grows with the line's length only.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Deepest nesting of patterns within patterns.
const DEEPEST: usize = 24;
/// Longest regular expression that a pattern may become.
const LONGEST_BYTES: usize = 128 << 10;

/// What a field's text becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldType {
    /// It stays text.
    Text,
    /// A whole number.
    Int,
    /// A number.
    Float,
}

/// A pattern as a regular expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grok {
    /// The expression.
    pub regex: String,
    /// The fields of its groups whose names are not those of fields.
    pub fields: BTreeMap<String, (String, FieldType)>,
}

/// Makes a regular expression of `pattern`; `own` patterns come before the known ones. The error says what is wrong.
pub fn compile(pattern: &str, own: &BTreeMap<String, String>) -> Result<Grok, String> {
    let mut compiler =
        Compiler { own, grok: Grok { regex: String::new(), fields: BTreeMap::new() }, open: Vec::new() };
    compiler.expand(pattern)?;
    regex::Regex::new(&compiler.grok.regex)
        .map_err(|error| format!("what the pattern becomes is no regular expression: {error}"))?;
    Ok(compiler.grok)
}

struct Compiler<'a> {
    own: &'a BTreeMap<String, String>,
    grok: Grok,
    /// Names that are being expanded.
    open: Vec<String>,
}

impl Compiler<'_> {
    fn expand(&mut self, pattern: &str) -> Result<(), String> {
        let mut rest = pattern;
        while let Some(at) = rest.find("%{") {
            self.grok.regex.push_str(&rest[..at]);
            let (inner, after) = rest[at + 2..]
                .split_once('}')
                .ok_or_else(|| format!("`%{{{}` has no closing brace", &rest[at + 2..]))?;
            self.reference(inner)?;
            rest = after;
        }
        self.grok.regex.push_str(rest);
        if self.grok.regex.len() > LONGEST_BYTES {
            return Err(format!("the pattern becomes more than {LONGEST_BYTES} bytes"));
        }
        Ok(())
    }

    fn reference(&mut self, inner: &str) -> Result<(), String> {
        let mut parts = inner.split(':');
        let (name, field, field_type) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
        if parts.next().is_some() {
            return Err(format!("`%{{{inner}}}` has too many colons: write `%{{NAME:field:type}}`"));
        }
        let field_type = match field_type {
            None | Some("string") => FieldType::Text,
            Some("int" | "long") => FieldType::Int,
            Some("float" | "double") => FieldType::Float,
            Some(other) => {
                return Err(format!("`{other}` is no type of a field: `int`, `float` or `string`"));
            }
        };
        let known = || KNOWN.iter().find(|(known, _)| *known == name).map(|(_, pattern)| *pattern);
        let pattern = self.own.get(name).map(String::as_str).or_else(known).map(str::to_owned);
        let pattern = pattern.ok_or_else(|| match nearest(name, self.own) {
            Some(near) => format!("there is no pattern `{name}`, did you mean `{near}`?"),
            None => format!("there is no pattern `{name}`: declare it under `patterns`"),
        })?;
        if self.open.iter().any(|open| open == name) {
            return Err(format!("the pattern `{name}` holds itself"));
        }
        if self.open.len() == DEEPEST {
            return Err(format!("patterns are nested more than {DEEPEST} deep at `{name}`"));
        }
        match field {
            Some("") => return Err(format!("`%{{{inner}}}` names no field")),
            Some(field) => {
                let group = format!("grok_{}", self.grok.fields.len());
                let _ = write!(self.grok.regex, "(?<{group}>");
                self.grok.fields.insert(group, (field.to_owned(), field_type));
            }
            None => self.grok.regex.push_str("(?:"),
        }
        self.open.push(name.to_owned());
        self.expand(&pattern)?;
        self.open.pop();
        self.grok.regex.push(')');
        Ok(())
    }
}

fn nearest<'a>(name: &str, own: &'a BTreeMap<String, String>) -> Option<&'a str> {
    let known = KNOWN.iter().map(|(known, _)| *known);
    own.keys()
        .map(String::as_str)
        .chain(known)
        .map(|known| (strsim::jaro_winkler(&name.to_uppercase(), known), known))
        .filter(|(similarity, _)| *similarity >= 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| known)
}

/// Names and patterns that need no declaration.
pub const KNOWN: &[(&str, &str)] = &[
    // Words and numbers.
    ("WORD", r"\b\w+\b"),
    ("NOTSPACE", r"\S+"),
    ("SPACE", r"\s*"),
    ("DATA", r".*?"),
    ("GREEDYDATA", r".*"),
    ("INT", r"[+-]?[0-9]+"),
    ("POSINT", r"\b[1-9][0-9]*\b"),
    ("NONNEGINT", r"\b[0-9]+\b"),
    ("NUMBER", r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"),
    ("BASE10NUM", "%{NUMBER}"),
    ("BASE16NUM", r"[+-]?(?:0[xX])?[0-9A-Fa-f]+"),
    ("QUOTEDSTRING", r#""(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'"#),
    ("QS", "%{QUOTEDSTRING}"),
    ("UUID", r"[0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}"),
    ("USERNAME", r"[A-Za-z0-9._-]+"),
    ("USER", "%{USERNAME}"),
    ("EMAILADDRESS", r"[A-Za-z0-9!#$&'*+/=?^_`{|}~.%-]+@%{HOSTNAME}"),
    // Addresses.
    ("IPV4", r"\b(?:(?:25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])\.){3}(?:25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])\b"),
    ("IPV6", r"(?:[0-9A-Fa-f]{0,4}:){2,7}(?:%{IPV4}|[0-9A-Fa-f]{0,4})(?:%[0-9A-Za-z]+)?"),
    ("IP", "%{IPV6}|%{IPV4}"),
    ("HOSTNAME", r"\b[0-9A-Za-z](?:[0-9A-Za-z_-]{0,62})(?:\.[0-9A-Za-z](?:[0-9A-Za-z_-]{0,62}))*\.?"),
    ("IPORHOST", "%{IP}|%{HOSTNAME}"),
    ("HOSTPORT", "%{IPORHOST}:%{POSINT}"),
    ("MAC", r"(?:[0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}|(?:[0-9A-Fa-f]{4}\.){2}[0-9A-Fa-f]{4}"),
    ("UNIXPATH", r"(?:/[^\s/?*]*)+"),
    ("WINPATH", r"(?:[A-Za-z]:|\\)(?:\\[^\\?*]*)+"),
    ("PATH", "%{UNIXPATH}|%{WINPATH}"),
    ("URIPROTO", r"[A-Za-z][A-Za-z0-9+.-]*"),
    ("URIHOST", "%{IPORHOST}(?::%{POSINT})?"),
    ("URIPATH", r"(?:/[A-Za-z0-9$.+!*'(){},~:;=@#%&_|-]*)+"),
    ("URIPARAM", r"\?[^\s]*"),
    ("URIPATHPARAM", "%{URIPATH}(?:%{URIPARAM})?"),
    ("URI", r"%{URIPROTO}://(?:%{USER}(?::[^@\s]*)?@)?%{URIHOST}(?:%{URIPATHPARAM})?"),
    // Times.
    (
        "MONTH",
        r"\b(?:[Jj]an(?:uary)?|[Ff]eb(?:ruary)?|[Mm]ar(?:ch)?|[Aa]pr(?:il)?|[Mm]ay|[Jj]une?|[Jj]uly?|[Aa]ug(?:ust)?|[Ss]ept?(?:ember)?|[Oo]ct(?:ober)?|[Nn]ov(?:ember)?|[Dd]ec(?:ember)?)\b",
    ),
    ("MONTHNUM", r"0?[1-9]|1[0-2]"),
    ("MONTHDAY", r"3[01]|[12][0-9]|0?[1-9]"),
    (
        "DAY",
        r"\b(?:Mon(?:day)?|Tue(?:sday)?|Wed(?:nesday)?|Thu(?:rsday)?|Fri(?:day)?|Sat(?:urday)?|Sun(?:day)?)\b",
    ),
    ("YEAR", r"[0-9]{4}|[0-9]{2}"),
    ("HOUR", r"2[0-3]|[01]?[0-9]"),
    ("MINUTE", r"[0-5][0-9]"),
    ("SECOND", r"(?:[0-5]?[0-9]|60)(?:[:.,][0-9]+)?"),
    ("TIME", "%{HOUR}:%{MINUTE}(?::%{SECOND})?"),
    ("TZ", r"[A-Z]{3,4}"),
    ("ISO8601_TIMEZONE", r"Z|[+-]%{HOUR}(?::?%{MINUTE})?"),
    (
        "TIMESTAMP_ISO8601",
        r"[0-9]{4}-%{MONTHNUM}-%{MONTHDAY}[T ]%{HOUR}:?%{MINUTE}(?::?%{SECOND})?(?:%{ISO8601_TIMEZONE})?",
    ),
    ("DATE_US", r"%{MONTHNUM}[/-]%{MONTHDAY}[/-]%{YEAR}"),
    ("DATE_EU", r"%{MONTHDAY}[./-]%{MONTHNUM}[./-]%{YEAR}"),
    ("DATE", "%{DATE_US}|%{DATE_EU}"),
    ("DATESTAMP", "(?:%{DATE})[- ]%{TIME}"),
    ("HTTPDATE", r"%{MONTHDAY}/%{MONTH}/%{YEAR}:%{TIME} [+-][0-9]{4}"),
    // Logs.
    (
        "LOGLEVEL",
        r"(?i:trace|debug|info(?:rmation)?|notice|warn(?:ing)?|err(?:or)?|crit(?:ical)?|fatal|severe|alert|emerg(?:ency)?)",
    ),
    ("SYSLOGTIMESTAMP", "%{MONTH} +%{MONTHDAY} %{TIME}"),
    ("PROG", r"[!-Z\\^-~]+"),
    ("SYSLOGPROG", r"%{PROG:program}(?:\[%{POSINT:pid}\])?"),
    ("SYSLOGHOST", "%{IPORHOST}"),
    ("SYSLOGBASE", "%{SYSLOGTIMESTAMP:timestamp} %{SYSLOGHOST:logsource} %{SYSLOGPROG}:"),
    ("SYSLOGLINE", "%{SYSLOGBASE} %{GREEDYDATA:message}"),
    ("HTTPDUSER", r"%{EMAILADDRESS}|%{USER}"),
    (
        "COMMONAPACHELOG",
        r#"%{IPORHOST:clientip} %{HTTPDUSER:ident} %{HTTPDUSER:auth} \[%{HTTPDATE:timestamp}\] "(?:%{WORD:verb} %{NOTSPACE:request}(?: HTTP/%{NUMBER:httpversion})?|%{DATA:rawrequest})" (?:%{INT:response:int}|-) (?:%{INT:bytes:int}|-)"#,
    ),
    ("COMBINEDAPACHELOG", "%{COMMONAPACHELOG} %{QS:referrer} %{QS:agent}"),
    ("JAVACLASS", r"(?:[A-Za-z_$][A-Za-z0-9_$]*\.)*[A-Za-z_$][A-Za-z0-9_$]*"),
    ("JAVAFILE", r"[A-Za-z0-9_. -]+"),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// The fields of `line`, as the pattern finds them.
    fn fields(pattern: &str, own: &[(&str, &str)], line: &str) -> Option<Vec<(String, String)>> {
        let own = own.iter().map(|(name, pattern)| ((*name).to_owned(), (*pattern).to_owned())).collect();
        let grok = compile(pattern, &own).expect("a pattern");
        let regex = regex::Regex::new(&grok.regex).expect("an expression");
        let found = regex.captures(line)?;
        let named = regex.capture_names().flatten().filter_map(|group| {
            let field = grok.fields.get(group).map_or(group, |(field, _)| field);
            Some((field.to_owned(), found.name(group)?.as_str().to_owned()))
        });
        Some(named.collect())
    }

    fn told(pattern: &str, line: &str) -> String {
        let found = fields(pattern, &[], line).unwrap_or_else(|| panic!("`{pattern}` does not fit `{line}`"));
        found.iter().map(|(name, text)| format!("{name}={text}")).collect::<Vec<_>>().join("|")
    }

    #[test]
    fn every_known_pattern_is_one_and_each_name_is_there_once() {
        for (at, (name, _)) in KNOWN.iter().enumerate() {
            compile(&format!("%{{{name}}}"), &BTreeMap::new())
                .unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(KNOWN[at + 1..].iter().all(|(other, _)| other != name), "{name}");
        }
    }

    #[test]
    fn known_patterns_fit_what_they_are_called_after_and_nothing_else() {
        for (name, fit, unfit) in [
            ("INT", &["0", "-17", "+4"][..], &["", "a", "1.5"][..]),
            ("NUMBER", &["0", "-1.5", ".5", "3.", "2e10", "+1E-9"], &["", ".", "e5"]),
            (
                "IPV4",
                &["0.0.0.0", "255.1.20.300".split_at(11).0, "192.168.1.10"],
                &["256.1.1.1", "1.2.3", "a"],
            ),
            (
                "IPV6",
                &["::1", "fe80::1%eth0", "2001:db8:0:0:0:0:2:1", "::ffff:10.0.0.1"],
                &["1:2", "10.0.0.1", "g::1"],
            ),
            ("HOSTNAME", &["a", "web-1.example.com", "x.y."], &["-a", "a b"]),
            ("UUID", &["123e4567-e89b-12d3-a456-426614174000"], &["123e4567-e89b-12d3-a456"]),
            ("QS", &["\"a \\\" b\"", "''"], &["\"a", "a"]),
            ("MONTH", &["Jan", "september", "Sept"], &["Janu", "13"]),
            (
                "TIMESTAMP_ISO8601",
                &["2026-11-22T10:00:00.123Z", "2026-1-2 3:04", "2026-11-22 10:00:00,5+0100"],
                &["2026-13-40T10:00", "22/11/2026"],
            ),
            ("HTTPDATE", &["22/Nov/2026:10:00:00 +0100"], &["2026-11-22", "22/Nov/2026 10:00:00"]),
            ("SYSLOGTIMESTAMP", &["Nov  2 10:00:00", "Nov 22 10:00:00"], &["Nov 10:00:00"]),
            ("LOGLEVEL", &["INFO", "Warning", "err"], &["INF", "10"]),
            ("URI", &["https://u:p@example.com:8080/a/b?c=d#e", "ftp://h"], &["example.com/a", "://x"]),
            ("PATH", &["/var/log/x.log", "C:\\a\\b"], &["a/b", ""]),
            ("MAC", &["00:1A:2b:3c:4d:5e", "001a.2b3c.4d5e"], &["00:1A:2b"]),
            ("EMAILADDRESS", &["a.b+c@example.com"], &["a@", "example.com"]),
        ] {
            let whole = format!("^(?:%{{{name}}})$");
            for text in fit {
                assert!(fields(&whole, &[], text).is_some(), "{name} does not fit `{text}`");
            }
            for text in unfit {
                assert!(fields(&whole, &[], text).is_none(), "{name} fits `{text}`");
            }
        }
    }

    #[test]
    fn whole_lines_come_apart() {
        assert_eq!(
            told(
                "^%{COMBINEDAPACHELOG}$",
                "10.0.0.1 - frank [22/Nov/2026:10:00:00 +0000] \"GET /a?b=c HTTP/1.1\" 200 - \"-\" \"curl/8 (x)\""
            ),
            "clientip=10.0.0.1|ident=-|auth=frank|timestamp=22/Nov/2026:10:00:00 +0000|verb=GET|request=/a?b=c|httpversion=1.1|response=200|referrer=\"-\"|agent=\"curl/8 (x)\""
        );
        assert_eq!(
            told("%{SYSLOGLINE}", "Nov  2 10:00:00 web-1 sshd[42]: Accepted key"),
            "timestamp=Nov  2 10:00:00|logsource=web-1|program=sshd|pid=42|message=Accepted key"
        );
        assert_eq!(told(r"^%{LOGLEVEL:level} (?<rest>.*)$", "WARN a b"), "level=WARN|rest=a b");
    }

    #[test]
    fn own_patterns_come_first_and_may_hold_others() {
        let own = [("ID", "[A-Z]{2}%{INT:number:int}"), ("INT", "[0-9]")];
        let found = fields("%{ID:id} %{WORD:a}|%{WORD:a}", &own, "AB7 x").expect("it fits");
        assert_eq!(
            found,
            [("id", "AB7"), ("number", "7"), ("a", "x")].map(|(a, b)| (a.to_owned(), b.to_owned()))
        );
        let own = BTreeMap::from([("A".to_owned(), "%{B}".to_owned()), ("B".to_owned(), "%{A}".to_owned())]);
        assert_eq!(compile("%{A}", &own), Err("the pattern `A` holds itself".into()));
    }

    #[test]
    fn what_is_wrong_is_told() {
        let wrong = |pattern: &str| compile(pattern, &BTreeMap::new()).expect_err("it is wrong");
        assert_eq!(wrong("%{NUMBR:n}"), "there is no pattern `NUMBR`, did you mean `NUMBER`?");
        assert_eq!(wrong("%{Ω}"), "there is no pattern `Ω`: declare it under `patterns`");
        assert_eq!(wrong("%{INT:n:bool}"), "`bool` is no type of a field: `int`, `float` or `string`");
        assert_eq!(wrong("%{INT"), "`%{INT` has no closing brace");
        assert_eq!(wrong("%{INT:}"), "`%{INT:}` names no field");
        assert!(wrong("%{INT:a:int:b}").contains("too many colons"));
        assert!(wrong("(%{INT}").contains("no regular expression"));
    }
}
