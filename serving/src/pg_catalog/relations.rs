//! Catalogs that have rows: schemas, tables, columns, types, and the one database.

use datafusion::common::ScalarValue;
use datafusion::sql::sqlparser::keywords::ALL_KEYWORDS;

use super::functions::{type_name, type_shown};
use super::sheet::Sheet;
use super::{Facts, SCHEMA};
use crate::postgres::types::{ColumnKind, PgType, modifier};

/// All of them.
pub(super) const NAMES: &[&str] = &[
    "pg_am",
    "pg_attribute",
    "pg_authid",
    "pg_class",
    "pg_database",
    KEYWORDS,
    "pg_namespace",
    "pg_roles",
    "pg_settings",
    "pg_tables",
    "pg_tablespace",
    "pg_type",
    "pg_user",
    "pg_views",
    "information_schema_columns",
    "information_schema_schemata",
    "information_schema_tables",
    "information_schema_views",
];

/// A function there, a table here.
pub(super) const KEYWORDS: &str = "pg_get_keywords";

const OWNER: i32 = 10;
const OWNER_NAME: &str = "tarn";
const DATABASE: i32 = 5;
const PUBLIC: i32 = 2200;
const PG_CATALOG: i32 = 11;
const INFORMATION_SCHEMA: i32 = 13_000;
const HEAP: i32 = 2;

/// Types that are no column's, but that clients look up: number, name, length, kind, category.
const MORE_TYPES: &[(i32, &str, i16, &str, &str)] = &[
    (18, "char", 1, "b", "Z"),
    (19, "name", 64, "b", "S"),
    (22, "int2vector", -1, "b", "A"),
    (24, "regproc", 4, "b", "N"),
    (26, "oid", 4, "b", "N"),
    (30, "oidvector", -1, "b", "A"),
    (142, "xml", -1, "b", "U"),
    (705, "unknown", -2, "p", "X"),
    (1042, "bpchar", -1, "b", "S"),
    (1043, "varchar", -1, "b", "S"),
    (2205, "regclass", 4, "b", "N"),
    (2206, "regtype", 4, "b", "N"),
    (2249, "record", -1, "p", "P"),
    (2278, "void", 4, "p", "P"),
    (2950, "uuid", 16, "b", "U"),
    (3802, "jsonb", -1, "b", "U"),
];

fn text(value: impl Into<String>) -> ScalarValue {
    ScalarValue::Utf8(Some(value.into()))
}

fn int(value: i32) -> ScalarValue {
    ScalarValue::Int32(Some(value))
}

fn small(value: usize) -> ScalarValue {
    ScalarValue::Int16(i16::try_from(value).ok())
}

fn flag(value: bool) -> ScalarValue {
    ScalarValue::Boolean(Some(value))
}

fn number(oid: u32) -> i32 {
    i32::try_from(oid).unwrap_or(0)
}

/// The schemas, with their numbers.
fn schemas() -> [(&'static str, i32); 5] {
    [
        ("public", PUBLIC),
        ("lake", 2201),
        ("live", 2202),
        (SCHEMA, PG_CATALOG),
        ("information_schema", INFORMATION_SCHEMA),
    ]
}

pub(super) fn schema_oid(name: &str) -> i32 {
    schemas().into_iter().find(|(known, _)| *known == name).map_or(0, |(_, oid)| oid)
}

pub(super) fn schema_name(oid: i32) -> Option<&'static str> {
    schemas().into_iter().find(|(_, known)| *known == oid).map(|(name, _)| name)
}

/// The catalog of this name.
pub(super) fn sheet(name: &str, facts: &Facts) -> Option<Sheet> {
    Some(match name {
        "pg_am" => pg_am(),
        "pg_attribute" => pg_attribute(facts),
        "pg_authid" | "pg_roles" => pg_roles(facts),
        "pg_class" => pg_class(facts),
        "pg_database" => pg_database(facts),
        KEYWORDS => pg_get_keywords(),
        "pg_namespace" => pg_namespace(),
        "pg_settings" => pg_settings(facts),
        "pg_tables" => pg_tables(facts),
        "pg_tablespace" => pg_tablespace(),
        "pg_type" => pg_type(),
        "pg_user" => pg_user(facts),
        "pg_views" => pg_views(facts),
        "information_schema_columns" => columns(facts),
        "information_schema_schemata" => schemata(facts),
        "information_schema_tables" => tables(facts),
        "information_schema_views" => views(facts),
        _ => return None,
    })
}

