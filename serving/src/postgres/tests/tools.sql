-- What tools send when they connect and look around, for `tools.rs`. Each begins with a line `--- TOOL: what for => expected`: some row of
-- the answer has `expected` (columns joined by `|`); `nothing` means no rows, and without `=>` any answer will do.
--
-- Facts of the tools' protocols, from their public sources: DBeaver (dbeaver/dbeaver, plugin org.jkiss.dbeaver.ext.postgresql: PostgreDataSource,
-- PostgreDatabase, PostgreSchema, PostgreDataTypeCache; and its logs in public issues), Grafana (grafana/grafana,
-- grafana-postgresql-datasource/postgresMetaQuery.ts, and the macros of pkg/tsdb/grafana-postgresql-datasource/macros.go), Metabase
-- (metabase/metabase, src/metabase/driver/postgres.clj), pgjdbc (PgDatabaseMetaData.java, TypeInfoCache.java). Values stand for placeholders.

--- pgjdbc: how numbers are written
SET extra_float_digits = 3
--- pgjdbc: who asks
SET application_name = 'PostgreSQL JDBC Driver'
--- DBeaver: who asks
SET application_name = 'DBeaver 25.1.5 - Main <tarn>'
--- DBeaver: user and schema => public|ann
SELECT current_schema(),session_user
--- DBeaver: version => PostgreSQL
SELECT version()
--- DBeaver: schemas => public
SELECT n.oid,n.*,d.description FROM pg_catalog.pg_namespace n
LEFT OUTER JOIN pg_catalog.pg_description d ON d.objoid=n.oid AND d.objsubid=0 AND d.classoid='pg_namespace'::regclass
 ORDER BY nspname
