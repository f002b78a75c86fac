//! Tables for people and JSON for programs, on stdout. Both are the same on a terminal and in a pipe.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;
use serde_json::Serializer;
use serde_json::ser::Formatter;

use crate::failure::Failure;

/// How wide a table is at most, in characters.
const WIDTH: usize = 80;
const GAP: &str = "  ";
/// No column is made narrower than this to fit the others.
const NARROW: usize = 10;
/// How much of a container's ID is shown: as much as Docker and Podman show.
const SHORT_ID: usize = 12;

/// A table, whose cells are cut where it would be too wide.
#[derive(Debug)]
pub struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<String>>,
    whole: bool,
}

impl Table {
    /// A table with these headings. `whole` cells are not cut.
    pub fn new(head: &[&'static str], whole: bool) -> Self {
        Self { head: head.to_vec(), rows: Vec::new(), whole }
    }

    /// Appends a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| if cell.is_empty() { "-".to_owned() } else { cell }).collect());
    }

    /// A container's ID as this table shows it.
    pub fn id(&self, id: &str) -> String {
        if self.whole { id.to_owned() } else { short(id) }
    }

    /// Prints it. Nothing is printed without a row.
    pub fn print(&self) -> Result<(), Failure> {
        if self.rows.is_empty() { Ok(()) } else { print(self.text().as_bytes()) }
    }

    fn text(&self) -> String {
        let head: Vec<String> = self.head.iter().map(|&name| name.to_owned()).collect();
        let widths = self.widths(&head);
        let mut text = String::new();
        for row in std::iter::once(&head).chain(&self.rows) {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{:<width$}", cut(cell, *width)));
            text.push_str(cells.collect::<Vec<_>>().join(GAP).trim_end());
            text.push('\n');
        }
        text
    }

    fn widths(&self, head: &[String]) -> Vec<usize> {
        let longest = |at: usize| {
            let cells = std::iter::once(head).chain(self.rows.iter().map(Vec::as_slice));
            cells.filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max().unwrap_or_default()
        };
        let mut widths: Vec<usize> = (0..head.len()).map(longest).collect();
        let gaps = GAP.len() * head.len().saturating_sub(1);
        while !self.whole && widths.iter().sum::<usize>() + gaps > WIDTH {
            let Some(widest) = widths.iter_mut().max().filter(|width| **width > NARROW) else { break };
            *widest -= 1;
        }
        widths
    }
}

fn cut(cell: &str, width: usize) -> String {
    if cell.chars().count() <= width {
        return cell.to_owned();
    }
    let kept: String = cell.chars().take(width.saturating_sub(1)).collect();
    format!("{kept}…")
}

/// The first characters of a container's ID.
pub fn short(id: &str) -> String {
    id.chars().take(SHORT_ID).collect()
}

/// Prints a value as JSON, with a newline.
pub fn json(value: &impl Serialize) -> Result<(), Failure> {
    let mut text = Vec::new();
    value.serialize(&mut Serializer::with_formatter(&mut text, Lines::default()))?;
    text.push(b'\n');
    print(&text)
}

/// What separates the values of a list, and as many spaces as are ever needed.
const SEPARATOR: &[u8] = b",\n                                                                ";

/// A line a value, as serde_json's own `PrettyFormatter`, which needs a write for each two spaces.
#[derive(Default)]
struct Lines {
    depth: usize,
    has_values: bool,
}

impl Lines {
    fn begin<W: ?Sized + Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth += 1;
        self.has_values = false;
        writer.write_all(bracket)
    }

    fn end<W: ?Sized + Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth -= 1;
        if self.has_values {
            self.line(writer, true)?;
        }
        writer.write_all(bracket)
    }

    /// A new line; behind a comma if it isn't the `first`.
    fn line<W: ?Sized + Write>(&self, writer: &mut W, first: bool) -> io::Result<()> {
        let end = SEPARATOR.len().min(2 + 2 * self.depth);
        writer.write_all(&SEPARATOR[usize::from(first)..end])
    }
}

impl Formatter for Lines {
    fn begin_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.begin(writer, b"[")
    }

    fn end_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.end(writer, b"]")
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.line(writer, first)
    }

    fn end_array_value<W: ?Sized + Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.has_values = true;
        Ok(())
    }

    fn begin_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.begin(writer, b"{")
    }

    fn end_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.end(writer, b"}")
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.line(writer, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.has_values = true;
        Ok(())
    }
}

/// Prints to stdout. A reader that has ended, such as `head`, is no failure.
pub fn print(text: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Asks on a terminal; without one, and with `yes`, the answer is yes: the command's name says what it does.
pub fn confirm(question: &str, yes: bool) -> Result<bool, Failure> {
    if yes || !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        return Ok(true);
    }
    print(format!("{question} [y/N] ").as_bytes())?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(answer.trim().eq_ignore_ascii_case("y") || answer.trim().eq_ignore_ascii_case("yes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_written_as_serde_json_writes_it() {
        let value =
            serde_json::json!({"a": [], "b": {}, "c": [1, {"d": "x", "e": [[2], null]}], "f": {"g": {"h": true}}});
        let mut text = Vec::new();
        value.serialize(&mut Serializer::with_formatter(&mut text, Lines::default())).unwrap();
        assert_eq!(String::from_utf8(text).unwrap(), serde_json::to_string_pretty(&value).unwrap());
    }

    #[test]
    fn a_table_fits_and_says_where_it_is_cut() {
        let mut table = Table::new(&["A", "LONGER", "C"], false);
        table.row(["x".to_owned(), "y".repeat(100), String::new()]);
        let text = table.text();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines.iter().all(|line| line.chars().count() <= WIDTH), "{text}");
        assert!(lines[1].ends_with("…  -") && lines[0].starts_with("A  LONGER"), "{text}");
        table.whole = true;
        assert!(table.text().contains(&"y".repeat(100)));
    }
}