fn pg_am() -> Sheet {
    let mut sheet = Sheet::new("oid:o amname amhandler amtype");
    sheet.row([("oid", int(HEAP)), ("amname", text("heap")), ("amtype", text("t"))]);
    sheet
}

fn pg_get_keywords() -> Sheet {
    let mut sheet = Sheet::new("word catcode:t=U barelabel:b=true catdesc:t=unreserved baredesc");
    for keyword in ALL_KEYWORDS {
        sheet.row([("word", text(keyword.to_lowercase()))]);
    }
    sheet
}

fn pg_namespace() -> Sheet {
    let mut sheet = Sheet::new("oid:o nspname nspowner:o=10 nspacl:T");
    for (name, oid) in schemas() {
        sheet.row([("oid", int(oid)), ("nspname", text(name))]);
    }
    sheet
}

fn pg_class(facts: &Facts) -> Sheet {
    let mut sheet = Sheet::new(
        "oid:o relname relnamespace:o reltype:o=0 reloftype:o=0 relowner:o=10 relam:o=0 relfilenode:o=0 reltablespace:o=0 \
         relpages:i=0 reltuples:f=-1 relallvisible:i=0 reltoastrelid:o=0 relhasindex:b=false relisshared:b=false \
         relpersistence:t=p relkind:t relnatts:s relchecks:s=0 relhasoids:b=false relhasrules:b=false \
         relhastriggers:b=false relhassubclass:b=false relrowsecurity:b=false relforcerowsecurity:b=false \
         relispopulated:b=true relreplident:t=n relispartition:b=false relrewrite:o=0 relfrozenxid:i=0 relminmxid:i=0 \
         relacl:T reloptions:T relpartbound",
    );
    for relation in facts.relations() {
        sheet.row([
            ("oid", int(relation.oid)),
            ("relname", text(&relation.name)),
            ("relnamespace", int(schema_oid(relation.schema))),
            ("relam", int(if relation.is_view { 0 } else { HEAP })),
            ("relkind", text(if relation.is_view { "v" } else { "r" })),
            ("relnatts", small(relation.columns.fields().len())),
        ]);
    }
    sheet
}

fn pg_attribute(facts: &Facts) -> Sheet {
    let mut sheet = Sheet::new(
        "attrelid:o attname atttypid:o attstattarget:i=-1 attlen:s attnum:s attndims:i=0 attcacheoff:i=-1 atttypmod:i=-1 \
         attbyval:b=false attalign:t=i attstorage:t=p attcompression:t= attnotnull:b atthasdef:b=false \
         atthasmissing:b=false attidentity:t= attgenerated:t= attisdropped:b=false attislocal:b=true attinhcount:i=0 \
         attcollation:o=0 attacl:T attoptions:T attfdwoptions:T attmissingval:T",
    );
    for relation in facts.relations() {
        for (at, field) in relation.columns.fields().iter().enumerate() {
            let kind = ColumnKind::of(field.data_type());
            sheet.row([
                ("attrelid", int(relation.oid)),
                ("attname", text(field.name())),
                ("atttypid", int(number(kind.oid()))),
                ("attlen", ScalarValue::Int16(Some(kind.size()))),
                ("attnum", small(at + 1)),
                ("attndims", int(i32::from(matches!(kind, ColumnKind::Array(_))))),
                ("atttypmod", int(modifier(field.data_type()))),
                ("attnotnull", flag(!field.is_nullable())),
            ]);
        }
    }
    sheet
}