--- pgjdbc: the name of a type => t|pg_catalog|int8
SELECT n.nspname = ANY(current_schemas(true)), n.nspname, t.typname FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON t.typnamespace = n.oid WHERE t.oid = 20
--- pgjdbc: what kind of type => t|b|_int8|1016
SELECT typinput='pg_catalog.array_in'::regproc as is_array, typtype, typname, pg_type.oid   FROM pg_catalog.pg_type   LEFT JOIN (select ns.oid as nspoid, ns.nspname, r.r           from pg_namespace as ns           join ( select s.r, (current_schemas(false))[s.r] as nspname                    from generate_series(1, array_upper(current_schemas(false), 1)) as s(r) ) as r          using ( nspname )        ) as sp     ON sp.nspoid = typnamespace  WHERE pg_type.oid = 1016  ORDER BY sp.r, pg_type.oid DESC
--- pgjdbc: the oid of a type => 20
SELECT pg_type.oid, typname   FROM pg_catalog.pg_type   LEFT   JOIN (select ns.oid as nspoid, ns.nspname, r.r           from pg_namespace as ns           join ( select s.r, (current_schemas(false))[s.r] as nspname                    from generate_series(1, array_upper(current_schemas(false), 1)) as s(r) ) as r          using ( nspname )        ) as sp     ON sp.nspoid = typnamespace  WHERE typname = 'int8'  ORDER BY sp.r, pg_type.oid DESC LIMIT 1
--- DBeaver: search path => public
SHOW search_path
--- DBeaver: the database => tarn
SELECT db.oid,db.* FROM pg_catalog.pg_database db WHERE datname='tarn'
--- DBeaver: all databases => tarn
SELECT db.oid,db.* FROM pg_catalog.pg_database db WHERE NOT datistemplate AND datallowconn
ORDER BY db.datname
--- DBeaver: comment of the database => nothing
select description from pg_shdescription join pg_database on objoid = pg_database.oid where datname = 'tarn'
--- DBeaver: a setting => on
select * from pg_catalog.pg_settings where name='standard_conforming_strings'
--- DBeaver: all settings => search_path
select * from pg_catalog.pg_settings
--- DBeaver: keywords that are not everybody's => ,select,
SELECT string_agg(word, ',' ) from pg_catalog.pg_get_keywords() where word <> ALL ('{a,abs,absolute,action,ada,add}'::text[])
--- DBeaver: are there enums => nothing
SELECT * FROM pg_catalog.pg_enum WHERE 1<>1 LIMIT 1
--- DBeaver: is there reltype => nothing
SELECT reltype FROM pg_catalog.pg_class WHERE 1<>1 LIMIT 1
--- DBeaver: types => int8
SELECT t.oid,t.*,c.relkind,format_type(nullif(t.typbasetype, 0), t.typtypmod) as base_type_name, d.description
FROM pg_catalog.pg_type t
LEFT OUTER JOIN pg_catalog.pg_type et ON et.oid=t.typelem
LEFT OUTER JOIN pg_catalog.pg_class c ON c.oid=t.typrelid
LEFT OUTER JOIN pg_catalog.pg_description d ON t.oid=d.objoid
WHERE t.typname IS NOT NULL
AND (c.relkind IS NULL OR c.relkind = 'c') AND (et.typcategory IS NULL OR et.typcategory <> 'C')
--- DBeaver: roles => tarn
SELECT a.oid,a.*,pd.description FROM pg_catalog.pg_roles a
left join pg_catalog.pg_shdescription pd on a.oid = pd.objoid
ORDER BY a.rolname
--- DBeaver: extensions => nothing
SELECT e.oid,a.*,e.* FROM pg_catalog.pg_extension e
join pg_catalog.pg_available_extensions a on a.name = e.extname
ORDER BY a.name
--- DBeaver: tablespaces => pg_default
SELECT t.oid,t.*,pg_tablespace_location(t.oid) loc
FROM pg_catalog.pg_tablespace t
ORDER BY t.oid
--- DBeaver: access methods => heap
SELECT am.oid,am.* FROM pg_catalog.pg_am am
ORDER BY am.oid
--- DBeaver: languages => nothing
SELECT l.oid,l.* FROM pg_catalog.pg_language l
ORDER BY l.oid
--- DBeaver: tables of a schema => clicks
SELECT c.oid,c.*,d.description,pg_catalog.pg_get_expr(c.relpartbound, c.oid) as partition_expr,  pg_catalog.pg_get_partkeydef(c.oid) as partition_key
FROM pg_catalog.pg_class c
LEFT OUTER JOIN pg_catalog.pg_description d ON d.objoid=c.oid AND d.objsubid=0 AND d.classoid='pg_class'::regclass
WHERE c.relnamespace=2200 AND c.relkind not in ('i','I','c')
--- DBeaver: tables of a schema, with parents => clicks
SELECT c.oid,c.*,d.description,(select array_agg(i.inhparent) from pg_catalog.pg_inherits i where i.inhrelid = c.oid) parents
FROM pg_catalog.pg_class c
LEFT OUTER JOIN pg_catalog.pg_description d ON d.objoid=c.oid AND d.objsubid=0
WHERE c.relnamespace=2200 AND c.relkind not in ('i','c') AND relname='clicks'
--- DBeaver: columns of a schema => clicks
SELECT c.relname,a.*,pg_catalog.pg_get_expr(ad.adbin, ad.adrelid, true) as def_value,dsc.description,dep.objid
FROM pg_catalog.pg_attribute a
INNER JOIN pg_catalog.pg_class c ON (a.attrelid=c.oid)
LEFT OUTER JOIN pg_catalog.pg_attrdef ad ON (a.attrelid=ad.adrelid AND a.attnum = ad.adnum)
LEFT OUTER JOIN pg_catalog.pg_description dsc ON (c.oid=dsc.objoid AND a.attnum = dsc.objsubid)
LEFT OUTER JOIN pg_depend dep on dep.refobjid = a.attrelid AND dep.deptype = 'i' and dep.refobjsubid = a.attnum and dep.classid = dep.refclassid
WHERE NOT a.attisdropped AND c.relkind not in ('i','I','c') AND c.relnamespace=2200 ORDER BY a.attnum
--- DBeaver: constraints => nothing
SELECT c.oid,c.*,t.relname as tabrelname,rt.relnamespace as refnamespace,d.description, case when c.contype='c' then "substring"(pg_get_constraintdef(c.oid), 7) else null end consrc_copy
FROM pg_catalog.pg_constraint c
INNER JOIN pg_catalog.pg_class t ON t.oid=c.conrelid
LEFT OUTER JOIN pg_catalog.pg_class rt ON rt.oid=c.confrelid
LEFT OUTER JOIN pg_catalog.pg_description d ON d.objoid=c.oid AND d.objsubid=0 AND d.classoid='pg_constraint'::regclass
WHERE t.relnamespace=2200
ORDER BY c.oid
--- DBeaver: indexes => nothing
SELECT i.*,i.indkey as keys,c.relname,c.relnamespace,c.relam,c.reltablespace,tc.relname as tabrelname,dsc.description,pg_catalog.pg_get_expr(i.indpred, i.indrelid) as pred_expr,pg_catalog.pg_get_expr(i.indexprs, i.indrelid, true) as expr,pg_catalog.pg_relation_size(i.indexrelid) as index_rel_size,pg_catalog.pg_stat_get_numscans(i.indexrelid) as index_num_scans
FROM pg_catalog.pg_index i
INNER JOIN pg_catalog.pg_class c ON c.oid=i.indexrelid
INNER JOIN pg_catalog.pg_class tc ON tc.oid=i.indrelid
LEFT OUTER JOIN pg_catalog.pg_description dsc ON i.indexrelid=dsc.objoid
WHERE i.indrelid=20000 ORDER BY tabrelname, c.relname
--- DBeaver: procedures => nothing
SELECT p.oid,p.*,l.lanname,d.description
FROM pg_catalog.pg_proc p
LEFT OUTER JOIN pg_catalog.pg_language l ON l.oid=p.prolang
LEFT OUTER JOIN pg_catalog.pg_description d ON d.objoid=p.oid
WHERE p.pronamespace=2200
ORDER BY p.proname
--- DBeaver: sequences => nothing
SELECT c.relname,dsc.description, c.oid, ps.seqtypid
FROM pg_catalog.pg_class c
LEFT OUTER JOIN pg_catalog.pg_sequence ps ON ps.seqrelid = c.oid
LEFT JOIN pg_catalog.pg_description dsc ON dsc.objoid = c.oid
WHERE relnamespace=2200 AND relkind = 'S' ORDER BY relname
--- DBeaver: triggers => nothing
SELECT x.oid,x.*,t.relname as tabrelname,p.pronamespace as func_schema_id,d.description FROM pg_catalog.pg_trigger x INNER JOIN pg_catalog.pg_class t ON t.oid=x.tgrelid INNER JOIN pg_catalog.pg_proc p ON p.oid=x.tgfoid LEFT OUTER JOIN pg_catalog.pg_description d ON d.objoid=x.oid AND d.objsubid=0  WHERE x.tgrelid=20000 AND NOT x.tgisinternal
--- DBeaver: rules => nothing
SELECT r.oid,r.*, c.relname as tabrelname FROM pg_catalog.pg_rewrite r INNER JOIN pg_catalog.pg_class c ON c.oid=r.ev_class WHERE r.ev_class=20000 AND r.rulename <> '_RETURN'
--- DBeaver: size of the tables => clicks
select c.oid, c.relname, pg_catalog.pg_total_relation_size(c.oid) as total_rel_size,pg_catalog.pg_relation_size(c.oid) as rel_size
FROM pg_class c
WHERE c.relnamespace=2200
--- DBeaver: rights on the tables => nothing
SELECT * FROM information_schema.table_privileges WHERE table_schema='public' AND table_name='clicks'
--- DBeaver: the text of a view
SELECT pg_catalog.pg_get_viewdef(20000, true)
--- DBeaver: the rows of a table => 2
SELECT x.* FROM public.clicks x
LIMIT 200
--- DBeaver: sessions => nothing
SELECT sa.* FROM pg_catalog.pg_stat_activity sa WHERE sa.state IS NOT NULL
--- DBeaver: completion by name => clicks
SELECT x.oid,x.relname,x.relnamespace,x.relkind FROM pg_catalog.pg_class x
WHERE x.relkind IN('r','S','v','m','f','p') AND x.relname ILIKE '%click%' AND x.relnamespace IN (2200)
ORDER BY x.relname LIMIT 100

