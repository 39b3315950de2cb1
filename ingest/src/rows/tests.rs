use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits { whole: 4096, head: 16 };

fn config(nulls: &[&str]) -> CsvConfig {
    CsvConfig { null_values: nulls.iter().map(|n| (*n).to_owned()).collect(), ..CsvConfig::default() }
}

type Found = (u64, Result<String, (Vec<u8>, String)>);

/// Every row as JSON, or as its raw bytes and the reason; with the line.
fn read(bytes: &[u8], csv: &CsvConfig, limits: Limits) -> Vec<Found> {
    let mut cutter = RowCutter::new(bytes, 0, 0, csv.delimiter.as_bytes()[0], limits);
    let mut out = Vec::new();
    let mut rows = Vec::new();
    let Some(first) = cutter.next().unwrap() else { return rows };
    let (shape, _) = Shape::new(csv, Some(&first), None);
    while let Some(row) = cutter.next().unwrap() {
        let read = match row.oversize {
            Some(oversize) => Err((row.raw.to_vec(), format!("{} bytes", oversize.size))),
            None => {
                shape.encode(&row, &mut out).map_err(|reason| (row.raw.to_vec(), reason)).map(|_| text(&out))
            }
        };
        rows.push((row.line, read));
    }
    assert_eq!(cutter.offset(), bytes.len() as u64);
    rows
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn cells_are_strings_keyed_by_the_header_and_null_values_are_null() {
    let rows = read(b"\xef\xbb\xbfa,b\r\n1,NA\r\n\"x, \"\"y\"\"\",2\r\n", &config(&["NA"]), LIMITS);
    assert_eq!(
        rows,
        [(2, Ok(r#"{"a":"1","b":null}"#.into())), (3, Ok(r#"{"a":"x, \"y\"","b":"2"}"#.into()))]
    );
}

#[test]
fn a_row_is_numbered_by_the_line_it_starts_on() {
    let rows = read(b"a,b\n\"1\n1\",2\n\n3,4\n", &config(&[]), LIMITS);
    assert_eq!(rows, [(2, Ok(r#"{"a":"1\n1","b":"2"}"#.into())), (5, Ok(r#"{"a":"3","b":"4"}"#.into()))]);
}

#[test]
fn a_row_with_too_few_fields_keeps_its_bytes_and_says_so() {
    let rows = read(b"a,b,c\n1,2\n1,2,3,4\n", &config(&[]), LIMITS);
    assert_eq!(
        rows,
        [
            (2, Err((b"1,2".to_vec(), "line 2 has 2 fields, the header has 3".into()))),
            (3, Err((b"1,2,3,4".to_vec(), "line 3 has 4 fields, the header has 3".into()))),
        ]
    );
}

#[test]
fn bytes_that_are_no_text_are_told_even_when_two_cells_together_would_be() {
    // 0xc3 ends one cell and 0xa9 begins the next: side by side they are an "e" with an accent.
    let rows = read(b"a,b\nx\xff,1\n\xc3,\xa9\n", &config(&[]), LIMITS);
    assert_eq!(rows[0].1, Err((b"x\xff,1".to_vec(), "line 2 is not valid UTF-8 in the field \"a\"".into())));
    assert!(rows[1].1.as_ref().unwrap_err().1.contains("not valid UTF-8"), "{rows:?}");
}

#[test]
fn a_row_above_the_limit_is_skipped_and_its_neighbours_are_whole() {
    let mut bytes = b"a,b\n1,2\n\"".to_vec();
    bytes.extend(std::iter::repeat_n(b'x', 3 << 20));
    bytes.extend_from_slice(b"\n,\",9\r\n3,4\n");
    let rows = read(&bytes, &config(&[]), LIMITS);
    let size = (3 << 20) + 6;
    assert_eq!(rows[1].0, 3);
    assert_eq!(rows[1].1, Err((b"\"xxxxxxxxxxxxxxx".to_vec(), format!("{size} bytes"))));
    assert_eq!(rows[2], (5, Ok(r#"{"a":"3","b":"4"}"#.into())));
}

#[test]
fn header_names_are_made_to_differ() {
    let names = ["a", "", "a", " "].map(str::to_owned).to_vec();
    assert_eq!(distinct(names), ["a", "c2", "a_2", "c4"]);
}

#[test]
fn reading_on_at_any_row_gives_the_same_rows() {
    let bytes = b"a,b\r\n1,2\r\n\"3\r\n\",4\r\n\r\n\xef\xbb\xbf5,6\n7,8";
    let mut cutter = RowCutter::new(&bytes[..], 0, 0, b',', LIMITS);
    let mut rows = Vec::new();
    let mut marks = Vec::new();
    while let Some(row) = cutter.next().unwrap() {
        rows.push((row.raw.to_vec(), row.line));
        marks.push((cutter.offset(), cutter.lines()));
    }
    assert_eq!(rows.len(), 5);
    for (i, (offset, lines)) in marks.into_iter().enumerate() {
        let rest = &bytes[usize::try_from(offset).unwrap()..];
        let mut cutter = RowCutter::new(rest, offset, lines, b',', LIMITS);
        for expected in &rows[i + 1..] {
            let row = cutter.next().unwrap().unwrap();
            assert_eq!((row.raw, row.line), (expected.0.as_slice(), expected.1));
        }
        assert!(cutter.next().unwrap().is_none());
    }
}

proptest! {
    /// The same cells come out that a plain CSV writer puts in, in whatever pieces the bytes arrive.
    #[test]
    fn rows_read_back_as_written(
        rows in prop::collection::vec(prop::collection::vec("[a-z\",\n\r é]{0,12}", 3), 1..20),
        step in 1_usize..40,
    ) {
        let mut bytes = b"x,y,z\n".to_vec();
        for row in &rows {
            let cells: Vec<String> = row.iter().map(|cell| format!("\"{}\"", cell.replace('"', "\"\""))).collect();
            bytes.extend_from_slice(cells.join(",").as_bytes());
            bytes.push(b'\n');
        }
        let mut cutter = RowCutter::new(Steps(&bytes, step), 0, 0, b',', LIMITS);
        cutter.next().unwrap();
        for row in &rows {
            let read = cutter.next().unwrap().unwrap();
            let cells: Vec<&[u8]> = read.cells().collect();
            prop_assert_eq!(cells, row.iter().map(String::as_bytes).collect::<Vec<_>>());
        }
        prop_assert!(cutter.next().unwrap().is_none());
    }
}

struct Steps<'a>(&'a [u8], usize);

impl Read for Steps<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.1.min(self.0.len()).min(buffer.len());
        buffer[..count].copy_from_slice(&self.0[..count]);
        self.0 = &self.0[count..];
        Ok(count)
    }
}