fn pg_type() -> Sheet {
    let mut sheet = Sheet::new(
        "oid:o typname typnamespace:o=11 typowner:o=10 typlen:s typbyval:b=false typtype:t=b typcategory typispreferred:b=false \
         typisdefined:b=true typdelim:t=, typrelid:o=0 typsubscript:t=- typelem:o=0 typarray:o=0 typinput:t=- typoutput:t=- \
         typreceive:t=- typsend:t=- typmodin:t=- typmodout:t=- typanalyze:t=- typalign:t=i typstorage:t=p typnotnull:b=false \
         typbasetype:o=0 typtypmod:i=-1 typndims:i=0 typcollation:o=0 typdefaultbin typdefault typacl:T",
    );
    for kind in PgType::ALL {
        let category = match kind {
            PgType::Bool => "B",
            PgType::Bytea | PgType::Json => "U",
            PgType::Text => "S",
            PgType::Date | PgType::Time | PgType::Timestamp | PgType::Timestamptz => "D",
            PgType::Interval => "T",
            _ => "N",
        };
        sheet.row([
            ("oid", int(number(kind.oid()))),
            ("typname", text(kind.name())),
            ("typlen", ScalarValue::Int16(Some(kind.size()))),
            ("typcategory", text(category)),
            ("typarray", int(number(kind.array_oid()))),
            ("typinput", text(format!("{}in", kind.name()))),
        ]);
        sheet.row([
            ("oid", int(number(kind.array_oid()))),
            ("typname", text(format!("_{}", kind.name()))),
            ("typlen", ScalarValue::Int16(Some(-1))),
            ("typcategory", text("A")),
            ("typelem", int(number(kind.oid()))),
            ("typinput", text("array_in")),
        ]);
    }
    for (oid, name, length, kind, category) in MORE_TYPES {
        sheet.row([
            ("oid", int(*oid)),
            ("typname", text(*name)),
            ("typlen", ScalarValue::Int16(Some(*length))),
            ("typtype", text(*kind)),
            ("typcategory", text(*category)),
            ("typinput", text(format!("{name}in"))),
        ]);
    }
    sheet
}

fn pg_database(facts: &Facts) -> Sheet {
    let mut sheet = Sheet::new(
        "oid:o datname datdba:o=10 encoding:i=6 datlocprovider:t=c datistemplate:b=false datallowconn:b=true datconnlimit:i=-1 \
         datlastsysoid:o=0 datfrozenxid:i=0 datminmxid:i=0 dattablespace:o=1663 datcollate:t=C datctype:t=C daticulocale \
         datcollversion datacl:T",
    );
    sheet.row([("oid", int(DATABASE)), ("datname", text(&facts.visitor.database))]);
    sheet
}

fn pg_roles(facts: &Facts) -> Sheet {
    let mut sheet = Sheet::new(
        "oid:o rolname rolsuper:b=false rolinherit:b=true rolcreaterole:b=false rolcreatedb:b=false rolcanlogin:b=true \
         rolreplication:b=false rolconnlimit:i=-1 rolpassword rolvaliduntil rolbypassrls:b=false rolconfig:T",
    );
    sheet.row([("oid", int(OWNER)), ("rolname", text(OWNER_NAME))]);
    if facts.visitor.user != OWNER_NAME {
        sheet.row([("oid", int(OWNER + 1)), ("rolname", text(&facts.visitor.user))]);
    }
    sheet
}

fn pg_user(facts: &Facts) -> Sheet {
    let mut sheet = Sheet::new(
        "usename usesysid:o usecreatedb:b=false usesuper:b=false userepl:b=false usebypassrls:b=false passwd valuntil useconfig:T",
    );
    sheet.row([("usename", text(&facts.visitor.user)), ("usesysid", int(OWNER + 1))]);
    sheet
}

fn pg_settings(facts: &Facts) -> Sheet {
    let mut sheet = Sheet::new(
        "name setting unit category:t=Tarn short_desc extra_desc context:t=user vartype:t=string source:t=default min_val max_val \
         enumvals:T boot_val reset_val sourcefile sourceline:i pending_restart:b=false",
    );
    for (name, value) in facts.visitor.settings.iter() {
        sheet.row([("name", text(name)), ("setting", text(value)), ("reset_val", text(value))]);
    }
    sheet
}

fn pg_tablespace() -> Sheet {
    let mut sheet = Sheet::new("oid:o spcname spcowner:o=10 spcacl:T spcoptions:T");
    sheet.row([("oid", int(1663)), ("spcname", text("pg_default"))]);
    sheet
}

fn pg_tables(facts: &Facts) -> Sheet {
    let mut sheet = Sheet::new(
        "schemaname tablename tableowner:t=tarn tablespace hasindexes:b=false hasrules:b=false hastriggers:b=false rowsecurity:b=false",
    );
    for relation in facts.relations().iter().filter(|relation| !relation.is_view) {
        sheet.row([("schemaname", text(relation.schema)), ("tablename", text(&relation.name))]);
    }
    sheet
}

fn pg_views(facts: &Facts) -> Sheet {
    let mut sheet = Sheet::new("schemaname viewname viewowner:t=tarn definition");
    for relation in facts.relations().iter().filter(|relation| relation.is_view) {
        sheet.row([("schemaname", text(relation.schema)), ("viewname", text(&relation.name))]);
    }
    sheet
}