--- Grafana: version => 1400
SELECT current_setting('server_version_num')::int/100 as version
--- Grafana: TimescaleDB => nothing
SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'
--- Grafana: schemas => public
SELECT schema_name AS "name"
    FROM information_schema.schemata
    WHERE schema_name NOT IN ('information_schema', 'pg_catalog', 'pg_toast', '_timescaledb_cache', '_timescaledb_catalog', '_timescaledb_internal', '_timescaledb_config', 'timescaledb_information', 'timescaledb_experimental')
    ORDER BY schema_name
--- Grafana: tables of a schema => clicks
SELECT quote_ident(table_name) AS "table"
      FROM information_schema.tables
      WHERE quote_ident(table_schema) = 'public'
      ORDER BY 1
--- Grafana: tables => clicks
SELECT
    CASE WHEN
          quote_ident(table_schema) IN (
          SELECT
            CASE WHEN trim(s[i]) = '"$user"' THEN user ELSE trim(s[i]) END
          FROM
            generate_series(
              array_lower(string_to_array(current_setting('search_path'),','),1),
              array_upper(string_to_array(current_setting('search_path'),','),1)
            ) as i,
            string_to_array(current_setting('search_path'),',') s
          )
      THEN quote_ident(table_name)
      ELSE quote_ident(table_schema) || '.' || quote_ident(table_name)
    END AS "table"
    FROM information_schema.tables
    WHERE quote_ident(table_schema) NOT IN ('information_schema', 'pg_catalog', '_timescaledb_cache')
    ORDER BY CASE WHEN
          quote_ident(table_schema) IN (
          SELECT
            CASE WHEN trim(s[i]) = '"$user"' THEN user ELSE trim(s[i]) END
          FROM
            generate_series(
              array_lower(string_to_array(current_setting('search_path'),','),1),
              array_upper(string_to_array(current_setting('search_path'),','),1)
            ) as i,
            string_to_array(current_setting('search_path'),',') s
          ) THEN 0 ELSE 1 END, 1
