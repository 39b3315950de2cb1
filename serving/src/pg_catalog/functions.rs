//! Functions that clients of PostgreSQL call to learn what is here.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, new_empty_array};
use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::error::Result as DfResult;
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature, Volatility,
};
use tarn_model::Error;

use super::relations::{more_type, schema_name, schema_oid, type_oid};
use super::{Facts, identifiers, is_visible};
use crate::error::into_datafusion;
use crate::postgres::settings::SERVER_VERSION;
use crate::postgres::types::ColumnKind;

/// What `'t'::regclass` and its kin become.
pub(super) const REGCLASS: &str = "tarn_regclass";
pub(super) const REGCLASS_NAME: &str = "tarn_regclass_name";
pub(super) const REGTYPE: &str = "tarn_regtype";
pub(super) const REGNAMESPACE: &str = "tarn_regnamespace";
pub(super) const REGNAMESPACE_NAME: &str = "tarn_regnamespace_name";

const TEXT: DataType = DataType::Utf8;
const INT: DataType = DataType::Int32;
const LONG: DataType = DataType::Int64;
const FLAG: DataType = DataType::Boolean;

/// By name: what they give.
const FUNCTIONS: &[(&str, DataType)] = &[
    (REGCLASS, INT),
    (REGCLASS_NAME, TEXT),
    (REGTYPE, INT),
    (REGNAMESPACE, INT),
    (REGNAMESPACE_NAME, TEXT),
    ("array_lower", INT),
    ("array_upper", INT),
    ("col_description", TEXT),
    ("current_catalog", TEXT),
    ("current_database", TEXT),
    ("current_role", TEXT),
    ("current_schema", TEXT),
    ("current_setting", TEXT),
    ("current_user", TEXT),
    ("format", TEXT),
    ("format_type", TEXT),
    ("getdatabaseencoding", TEXT),
    ("has_any_column_privilege", FLAG),
    ("has_column_privilege", FLAG),
    ("has_database_privilege", FLAG),
    ("has_function_privilege", FLAG),
    ("has_schema_privilege", FLAG),
    ("has_sequence_privilege", FLAG),
    ("has_table_privilege", FLAG),
    ("inet_client_addr", TEXT),
    ("inet_client_port", INT),
    ("inet_server_addr", TEXT),
    ("inet_server_port", INT),
    ("obj_description", TEXT),
    ("pg_backend_pid", INT),
    ("pg_char_to_encoding", INT),
    ("pg_collation_is_visible", FLAG),
    ("pg_database_size", LONG),
    ("pg_encoding_to_char", TEXT),
    ("pg_function_is_visible", FLAG),
    ("pg_get_constraintdef", TEXT),
    ("pg_get_expr", TEXT),
    ("pg_get_function_arguments", TEXT),
    ("pg_get_function_identity_arguments", TEXT),
    ("pg_get_function_result", TEXT),
    ("pg_get_functiondef", TEXT),
    ("pg_get_indexdef", TEXT),
    ("pg_get_partition_constraintdef", TEXT),
    ("pg_get_partkeydef", TEXT),
    ("pg_get_ruledef", TEXT),
    ("pg_get_serial_sequence", TEXT),
    ("pg_get_statisticsobjdef_columns", TEXT),
    ("pg_get_triggerdef", TEXT),
    ("pg_get_userbyid", TEXT),
    ("pg_get_viewdef", TEXT),
    ("pg_has_role", FLAG),
    ("pg_indexes_size", LONG),
    ("pg_is_in_recovery", FLAG),
    ("pg_is_other_temp_schema", FLAG),
    ("pg_my_temp_schema", INT),
    ("pg_opclass_is_visible", FLAG),
    ("pg_operator_is_visible", FLAG),
    ("pg_postmaster_start_time", TEXT),
    ("pg_relation_is_publishable", FLAG),
    ("pg_relation_size", LONG),
    ("pg_size_pretty", TEXT),
    ("pg_table_is_visible", FLAG),
    ("pg_table_size", LONG),
    ("pg_stat_get_numscans", LONG),
    ("pg_tablespace_location", TEXT),
    ("pg_total_relation_size", LONG),
    ("pg_type_is_visible", FLAG),
    ("quote_ident", TEXT),
    ("quote_literal", TEXT),
    ("session_user", TEXT),
    ("shobj_description", TEXT),
    ("to_regclass", INT),
    ("to_regtype", INT),
    ("user", TEXT),
    ("version", TEXT),
];

