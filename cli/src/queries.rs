//! The SQL that stands in a config: compiled when the config is read, so that what is wrong with it is told with its place.

use std::sync::Arc;

use tarn_model::config::{Config, InterceptorConfig, RecordQuery};
use tarn_sql::RowQuery;

/// Compiles the queries of the `sql` interceptors, in place; what is wrong with queries, by field: also with those of views.
pub(crate) fn compiled(config: &mut Config) -> Vec<(String, String)> {
    let mut problems = Vec::new();
    for (i, source) in config.sources.iter_mut().enumerate() {
        for (j, interceptor) in source.interceptors.iter_mut().enumerate() {
            let InterceptorConfig::Sql(sql) = interceptor else { continue };
            match RowQuery::compile(&sql.query) {
                Ok(query) => sql.compiled.set(Arc::new(Record(query))),
                Err(what) => problems.push((format!("source[{i}].interceptor[{j}].query"), what)),
            }
        }
    }
    problems.extend(crate::views::problems(config));
    problems
}

/// A query as collectors run it.
#[derive(Debug)]
struct Record(RowQuery);

impl RecordQuery for Record {
    fn inputs(&self) -> &[String] {
        self.0.inputs()
    }

    fn keeps_fields(&self) -> bool {
        self.0.keeps_fields()
    }

    fn run(&self, texts: &[Option<&str>], out: &mut Vec<u8>) -> Result<bool, String> {
        match self.0.run(texts)? {
            Some(row) => tarn_ingest::write_row(&row, out).map(|()| true),
            None => Ok(false),
        }
    }
}