--- Grafana: columns => word|text
SELECT quote_ident(column_name) AS "column", data_type AS "type"
    FROM information_schema.columns
    WHERE
      CASE WHEN array_length(parse_ident('clicks'),1) = 2
        THEN quote_ident(table_schema) = (parse_ident('clicks'))[1]
          AND quote_ident(table_name) = (parse_ident('clicks'))[2]
        ELSE quote_ident(table_name) = 'clicks'
          AND
          quote_ident(table_schema) IN (
          SELECT
            CASE WHEN trim(s[i]) = '"$user"' THEN user ELSE trim(s[i]) END
          FROM
            generate_series(
              array_lower(string_to_array(current_setting('search_path'),','),1),
              array_upper(string_to_array(current_setting('search_path'),','),1)
            ) as i,
            string_to_array(current_setting('search_path'),',') s
          )
      END
--- Grafana: columns of a table in a schema => word|text
SELECT quote_ident(column_name) AS "column", data_type AS "type"
    FROM information_schema.columns
    WHERE
      CASE WHEN array_length(parse_ident('lake.clicks'),1) = 2
        THEN quote_ident(table_schema) = (parse_ident('lake.clicks'))[1]
          AND quote_ident(table_name) = (parse_ident('lake.clicks'))[2]
        ELSE quote_ident(table_name) = 'lake.clicks'
      END