/// Those that give lists of texts.
const LISTS: &[&str] = &["current_schemas", "parse_ident"];

/// All of them, for one statement.
pub(super) fn all(facts: &Arc<Facts>) -> impl Iterator<Item = ScalarUDF> {
    let lists = LISTS.iter().map(|name| (*name, DataType::new_list(TEXT, true)));
    FUNCTIONS.iter().cloned().chain(lists).map(|(name, gives)| {
        let signature = TypeSignature::OneOf(vec![TypeSignature::Nullary, TypeSignature::VariadicAny]);
        ScalarUDF::new_from_impl(CatalogFunction {
            name,
            gives,
            signature: Signature::new(signature, Volatility::Stable),
            facts: Arc::clone(facts),
        })
    })
}

/// Whether `name` is one of these.
pub(super) fn is_known(name: &str) -> bool {
    LISTS.contains(&name) || FUNCTIONS.iter().any(|(known, _)| *known == name)
}

#[derive(Debug)]
struct CatalogFunction {
    name: &'static str,
    gives: DataType,
    signature: Signature,
    facts: Arc<Facts>,
}

impl PartialEq for CatalogFunction {
    fn eq(&self, other: &CatalogFunction) -> bool {
        self.name == other.name && Arc::ptr_eq(&self.facts, &other.facts)
    }
}

impl Eq for CatalogFunction {}

impl Hash for CatalogFunction {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl ScalarUDFImpl for CatalogFunction {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DfResult<DataType> {
        Ok(self.gives.clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let rows = args.number_rows;
        if rows == 0 {
            return Ok(ColumnarValue::Array(new_empty_array(&self.gives)));
        }
        let arrays: Vec<ArrayRef> =
            args.args.iter().map(|value| value.to_array(rows)).collect::<DfResult<_>>()?;
        let value = |row: usize| {
            let args = arrays.iter().map(|array| ScalarValue::try_from_array(array, row));
            self.value(&Args(args.collect::<DfResult<Vec<_>>>()?))?.cast_to(&self.gives)
        };
        let values = (0..rows).map(value).collect::<DfResult<Vec<_>>>()?;
        Ok(ColumnarValue::Array(ScalarValue::iter_to_array(values)?))
    }
}

/// The arguments of one call.
struct Args(Vec<ScalarValue>);

impl Args {
    fn text(&self, at: usize) -> Option<String> {
        match self.0.get(at)?.cast_to(&DataType::Utf8).ok()? {
            ScalarValue::Utf8(text) => text,
            _ => None,
        }
    }

    fn int(&self, at: usize) -> Option<i32> {
        self.text(at)?.trim().parse().ok()
    }

