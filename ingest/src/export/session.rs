//! What an export asks of a database, and what the three of them say differently.

use tarn_model::{Error, Result};

use super::fitting::Takes;
use super::gives::Gives;
use super::staging::Staged;

/// The database does not take rows: what it has against them, in its own words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) reason: String,
}

/// A connection to the target.
pub(super) trait Session: Send {
    /// How its SQL is written.
    fn words(&self) -> &'static Words;

    /// What the table is that is written to.
    fn describe(&mut self, table: &str) -> Result<Target>;

    /// Keeps others from exporting this job meanwhile; `false` when somebody does.
    fn lock(&mut self, job: &str) -> Result<bool>;

    fn query(&mut self, sql: &str, doing: &str) -> Result<Vec<Vec<Option<String>>>>;

    /// Runs a statement; how many rows it has found or made.
    fn change(&mut self, sql: &str, doing: &str) -> Result<std::result::Result<u64, Refused>>;

    /// Brings rows into the staging table, all of them or none.
    fn stage(&mut self, plan: &Plan, rows: &Staged<'_>) -> Result<()>;

    /// The type that values of a kind have in the staging table.
    fn staged_type(&self, gives: Gives) -> String;

    /// Runs a statement that has nothing to do with rows.
    fn run(&mut self, sql: &str, doing: &str) -> Result<u64> {
        self.change(sql, doing)?
            .map_err(|refused| Error::invalid(format!("cannot {doing}")).with_source(refused.reason))
    }
}

/// How a database writes what others write differently.
pub(super) struct Words {
    pub(super) begin: &'static str,
    /// Behind a SELECT: nobody else changes these rows until the transaction ends.
    pub(super) for_update: &'static str,
    /// Behind a SELECT that is to see what an UPDATE would.
    pub(super) as_updated: &'static str,
    /// Whether `UPDATE t JOIN s ON … SET …` is written, and not `UPDATE t SET … FROM s WHERE …`.
    pub(super) joins_updates: bool,
    /// How an `INSERT INTO` and an `UPDATE` begin: what the table says of conflicts must not hide any.
    pub(super) insert: &'static str,
    pub(super) update: &'static str,
    /// Whether a table should be looked at before it is joined.
    pub(super) analyzes: bool,
    /// Whether tables are made and dropped within transactions.
    pub(super) transactional_tables: bool,
    /// Types of the columns of `tarn_exports`: of names, of long texts, of numbers.
    pub(super) name: &'static str,
    pub(super) long: &'static str,
    pub(super) number: &'static str,
    pub(super) quote: char,
    /// Whether `\` means something in a literal.
    pub(super) backslashes: bool,
    /// Whether a text may hold a zero byte.
    pub(super) zero_bytes: bool,
    /// `CREATE …` of a staging table.
    pub(super) create_staging: &'static str,
}

impl Words {
    pub(super) fn quoted(&self, name: &str) -> String {
        let quote = self.quote;
        format!("{quote}{}{quote}", name.replace(quote, &format!("{quote}{quote}")))
    }

    pub(super) fn literal(&self, text: &str) -> String {
        let text = text.replace('\'', "''");
        if self.backslashes { format!("'{}'", text.replace('\\', "\\\\")) } else { format!("'{text}'") }
    }
}

/// The table that is written to.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// As SQL.
    pub(super) table: String,
    /// What stands before the names of `tarn_exports` and the staging table, as SQL, with its point.
    pub(super) place: String,
    /// The same for the staging table, where that lies elsewhere.
    pub(super) staging_place: String,
    pub(super) columns: Vec<TargetColumn>,
    /// Columns of which no two rows have the same values.
    pub(super) unique: Vec<Vec<String>>,
}

/// A column of the table that is written to.
#[derive(Debug, Clone)]
pub(super) struct TargetColumn {
    pub(super) name: String,
    /// As the database declares it.
    pub(super) declared: String,
    pub(super) takes: Takes,
    pub(super) nullable: bool,
    /// A row that says nothing of it gets a value all the same.
    pub(super) has_default: bool,
    /// Nobody but the database gives it values.
    pub(super) generated: bool,
    /// `{}` is the staged value: how it is brought to the column's type.
    pub(super) from_staged: String,
    /// What the staged column says behind its type, such as a collation.
    pub(super) staged_as: String,
    /// Why its values do not tell rows apart as they would in the target.
    pub(super) no_key: Option<String>,
}

/// An export, once it is known that it fits.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) target: Target,
    pub(super) columns: Vec<PlanColumn>,
    pub(super) zero_bytes: bool,
    /// Full names, as SQL.
    pub(super) staging: String,
    pub(super) tokens: String,
}

/// A column of the statement and where it goes.
#[derive(Debug, Clone)]
pub(super) struct PlanColumn {
    /// Its place in the statement.
    pub(super) at: usize,
    pub(super) name: String,
    /// The column of the target, as SQL.
    pub(super) quoted: String,
    /// The column of the staging table, as SQL.
    pub(super) staged: String,
    pub(super) gives: Gives,
    pub(super) takes: Takes,
    pub(super) nullable: bool,
    pub(super) is_key: bool,
    /// The staged value of `s` at the target's type.
    pub(super) value: String,
    pub(super) staged_as: String,
}