--- Grafana: is it there => 1
SELECT 1
--- Grafana: a panel over time => 3
SELECT floor(extract(epoch from _timestamp)/60)*60 AS "time", count(*) AS "value" FROM clicks WHERE _timestamp BETWEEN '2023-11-14T00:00:00Z' AND '2023-11-15T00:00:00Z' GROUP BY 1 ORDER BY 1
--- Grafana: a panel over time in epochs => 3
SELECT count(n) AS "value" FROM clicks WHERE extract(epoch from _timestamp) >= 1699920000 AND extract(epoch from _timestamp) <= 1700006400

--- Metabase: how numbers are written
SET extra_float_digits = 2
--- Metabase: who asks
SET application_name = 'Metabase v0.55.1 [f8f63fdf-d8f8-4573-86ea-4fe4a9548041]'
--- Metabase: isolation => read committed
SHOW TRANSACTION ISOLATION LEVEL
--- Metabase: isolation it wants
SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ UNCOMMITTED
--- Metabase: time zone => UTC
show timezone
--- Metabase: schemas => public|tarn
SELECT nspname AS "TABLE_SCHEM", current_database() AS "TABLE_CATALOG" FROM pg_catalog.pg_namespace  WHERE nspname <> 'pg_toast' AND (nspname !~ '^pg_temp_'  OR nspname = (pg_catalog.current_schemas(true))[1]) AND (nspname !~ '^pg_toast_temp_'  OR nspname = replace((pg_catalog.current_schemas(true))[1], 'pg_temp_', 'pg_toast_temp_'))  ORDER BY "TABLE_SCHEM"
--- Metabase: rights => |public|clicks|f|t|f|f
with table_privileges as (
 select
   NULL as role,
   t.schemaname as schema,
   t.objectname as table,
   pg_catalog.has_any_column_privilege(current_user, '"' || replace(t.schemaname, '"', '""') || '"' || '.' || '"' || replace(t.objectname, '"', '""') || '"',  'update') as update,
   pg_catalog.has_any_column_privilege(current_user, '"' || replace(t.schemaname, '"', '""') || '"' || '.' || '"' || replace(t.objectname, '"', '""') || '"',  'select') as select,
   pg_catalog.has_any_column_privilege(current_user, '"' || replace(t.schemaname, '"', '""') || '"' || '.' || '"' || replace(t.objectname, '"', '""') || '"',  'insert') as insert,
   pg_catalog.has_table_privilege(     current_user, '"' || replace(t.schemaname, '"', '""') || '"' || '.' || '"' || replace(t.objectname, '"', '""') || '"',  'delete') as delete
 from (
   select schemaname, tablename as objectname from pg_catalog.pg_tables
   union
   select schemaname, viewname as objectname from pg_catalog.pg_views
   union
   select schemaname, matviewname as objectname from pg_catalog.pg_matviews
 ) t
 where t.schemaname !~ '^pg_'
   and t.schemaname <> 'information_schema'
   and pg_catalog.has_schema_privilege(current_user, t.schemaname, 'usage')
)
select t.*
from table_privileges t
--- Metabase: tables => public|clicks|TABLE
SELECT "n"."nspname" AS "schema", "c"."relname" AS "name", CASE "c"."relkind" WHEN 'r' THEN 'TABLE' WHEN 'p' THEN 'PARTITIONED TABLE' WHEN 'v' THEN 'VIEW' WHEN 'f' THEN 'FOREIGN TABLE' WHEN 'm' THEN 'MATERIALIZED VIEW' ELSE NULL END AS "type", "d"."description" AS "description", "stat"."n_live_tup" AS "estimated_row_count" FROM "pg_catalog"."pg_class" AS "c" INNER JOIN "pg_catalog"."pg_namespace" AS "n" ON "c"."relnamespace" = "n"."oid" LEFT JOIN "pg_catalog"."pg_description" AS "d" ON ("c"."oid" = "d"."objoid") AND ("d"."objsubid" = 0) AND ("d"."classoid" = 'pg_class'::regclass) LEFT JOIN "pg_stat_user_tables" AS "stat" ON ("n"."nspname" = "stat"."schemaname") AND ("c"."relname" = "stat"."relname") WHERE ("c"."relnamespace" = "n"."oid") AND ("n"."nspname" !~ '^pg_') AND ("n"."nspname" <> 'information_schema') AND c.relkind in ('r', 'p', 'v', 'f', 'm') AND ("n"."nspname" IN ('public')) ORDER BY "type" ASC, "schema" ASC, "name" ASC
--- Metabase: columns => word|text
SELECT "c"."column_name" AS "name", CASE WHEN "c"."udt_schema" IN ('public', 'pg_catalog') THEN FORMAT('%s', "c"."udt_name") ELSE FORMAT('"%s"."%s"', "c"."udt_schema", "c"."udt_name") END AS "database-type", "c"."ordinal_position" - 1 AS "database-position", "c"."table_schema" AS "table-schema", "c"."table_name" AS "table-name", "pk"."column_name" IS NOT NULL AS "pk?", COL_DESCRIPTION(CAST(CAST(FORMAT('%I.%I', CAST("c"."table_schema" AS TEXT), CAST("c"."table_name" AS TEXT)) AS REGCLASS) AS OID), "c"."ordinal_position") AS "field-comment", (("column_default" IS NULL) OR (LOWER("column_default") = 'null')) AND ("is_nullable" = 'NO') AND NOT ((("column_default" IS NOT NULL) AND ("column_default" LIKE '%nextval(%')) OR ("is_identity" <> 'NO')) AS "database-required", (("column_default" IS NOT NULL) AND ("column_default" LIKE '%nextval(%')) OR ("is_identity" <> 'NO') AS "database-is-auto-increment" FROM "information_schema"."columns" AS "c" LEFT JOIN (SELECT "tc"."table_schema", "tc"."table_name", "kc"."column_name" FROM "information_schema"."table_constraints" AS "tc" INNER JOIN "information_schema"."key_column_usage" AS "kc" ON ("tc"."constraint_name" = "kc"."constraint_name") AND ("tc"."table_schema" = "kc"."table_schema") AND ("tc"."table_name" = "kc"."table_name") WHERE "tc"."constraint_type" = 'PRIMARY KEY') AS "pk" ON ("c"."table_schema" = "pk"."table_schema") AND ("c"."table_name" = "pk"."table_name") AND ("c"."column_name" = "pk"."column_name") WHERE c.table_schema !~ '^information_schema|catalog_history|pg_' AND ("c"."table_schema" IN ('public')) UNION ALL SELECT "pa"."attname" AS "name", CASE WHEN "ptn"."nspname" IN ('public', 'pg_catalog') THEN FORMAT('%s', "pt"."typname") ELSE FORMAT('"%s"."%s"', "ptn"."nspname", "pt"."typname") END AS "database-type", "pa"."attnum" - 1 AS "database-position", "pn"."nspname" AS "table-schema", "pc"."relname" AS "table-name", FALSE AS "pk?", NULL AS "field-comment", FALSE AS "database-required", FALSE AS "database-is-auto-increment" FROM "pg_catalog"."pg_class" AS "pc" INNER JOIN "pg_catalog"."pg_namespace" AS "pn" ON "pn"."oid" = "pc"."relnamespace" INNER JOIN "pg_catalog"."pg_attribute" AS "pa" ON "pa"."attrelid" = "pc"."oid" INNER JOIN "pg_catalog"."pg_type" AS "pt" ON "pt"."oid" = "pa"."atttypid" INNER JOIN "pg_catalog"."pg_namespace" AS "ptn" ON "ptn"."oid" = "pt"."typnamespace" WHERE ("pc"."relkind" = 'm') AND ("pa"."attnum" >= 1) AND ("pn"."nspname" IN ('public')) ORDER BY "table-schema" ASC, "table-name" ASC, "database-position" ASC
--- Metabase: foreign keys => nothing
SELECT "fk_ns"."nspname" AS "fk-table-schema", "fk_table"."relname" AS "fk-table-name", "fk_column"."attname" AS "fk-column-name", "pk_ns"."nspname" AS "pk-table-schema", "pk_table"."relname" AS "pk-table-name", "pk_column"."attname" AS "pk-column-name" FROM "pg_constraint" AS "c" INNER JOIN "pg_class" AS "fk_table" ON "c"."conrelid" = "fk_table"."oid" INNER JOIN "pg_namespace" AS "fk_ns" ON "c"."connamespace" = "fk_ns"."oid" INNER JOIN "pg_attribute" AS "fk_column" ON "c"."conrelid" = "fk_column"."attrelid" INNER JOIN "pg_class" AS "pk_table" ON "c"."confrelid" = "pk_table"."oid" INNER JOIN "pg_namespace" AS "pk_ns" ON "pk_table"."relnamespace" = "pk_ns"."oid" INNER JOIN "pg_attribute" AS "pk_column" ON "c"."confrelid" = "pk_column"."attrelid" WHERE fk_ns.nspname !~ '^information_schema|catalog_history|pg_' AND ("c"."contype" = 'f'::char) AND ("fk_column"."attnum" = ANY(c.conkey)) AND ("pk_column"."attnum" = ANY(c.confkey)) AND ("fk_ns"."nspname" IN ('public')) ORDER BY "fk-table-schema" ASC, "fk-table-name" ASC
--- Metabase: enums => nothing
SELECT nspname, typname FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace WHERE t.oid IN (SELECT DISTINCT enumtypid FROM pg_enum e)
--- Metabase: indexes => nothing
SELECT "tmp"."table-schema", "tmp"."table-name", TRIM(BOTH '"' FROM pg_catalog.pg_get_indexdef("tmp"."ci_oid", "tmp"."pos", FALSE)) AS "field-name" FROM (SELECT "n"."nspname" AS "table-schema", "ct"."relname" AS "table-name", "ci"."oid" AS "ci_oid", (information_schema._pg_expandarray("i"."indkey")).n AS "pos" FROM "pg_catalog"."pg_class" AS "ct" INNER JOIN "pg_catalog"."pg_namespace" AS "n" ON "ct"."relnamespace" = "n"."oid" INNER JOIN "pg_catalog"."pg_index" AS "i" ON "ct"."oid" = "i"."indrelid" INNER JOIN "pg_catalog"."pg_class" AS "ci" ON "ci"."oid" = "i"."indexrelid" WHERE (pg_catalog.pg_get_expr("i"."indpred", "i"."indrelid") IS NULL) AND n.nspname !~ '^information_schema|catalog_history|pg_' AND ("n"."nspname" IN ('public'))) AS "tmp" WHERE "tmp"."pos" = 1
--- Metabase: values to guess by => w1
SELECT "public"."clicks"."word" AS "word" FROM "public"."clicks" GROUP BY "public"."clicks"."word" ORDER BY "public"."clicks"."word" ASC LIMIT 1001
--- Metabase: rows by day => 3
SELECT CAST("public"."clicks"."_timestamp" AS date) AS "_timestamp", COUNT(*) AS "count" FROM "public"."clicks" GROUP BY CAST("public"."clicks"."_timestamp" AS date) ORDER BY CAST("public"."clicks"."_timestamp" AS date) ASC
--- Metabase: rows by week => 3
SELECT DATE_TRUNC('week', "public"."clicks"."_timestamp") AS "_timestamp", COUNT(*) AS "count" FROM "public"."clicks" GROUP BY DATE_TRUNC('week', "public"."clicks"."_timestamp") ORDER BY DATE_TRUNC('week', "public"."clicks"."_timestamp") ASC