fn tables(facts: &Facts) -> Sheet {
    let mut sheet = Sheet::new(
        "table_catalog table_schema table_name table_type self_referencing_column_name reference_generation \
         user_defined_type_catalog user_defined_type_schema user_defined_type_name is_insertable_into:t=NO is_typed:t=NO \
         commit_action",
    );
    for relation in facts.relations() {
        sheet.row([
            ("table_catalog", text(&facts.visitor.database)),
            ("table_schema", text(relation.schema)),
            ("table_name", text(&relation.name)),
            ("table_type", text(if relation.is_view { "VIEW" } else { "BASE TABLE" })),
        ]);
    }
    sheet
}

fn views(facts: &Facts) -> Sheet {
    let mut sheet = Sheet::new(
        "table_catalog table_schema table_name view_definition check_option:t=NONE is_updatable:t=NO is_insertable_into:t=NO",
    );
    for relation in facts.relations().iter().filter(|relation| relation.is_view) {
        sheet.row([
            ("table_catalog", text(&facts.visitor.database)),
            ("table_schema", text(relation.schema)),
            ("table_name", text(&relation.name)),
        ]);
    }
    sheet
}

fn schemata(facts: &Facts) -> Sheet {
    let mut sheet = Sheet::new(
        "catalog_name schema_name schema_owner:t=tarn default_character_set_catalog default_character_set_schema \
         default_character_set_name sql_path",
    );
    for (name, _) in schemas() {
        sheet.row([("catalog_name", text(&facts.visitor.database)), ("schema_name", text(name))]);
    }
    sheet
}

fn columns(facts: &Facts) -> Sheet {
    let mut sheet = Sheet::new(
        "table_catalog table_schema table_name column_name ordinal_position:i column_default is_nullable data_type \
         character_maximum_length:i character_octet_length:i numeric_precision:i numeric_precision_radix:i numeric_scale:i \
         datetime_precision:i interval_type character_set_name collation_name domain_name udt_catalog udt_schema:t=pg_catalog \
         udt_name is_self_referencing:t=NO is_identity:t=NO identity_generation is_generated:t=NEVER generation_expression \
         is_updatable:t=NO",
    );
    for relation in facts.relations() {
        for (at, field) in relation.columns.fields().iter().enumerate() {
            let kind = ColumnKind::of(field.data_type());
            let shown = match kind {
                ColumnKind::One(_) => type_shown(number(kind.oid()), -1),
                ColumnKind::Array(_) => Some("ARRAY".to_owned()),
            };
            let (precision, scale) = match modifier(field.data_type()) - 4 {
                modifier if modifier >= 0 => (Some(modifier >> 16), Some(modifier & 0xffff)),
                _ => (None, None),
            };
            sheet.row([
                ("table_catalog", text(&facts.visitor.database)),
                ("table_schema", text(relation.schema)),
                ("table_name", text(&relation.name)),
                ("column_name", text(field.name())),
                ("ordinal_position", int(i32::try_from(at + 1).unwrap_or(i32::MAX))),
                ("is_nullable", text(if field.is_nullable() { "YES" } else { "NO" })),
                ("data_type", ScalarValue::Utf8(shown)),
                ("numeric_precision", ScalarValue::Int32(precision)),
                ("numeric_scale", ScalarValue::Int32(scale)),
                ("udt_catalog", text(&facts.visitor.database)),
                ("udt_name", ScalarValue::Utf8(type_name(number(kind.oid())))),
            ]);
        }
    }
    sheet
}

/// The number of the type of this name, as `pg_type` or `format_type` has it.
pub(super) fn type_oid(name: &str) -> Option<i32> {
    let name = name.trim().trim_start_matches("pg_catalog.").trim_matches('"').to_lowercase();
    let (name, is_array) = name.strip_suffix("[]").map_or((name.as_str(), false), |name| (name, true));
    let known = PgType::ALL.into_iter().find(|kind| kind.name() == name || kind.shown() == name);
    match known {
        Some(kind) => Some(number(if is_array { kind.array_oid() } else { kind.oid() })),
        None => MORE_TYPES.iter().find(|(_, known, ..)| *known == name).map(|(oid, ..)| *oid),
    }
}

/// The name of one of [`MORE_TYPES`].
pub(super) fn more_type(oid: i32) -> Option<&'static str> {
    MORE_TYPES.iter().find(|(known, ..)| *known == oid).map(|(_, name, ..)| *name)
}
