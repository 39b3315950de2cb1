//! Writes tables, rows and numbers for people and for programs.

use std::fmt;
use std::io::{self, BufWriter, IsTerminal as _, StdoutLock, Write};

use anyhow::Context as _;
use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use comfy_table::{Cell, CellAlignment, Table, presets};
use futures::TryStreamExt as _;
use tarn_model::columns::ColumnType;

use crate::args::Output;
use crate::rows::Rows;

/// Rows that a terminal shows of one answer.
const TERMINAL_ROWS: usize = 1_000;
/// Rows that a framed table holds in memory when it goes to a file.
const FRAMED_ROWS: usize = 100_000;
/// Characters of one cell that a terminal shows.
const TERMINAL_CELL_CHARS: usize = 200;

/// Stdout, buffered; flushed when it is dropped.
pub(crate) fn out() -> BufWriter<StdoutLock<'static>> {
    BufWriter::with_capacity(64 * 1024, io::stdout().lock())
}

/// A framed table.
#[derive(Debug)]
pub(crate) struct Grid {
    table: Table,
}

impl Grid {
    /// A table with these headings; a heading that begins with `#` is of numbers, which stand to the right.
    pub(crate) fn new(headings: &[&str]) -> Grid {
        let mut table = Table::new();
        table.load_preset(presets::UTF8_FULL_CONDENSED);
        table.set_header(headings.iter().map(|heading| Cell::new(heading.trim_start_matches('#'))));
        for (i, heading) in headings.iter().enumerate() {
            if heading.starts_with('#')
                && let Some(column) = table.column_mut(i)
            {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        Grid { table }
    }

    /// Adds a row.
    pub(crate) fn row<I>(&mut self, cells: I)
    where
        I: IntoIterator,
        I::Item: ToString,
    {
        self.table.add_row(cells.into_iter().map(|cell| Cell::new(cell.to_string())));
    }
}

impl fmt::Display for Grid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in self.table.lines() {
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Writes all rows of an answer as `output`; the number of rows.
pub(crate) async fn rows(rows: Rows, output: Output, expanded: bool) -> anyhow::Result<u64> {
    match output {
        Output::Table => framed(rows, expanded).await,
        Output::Json => json(rows).await,
        Output::Ndjson => ndjson(rows).await,
        Output::Csv => csv(rows).await,
    }
}

async fn framed(mut rows: Rows, expanded: bool) -> anyhow::Result<u64> {
    let terminal = io::stdout().is_terminal();
    let most = if terminal { TERMINAL_ROWS } else { FRAMED_ROWS };
    let (mut kept, mut kept_rows, mut count) = (Vec::new(), 0, 0_u64);
    while let Some(batch) = rows.batches.try_next().await? {
        count += batch.num_rows() as u64;
        let take = batch.num_rows().min(most - kept_rows);
        if take > 0 {
            kept.push(batch.slice(0, take));
            kept_rows += take;
        }
    }
    let cell_chars = if terminal { TERMINAL_CELL_CHARS } else { usize::MAX };
    let mut out = out();
    if expanded {
        write_expanded(&mut out, &rows.schema, &kept)?;
    } else {
        write!(out, "{}", grid_of(&rows.schema, &kept, cell_chars)?)?;
    }
    out.flush()?;
    if count > kept_rows as u64 {
        eprintln!(
            "the first {kept_rows} of {count} rows; `--output csv` (in the shell `\\o csv`) shows them all"
        );
    }
    Ok(count)
}

fn grid_of(schema: &SchemaRef, batches: &[RecordBatch], cell_chars: usize) -> anyhow::Result<Grid> {
    let headings: Vec<String> = schema
        .fields()
        .iter()
        .map(|field| {
            let number =
                field.data_type().is_numeric() || matches!(field.data_type(), DataType::Decimal128(..));
            format!("{}{}", if number { "#" } else { "" }, field.name())
        })
        .collect();
    let mut grid = Grid::new(&headings.iter().map(String::as_str).collect::<Vec<_>>());
    for batch in batches {
        let columns = formatters(batch)?;
        for row in 0..batch.num_rows() {
            let cells = columns.iter().map(|column| shorten(column.value(row).to_string(), cell_chars));
            grid.row(cells);
        }
    }
    Ok(grid)
}

/// One block a row, one line a column.
fn write_expanded(out: &mut impl Write, schema: &SchemaRef, batches: &[RecordBatch]) -> anyhow::Result<()> {
    let width = schema.fields().iter().map(|field| field.name().chars().count()).max().unwrap_or(0);
    let mut number = 0;
    for batch in batches {
        let columns = formatters(batch)?;
        for row in 0..batch.num_rows() {
            number += 1;
            writeln!(out, "─ row {number}")?;
            for (field, column) in schema.fields().iter().zip(&columns) {
                writeln!(out, "{:width$}  {}", field.name(), column.value(row))?;
            }
        }
    }
    Ok(())
}

fn formatters(batch: &RecordBatch) -> anyhow::Result<Vec<ArrayFormatter<'_>>> {
    let options = FormatOptions::default().with_null("NULL").with_display_error(true);
    let columns = batch.columns().iter().map(|column| ArrayFormatter::try_new(column.as_ref(), &options));
    columns.collect::<Result<_, _>>().context("an answer has a type that cannot be shown")
}

fn shorten(text: String, chars: usize) -> String {
    match text.char_indices().nth(chars) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

async fn json(mut rows: Rows) -> anyhow::Result<u64> {
    let mut out = out();
    let (mut count, mut text) = (0_u64, Vec::new());
    out.write_all(b"[")?;
    while let Some(batch) = rows.batches.try_next().await? {
        objects(&batch, &mut text)?;
        for line in lines(&text) {
            out.write_all(if count == 0 { b"\n" } else { b",\n" })?;
            out.write_all(line)?;
            count += 1;
        }
    }
    out.write_all(if count == 0 { b"]\n" } else { b"\n]\n" })?;
    out.flush()?;
    Ok(count)
}

async fn ndjson(mut rows: Rows) -> anyhow::Result<u64> {
    let mut out = out();
    let (mut count, mut text) = (0_u64, Vec::new());
    while let Some(batch) = rows.batches.try_next().await? {
        objects(&batch, &mut text)?;
        out.write_all(&text)?;
        // Whoever reads along sees a batch as soon as it is here.
        out.flush()?;
        count += batch.num_rows() as u64;
    }
    Ok(count)
}

/// The batch in `text`, as JSON objects, one a line.
fn objects(batch: &RecordBatch, text: &mut Vec<u8>) -> anyhow::Result<()> {
    text.clear();
    let builder = arrow::json::WriterBuilder::new().with_explicit_nulls(true);
    let mut writer = builder.build::<_, arrow::json::writer::LineDelimited>(text);
    writer.write(batch).and_then(|()| writer.finish()).context("an answer has a type that JSON cannot hold")
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
}

async fn csv(mut rows: Rows) -> anyhow::Result<u64> {
    let mut writer = arrow::csv::WriterBuilder::new().with_header(true).build(out());
    let mut count = 0_u64;
    // An empty answer has a header, too.
    writer.write(&RecordBatch::new_empty(rows.schema.clone())).map_err(in_csv)?;
    while let Some(batch) = rows.batches.try_next().await? {
        writer.write(&batch).map_err(in_csv)?;
        count += batch.num_rows() as u64;
    }
    writer.into_inner().flush()?;
    Ok(count)
}

/// An output error is the stream's; anything else is the answer's type.
fn in_csv(error: arrow::error::ArrowError) -> anyhow::Error {
    match error {
        arrow::error::ArrowError::IoError(_, error) => error.into(),
        other => anyhow::Error::new(other).context("an answer cannot be written as CSV"),
    }
}

/// A type as the config and SQL name it.
pub(crate) fn sql_type(arrow: &DataType) -> String {
    ColumnType::from_arrow(arrow).map_or_else(|| arrow.to_string(), |column_type| column_type.to_string())
}

/// `1234567` as `1,234,567`.
pub(crate) fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Bytes as `12.3 MiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1024.0 && unit + 1 < units.len() {
        (value, unit) = (value / 1024.0, unit + 1);
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", units[unit]) }
}

/// Seconds as `0.4s`, `12s`, `3m 20s`, `2h 05m`.
pub(crate) fn seconds(seconds: f64) -> String {
    let whole = seconds.round().max(0.0);
    if seconds < 9.95 {
        return format!("{:.1}s", seconds.max(0.0));
    }
    let (hours, minutes) = ((whole / 3600.0).floor(), ((whole % 3600.0) / 60.0).floor());
    match (hours > 0.0, minutes > 0.0) {
        (true, _) => format!("{hours}h {minutes:02}m"),
        (false, true) => format!("{minutes}m {:02}s", whole % 60.0),
        (false, false) => format!("{whole}s"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Float64Array, StringArray};
    use arrow::datatypes::{Field, Schema};

    use super::*;

    #[test]
    fn numbers_are_easy_to_read() {
        assert_eq!(
            [0, 999, 1000, 336_776, 1_234_567].map(number),
            ["0", "999", "1,000", "336,776", "1,234,567"]
        );
        assert_eq!([0, 1023, 1536, 5 << 30].map(bytes), ["0 B", "1023 B", "1.5 KiB", "5.0 GiB"]);
        assert_eq!(
            [0.04, 9.9, 10.0, 200.0, 7500.0].map(seconds),
            ["0.0s", "9.9s", "10s", "3m 20s", "2h 05m"]
        );
    }

    #[test]
    fn null_and_empty_are_told_apart() {
        let schema: SchemaRef = Arc::new(Schema::new(vec![
            Field::new("name", DataType::Utf8, true),
            Field::new("x", DataType::Float64, true),
        ]));
        let names = StringArray::from(vec![Some("a"), Some(""), None]);
        let batch = RecordBatch::try_new(
            schema.clone(),
            vec![Arc::new(names), Arc::new(Float64Array::from(vec![1.5, -2.0, 0.0]))],
        );
        let batch = batch.expect("a batch");
        let want = "\
┌──────┬──────┐
│ name ┆    x │
╞══════╪══════╡
│ a    ┆  1.5 │
│      ┆ -2.0 │
│ NULL ┆  0.0 │
└──────┴──────┘
";
        let grid = grid_of(&schema, std::slice::from_ref(&batch), usize::MAX).expect("a grid").to_string();
        assert_eq!(grid, want, "{grid}");
        let mut text = Vec::new();
        objects(&batch, &mut text).expect("JSON");
        let lines: Vec<_> = lines(&text).map(String::from_utf8_lossy).collect();
        assert_eq!(lines[2], r#"{"name":null,"x":0.0}"#);
    }
}