    fn long(&self, at: usize) -> Option<i64> {
        let text = self.text(at)?;
        text.split('.').next()?.trim().parse().ok()
    }
}

impl CatalogFunction {
    fn value(&self, args: &Args) -> DfResult<ScalarValue> {
        let visitor = &self.facts.visitor;
        let text = |text: Option<String>| Ok(ScalarValue::Utf8(text));
        let int = |number: Option<i32>| Ok(ScalarValue::Int32(number));
        let flag = |flag: Option<bool>| Ok(ScalarValue::Boolean(flag));
        match self.name {
            "version" => text(Some(format!("PostgreSQL {} {}", SERVER_VERSION, env!("CARGO_PKG_VERSION")))),
            "current_catalog" | "current_database" => text(Some(visitor.database.clone())),
            "current_schema" => text(Some("public".to_owned())),
            "current_schemas" => {
                let schemas = ["pg_catalog", "public"].map(str::to_owned);
                let with_implicit = args.text(0).is_none_or(|flag| flag == "true");
                Ok(list(if with_implicit { &schemas[..] } else { &schemas[1..] }))
            }
            "parse_ident" => Ok(match args.text(0) {
                Some(name) => list(&identifiers(&name)),
                None => ScalarValue::try_new_null(&self.gives)?,
            }),
            "format" => text(args.text(0).map(|pattern| formatted(&pattern, args))),
            "current_user" | "current_role" | "session_user" | "user" => text(Some(visitor.user.clone())),
            "current_setting" => {
                let Some(name) = args.text(0) else { return text(None) };
                let is_missing_ok = args.text(1).is_some_and(|flag| flag == "true");
                match visitor.settings.get(&name) {
                    Ok(value) => text(Some(value.to_owned())),
                    Err(_) if is_missing_ok => text(None),
                    Err(error) => Err(into_datafusion(error)),
                }
            }
            "pg_backend_pid" => int(Some(visitor.process)),
            "inet_server_addr" => text(Some(visitor.address.ip().to_string())),
            "inet_server_port" => int(Some(i32::from(visitor.address.port()))),
            "pg_get_userbyid" => text(args.int(0).map(|oid| match oid {
                10 => "tarn".to_owned(),
                11 => visitor.user.clone(),
                other => format!("unknown (OID={other})"),
            })),
            "pg_encoding_to_char" | "getdatabaseencoding" => text(Some("UTF8".to_owned())),
            "pg_char_to_encoding" => int(Some(6)),
            "pg_table_is_visible" => flag(args.int(0).map(is_visible)),
            "pg_type_is_visible"
            | "pg_function_is_visible"
            | "pg_collation_is_visible"
            | "pg_opclass_is_visible"
            | "pg_operator_is_visible"
            | "pg_has_role" => flag(Some(true)),
            "pg_is_in_recovery" | "pg_is_other_temp_schema" | "pg_relation_is_publishable" => {
                flag(Some(false))
            }
            "pg_my_temp_schema" => int(Some(0)),
            name if name.starts_with("has_") => {
                let wanted = args.0.len().checked_sub(1).and_then(|last| args.text(last)).unwrap_or_default();
                let reads = ["select", "usage", "connect", "execute"];
                flag(Some(reads.iter().any(|read| wanted.to_lowercase().contains(read))))
            }
            "format_type" => {
                text(args.int(0).map(|oid| {
                    type_shown(oid, args.int(1).unwrap_or(-1)).unwrap_or_else(|| "???".to_owned())
                }))
            }
            "quote_ident" => text(args.text(0).map(|name| quote_ident(&name))),
            "quote_literal" => text(args.text(0).map(|value| quote_literal(&value))),
            "pg_size_pretty" => text(args.long(0).map(size)),
            "array_upper" => int(length_of(&args.0).filter(|length| *length > 0)),
            "array_lower" => int(length_of(&args.0).filter(|length| *length > 0).map(|_| 1)),
            "to_regclass" => {
                int(args.text(0).and_then(|name| self.facts.named(&name)).map(|relation| relation.oid))
            }
            "to_regtype" => int(args.text(0).and_then(|name| type_oid(&name))),
            REGCLASS => {
                let Some(name) = args.text(0) else { return int(None) };
                match (self.facts.named(&name), name.parse::<i32>()) {
                    (Some(relation), _) => int(Some(relation.oid)),
                    (None, Ok(oid)) => int(Some(oid)),
                    (None, Err(_)) if name.trim_start_matches("pg_catalog.").starts_with("pg_") => {
                        int(Some(0))
                    }
                    (None, Err(_)) => Err(into_datafusion(
                        Error::invalid(format!("there is no table `{name}`")).with_sqlstate("42P01"),
                    )),
                }
            }
            REGCLASS_NAME => text(args.text(0).map(|oid| match self.facts.named(&oid) {
                Some(relation) if is_visible(relation.oid) => quote_ident(&relation.name),
                Some(relation) => format!("{}.{}", relation.schema, quote_ident(&relation.name)),
                None => oid,
            })),
            REGTYPE => match args.text(0) {
                None => int(None),
                Some(name) => match type_oid(&name).or_else(|| name.parse().ok()) {
                    Some(oid) => int(Some(oid)),
                    None => Err(into_datafusion(
                        Error::invalid(format!("there is no type `{name}`")).with_sqlstate("42704"),
                    )),
                },
            },
            REGNAMESPACE => int(args.text(0).map(|name| schema_oid(&name))),
            REGNAMESPACE_NAME => text(
                args.text(0).map(|oid| oid.parse().ok().and_then(schema_name).map_or(oid, str::to_owned)),
            ),
            // Nothing is known, and nothing is said.
            _ => ScalarValue::try_new_null(&self.gives),
        }
    }
}

fn list(texts: &[String]) -> ScalarValue {
    let texts: Vec<ScalarValue> = texts.iter().map(|text| ScalarValue::Utf8(Some(text.clone()))).collect();
    ScalarValue::List(ScalarValue::new_list(&texts, &DataType::Utf8, true))
}

/// `%s`, `%I` (a name), `%L` (a string) and `%%`, filled one after another.
fn formatted(pattern: &str, args: &Args) -> String {
    let (mut out, mut next) = (String::new(), 1);
    let mut letters = pattern.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            out.push(letter);
            continue;
        }
        let kind = letters.next().unwrap_or('%');
        if kind == '%' {
            out.push('%');
            continue;
        }
        let value = args.text(next);
        next += 1;
        match (kind, value) {
            ('I', Some(name)) => out.push_str(&quote_ident(&name)),
            ('L', Some(value)) => out.push_str(&quote_literal(&value)),
            ('L', None) => out.push_str("NULL"),
            (_, value) => out.push_str(&value.unwrap_or_default()),
        }
    }
    out
}

