//! Catalogs that never have rows: what they tell of is not here.

use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::error::Result as DfResult;

use super::sheet::Sheet;

/// Table functions that give no rows either.
const FUNCTIONS: &[&str] = &[
    "pg_available_extensions",
    "pg_show_all_file_settings",
    "pg_listening_channels",
    "pg_get_publication_tables",
    "pg_partition_tree",
    "pg_partition_ancestors",
];

/// By name, with their columns.
const TABLES: &[(&str, &str)] = &[
    ("pg_aggregate", "aggfnoid:t aggkind aggnumdirectargs:s aggtransfn"),
    (
        "pg_amop",
        "oid:o amopfamily:o amoplefttype:o amoprighttype:o amopstrategy:s amoppurpose amopopr:o amopmethod:o amopsortfamily:o",
    ),
    ("pg_attrdef", "oid:o adrelid:o adnum:s adbin adsrc"),
    ("pg_auth_members", "oid:o roleid:o member:o grantor:o admin_option:b"),
    ("pg_available_extensions", "name default_version installed_version comment"),
    ("pg_cast", "oid:o castsource:o casttarget:o castfunc:o castcontext castmethod"),
    (
        "pg_collation",
        "oid:o collname collnamespace:o collowner:o collprovider collisdeterministic:b collencoding:i collcollate collctype colliculocale collversion",
    ),
    (
        "pg_constraint",
        "oid:o conname connamespace:o contype condeferrable:b condeferred:b convalidated:b conrelid:o contypid:o conindid:o conparentid:o confrelid:o confupdtype confdeltype confmatchtype conislocal:b coninhcount:i connoinherit:b conkey:S confkey:S conpfeqop:O conppeqop:O conffeqop:O conexclop:O conbin consrc",
    ),
    (
        "pg_conversion",
        "oid:o conname connamespace:o conowner:o conforencoding:i contoencoding:i conproc condefault:b",
    ),
    ("pg_cursors", "name statement is_holdable:b is_binary:b is_scrollable:b creation_time"),
    ("pg_db_role_setting", "setdatabase:o setrole:o setconfig:T"),
    ("pg_default_acl", "oid:o defaclrole:o defaclnamespace:o defaclobjtype defaclacl:T"),
    ("pg_depend", "classid:o objid:o objsubid:i refclassid:o refobjid:o refobjsubid:i deptype"),
    ("pg_description", "objoid:o classoid:o objsubid:i description"),
    ("pg_enum", "oid:o enumtypid:o enumsortorder:f enumlabel"),
    ("pg_event_trigger", "oid:o evtname evtevent evtowner:o evtfoid:o evtenabled evttags:T"),
    (
        "pg_extension",
        "oid:o extname extowner:o extnamespace:o extrelocatable:b extversion extconfig:O extcondition:T",
    ),
    ("pg_foreign_data_wrapper", "oid:o fdwname fdwowner:o fdwhandler:o fdwvalidator:o fdwacl:T fdwoptions:T"),
    ("pg_foreign_server", "oid:o srvname srvowner:o srvfdw:o srvtype srvversion srvacl:T srvoptions:T"),
    ("pg_foreign_table", "ftrelid:o ftserver:o ftoptions:T"),
    (
        "pg_index",
        "indexrelid:o indrelid:o indnatts:s indnkeyatts:s indisunique:b indnullsnotdistinct:b indisprimary:b indisexclusion:b indimmediate:b indisclustered:b indisvalid:b indcheckxmin:b indisready:b indislive:b indisreplident:b indkey:S indcollation:O indclass:O indoption:S indexprs indpred",
    ),
    ("pg_indexes", "schemaname tablename indexname tablespace indexdef"),
    ("pg_inherits", "inhrelid:o inhparent:o inhseqno:i inhdetachpending:b"),
    (
        "pg_language",
        "oid:o lanname lanowner:o lanispl:b lanpltrusted:b lanplcallfoid:o laninline:o lanvalidator:o lanacl:T",
    ),
    ("pg_largeobject_metadata", "oid:o lomowner:o lomacl:T"),
    (
        "pg_locks",
        "locktype database:o relation:o page:i tuple:s virtualxid transactionid:i classid:o objid:o objsubid:s virtualtransaction pid:i mode granted:b fastpath:b",
    ),
    ("pg_matviews", "schemaname matviewname matviewowner tablespace hasindexes:b ispopulated:b definition"),
    (
        "pg_opclass",
        "oid:o opcmethod:o opcname opcnamespace:o opcowner:o opcfamily:o opcintype:o opcdefault:b opckeytype:o",
    ),
    (
        "pg_operator",
        "oid:o oprname oprnamespace:o oprowner:o oprkind oprcanmerge:b oprcanhash:b oprleft:o oprright:o oprresult:o oprcom:o oprnegate:o oprcode oprrest oprjoin",
    ),
    ("pg_opfamily", "oid:o opfmethod:o opfname opfnamespace:o opfowner:o"),
    (
        "pg_partitioned_table",
        "partrelid:o partstrat partnatts:s partdefid:o partattrs:S partclass:O partcollation:O partexprs",
    ),
    ("pg_policies", "schemaname tablename policyname permissive roles:T cmd qual with_check"),
    ("pg_policy", "oid:o polname polrelid:o polcmd polpermissive:b polroles:O polqual polwithcheck"),
    ("pg_prepared_statements", "name statement prepare_time parameter_types:T from_sql:b"),
    ("pg_prepared_xacts", "transaction:i gid prepared owner database"),
    (
        "pg_proc",
        "oid:o proname pronamespace:o proowner:o prolang:o procost:f prorows:f provariadic:o prosupport prokind prosecdef:b proleakproof:b proisstrict:b proretset:b provolatile proparallel pronargs:s pronargdefaults:s prorettype:o proargtypes:O proallargtypes:O proargmodes:T proargnames:T proargdefaults protrftypes:O prosrc probin prosqlbody proconfig:T proacl:T proisagg:b proiswindow:b",
    ),
    (
        "pg_publication",
        "oid:o pubname pubowner:o puballtables:b pubinsert:b pubupdate:b pubdelete:b pubtruncate:b pubviaroot:b",
    ),
    ("pg_publication_namespace", "oid:o pnpubid:o pnnspid:o"),
    ("pg_publication_rel", "oid:o prpubid:o prrelid:o prqual prattrs:S"),
    ("pg_publication_tables", "pubname schemaname tablename attnames:T rowfilter"),
    (
        "pg_range",
        "rngtypid:o rngsubtype:o rngmultitypid:o rngcollation:o rngsubopc:o rngcanonical rngsubdiff",
    ),
    ("pg_replication_slots", "slot_name plugin slot_type datoid:o database temporary:b active:b"),
    ("pg_rewrite", "oid:o rulename ev_class:o ev_type ev_enabled is_instead:b ev_qual ev_action"),
    ("pg_rules", "schemaname tablename rulename definition"),
    ("pg_seclabel", "objoid:o classoid:o objsubid:i provider label"),
    (
        "pg_sequence",
        "seqrelid:o seqtypid:o seqstart:l seqincrement:l seqmax:l seqmin:l seqcache:l seqcycle:b",
    ),
    (
        "pg_sequences",
        "schemaname sequencename sequenceowner data_type start_value:l min_value:l max_value:l increment_by:l cycle:b cache_size:l last_value:l",
    ),
    ("pg_shdepend", "dbid:o classid:o objid:o objsubid:i refclassid:o refobjid:o deptype"),
    ("pg_shdescription", "objoid:o classoid:o description"),
    ("pg_shseclabel", "objoid:o classoid:o provider label"),
    (
        "pg_stat_activity",
        "datid:o datname pid:i leader_pid:i usesysid:o usename application_name client_addr client_hostname client_port:i backend_start xact_start query_start state_change wait_event_type wait_event state backend_xid:i backend_xmin:i query_id:l query backend_type",
    ),
    (
        "pg_stat_all_tables",
        "relid:o schemaname relname seq_scan:l seq_tup_read:l idx_scan:l idx_tup_fetch:l n_live_tup:l n_dead_tup:l last_vacuum last_analyze",
    ),
    (
        "pg_stat_database",
        "datid:o datname numbackends:i xact_commit:l xact_rollback:l blks_read:l blks_hit:l",
    ),
    ("pg_stat_user_indexes", "relid:o indexrelid:o schemaname relname indexrelname idx_scan:l"),
    (
        "pg_stat_user_tables",
        "relid:o schemaname relname seq_scan:l seq_tup_read:l idx_scan:l idx_tup_fetch:l n_live_tup:l n_dead_tup:l last_vacuum last_analyze",
    ),
    ("pg_statio_user_tables", "relid:o schemaname relname heap_blks_read:l heap_blks_hit:l"),
    (
        "pg_statistic_ext",
        "oid:o stxrelid:o stxname stxnamespace:o stxowner:o stxstattarget:i stxkeys:S stxkind:T stxexprs",
    ),
    ("pg_stats", "schemaname tablename attname inherited:b null_frac:f avg_width:i n_distinct:f"),
    (
        "pg_subscription",
        "oid:o subdbid:o subname subowner:o subenabled:b subconninfo subslotname subsynccommit subpublications:T",
    ),
    ("pg_timezone_names", "name abbrev utc_offset is_dst:b"),
    ("pg_transform", "oid:o trftype:o trflang:o trffromsql:o trftosql:o"),
    (
        "pg_trigger",
        "oid:o tgrelid:o tgparentid:o tgname tgfoid:o tgtype:s tgenabled tgisinternal:b tgconstrrelid:o tgconstrindid:o tgconstraint:o tgdeferrable:b tginitdeferred:b tgnargs:s tgattr:S tgargs tgqual tgoldtable tgnewtable",
    ),
    ("pg_ts_config", "oid:o cfgname cfgnamespace:o cfgowner:o cfgparser:o"),
    ("pg_ts_dict", "oid:o dictname dictnamespace:o dictowner:o dicttemplate:o dictinitoption"),
    ("pg_ts_parser", "oid:o prsname prsnamespace:o"),
    ("pg_ts_template", "oid:o tmplname tmplnamespace:o"),
    ("pg_user_mapping", "oid:o umuser:o umserver:o umoptions:T"),
    (
        "information_schema_check_constraints",
        "constraint_catalog constraint_schema constraint_name check_clause",
    ),
    (
        "information_schema_column_privileges",
        "grantor grantee table_catalog table_schema table_name column_name privilege_type is_grantable",
    ),
    (
        "information_schema_constraint_column_usage",
        "table_catalog table_schema table_name column_name constraint_catalog constraint_schema constraint_name",
    ),
    (
        "information_schema_constraint_table_usage",
        "table_catalog table_schema table_name constraint_catalog constraint_schema constraint_name",
    ),
    ("information_schema_domains", "domain_catalog domain_schema domain_name data_type"),
    (
        "information_schema_key_column_usage",
        "constraint_catalog constraint_schema constraint_name table_catalog table_schema table_name column_name ordinal_position:i position_in_unique_constraint:i",
    ),
    (
        "information_schema_parameters",
        "specific_catalog specific_schema specific_name ordinal_position:i parameter_mode parameter_name data_type",
    ),
    (
        "information_schema_referential_constraints",
        "constraint_catalog constraint_schema constraint_name unique_constraint_catalog unique_constraint_schema unique_constraint_name match_option update_rule delete_rule",
    ),
    (
        "information_schema_role_table_grants",
        "grantor grantee table_catalog table_schema table_name privilege_type is_grantable with_hierarchy",
    ),
    (
        "information_schema_routines",
        "specific_catalog specific_schema specific_name routine_catalog routine_schema routine_name routine_type data_type routine_definition external_language",
    ),
    (
        "information_schema_sequences",
        "sequence_catalog sequence_schema sequence_name data_type start_value minimum_value maximum_value increment cycle_option",
    ),
    (
        "information_schema_table_constraints",
        "constraint_catalog constraint_schema constraint_name table_catalog table_schema table_name constraint_type is_deferrable initially_deferred enforced",
    ),
    (
        "information_schema_table_privileges",
        "grantor grantee table_catalog table_schema table_name privilege_type is_grantable with_hierarchy",
    ),
    (
        "information_schema_triggers",
        "trigger_catalog trigger_schema trigger_name event_manipulation event_object_catalog event_object_schema event_object_table action_statement action_timing",
    ),
];

pub(super) fn names() -> impl Iterator<Item = &'static &'static str> {
    TABLES.iter().map(|(name, _)| name)
}

/// Whether a catalog, or a table function, never gives rows.
pub(super) fn is_empty(name: &str) -> bool {
    FUNCTIONS.contains(&name) || TABLES.iter().any(|(known, _)| *known == name)
}

pub(super) fn table(name: &str) -> DfResult<Option<Arc<dyn TableProvider>>> {
    let Some((_, columns)) = TABLES.iter().find(|(known, _)| *known == name) else { return Ok(None) };
    Ok(Some(Arc::new(Sheet::new(columns).table()?)))
}