fn length_of(args: &[ScalarValue]) -> Option<i32> {
    let Some(ScalarValue::List(list)) = args.first() else { return None };
    if list.is_null(0) {
        return None;
    }
    i32::try_from(list.value(0).len()).ok()
}

/// A name as it must be written in a statement.
fn quote_ident(name: &str) -> String {
    let is_plain = name.chars().next().is_some_and(|first| first.is_ascii_lowercase() || first == '_')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if is_plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

fn quote_literal(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}

fn size(bytes: i64) -> String {
    let units = ["bytes", "kB", "MB", "GB", "TB"];
    let (mut value, mut unit) = (bytes, 0);
    while value.abs() >= 10 * 1024 && unit + 1 < units.len() {
        value = (value + 512) / 1024;
        unit += 1;
    }
    format!("{value} {}", units[unit])
}

/// The short name of a type: `int8`, `_int8` for its array.
pub(super) fn type_name(oid: i32) -> Option<String> {
    match ColumnKind::from_oid(u32::try_from(oid).ok()?) {
        Some(ColumnKind::One(kind)) => Some(kind.name().to_owned()),
        Some(ColumnKind::Array(item)) => Some(format!("_{}", item.name())),
        None => more_type(oid).map(str::to_owned),
    }
}

/// The name of a type as people write it: `numeric(10,2)`, `bigint[]`.
pub(super) fn type_shown(oid: i32, modifier: i32) -> Option<String> {
    match ColumnKind::from_oid(u32::try_from(oid).ok()?) {
        Some(ColumnKind::One(kind)) if kind.name() == "numeric" && modifier >= 4 => {
            let modifier = modifier - 4;
            Some(format!("numeric({},{})", modifier >> 16, modifier & 0xffff))
        }
        Some(ColumnKind::One(kind)) => Some(kind.shown().to_owned()),
        Some(ColumnKind::Array(item)) => Some(format!("{}[]", item.shown())),
        None => match oid {
            1042 => Some("character".to_owned()),
            1043 => Some("character varying".to_owned()),
            18 => Some("\"char\"".to_owned()),
            oid => more_type(oid).map(str::to_owned),
        },
    }
}
